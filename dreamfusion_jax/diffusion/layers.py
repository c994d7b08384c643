"""Layers that the diffusion models share, named and behaving as their PyTorch originals.

A submodule's name is its PyTorch path ("to_out.0"), so that a parameter's path, joined by
dots, is the name of a tensor in a checkpoint (see `weights.py`).
"""

import functools
import itertools
import os
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Dtype = Any
"""The type of a computation, such as `jnp.bfloat16`."""

_gelu = functools.partial(jax.nn.gelu, approximate=False)
ACTIVATIONS = {"silu": jax.nn.silu, "swish": jax.nn.silu, "gelu": _gelu}
"""Activations by their name in a config.json; gelu is the exact one, x Phi(x)."""


class GroupNorm(nn.Module):
    """Group normalization over channels and all positions, always in float32."""

    groups: int
    eps: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B *space C"]) -> Float[Array, "B *space C"]:
        """Normalizes x and casts the result to `dtype`."""
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        groups = x.astype(jnp.float32).reshape(x.shape[0], -1, self.groups, channels // self.groups)
        mean = jnp.mean(groups, axis=(1, 3), keepdims=True)
        variance = jnp.mean(jnp.square(groups - mean), axis=(1, 3), keepdims=True)
        normal = ((groups - mean) * jax.lax.rsqrt(variance + self.eps)).reshape(x.shape)
        axes = (None,) * (x.ndim - 1)
        y = normal * scale.astype(jnp.float32)[axes] + bias.astype(jnp.float32)[axes]
        return y.astype(self.dtype)


class LayerNorm(nn.Module):
    """Layer normalization over the last axis, always in float32."""

    eps: float = 1e-5
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """Normalizes x and casts the result to `dtype`."""
        width = x.shape[-1]
        scale = self.param("scale", nn.initializers.ones, (width,)).astype(jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (width,)).astype(jnp.float32)
        x = x.astype(jnp.float32)
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        axes = (None,) * (x.ndim - 1)
        y = centred * jax.lax.rsqrt(variance + self.eps) * scale[axes] + bias[axes]
        return y.astype(self.dtype)


class RMSNorm(nn.Module):
    """Division by the root mean square over the last axis, always in float32 (1910.07467)."""

    eps: float
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
        """Normalizes x and casts the result to `dtype`."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],)).astype(jnp.float32)
        x = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        axes = (None,) * (x.ndim - 1)
        return (x * jax.lax.rsqrt(mean_square + self.eps) * scale[axes]).astype(self.dtype)


def conv3x3(
    channels: int, name: str, dtype: Dtype, *, stride: int = 1, pad_before: int = 1
) -> nn.Conv:
    """A 3x3 convolution padded by `pad_before` zeros on top and left, 1 at bottom and right."""
    return nn.Conv(
        channels,
        (3, 3),
        (stride, stride),
        2 * [(pad_before, 1)],
        dtype=dtype,
        name=name,
        conv_general_dilated=_convolve,
    )


PRODUCTS_VARIABLE = "DREAMFUSION_JAX_PRODUCTS"
"""Environment variable that says, when a program is traced, which convolutions are products of
matrices: "all", "gradients" (those of kernels) or "small" (those of very small pictures, as usual).
Where the convolutions of a GPU's library are slow, products may be faster."""

_FEW = 16
"""Pixels up to which a convolution is a product of matrices: on a CPU a seventh of the time, where
XLA would turn kernels around that are larger than the picture."""


def _products() -> str:
    """What `PRODUCTS_VARIABLE` says.

    Raises:
        ValueError: Something else.
    """
    asked = os.environ.get(PRODUCTS_VARIABLE, "small")
    if asked not in ("all", "gradients", "small"):
        raise ValueError(f"{PRODUCTS_VARIABLE} must be all, gradients or small, not {asked!r}")
    return asked


def _convolve(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "h w C D"],
    strides: tuple[int, int],
    padding: list[tuple[int, int]],
    **told: Any,
) -> Float[Array, "B H2 W2 D"]:
    """`jax.lax.conv_general_dilated`, as a product where the picture is very small."""
    asked, few = _products(), x.shape[1] * x.shape[2] <= _FEW
    if few or asked == "all":
        seen = (_few_patches if asked == "small" else _patches)(
            x, kernel.shape[:2], strides, padding
        )
        flat = kernel.reshape(-1, kernel.shape[-1])
        return jnp.matmul(seen, flat, precision=told.get("precision"))
    convolve = functools.partial(
        jax.lax.conv_general_dilated, window_strides=strides, padding=padding, **told
    )
    if asked == "gradients":
        patches_of = functools.partial(
            _patches, taps=kernel.shape[:2], strides=strides, padding=padding
        )
        return _with_kernel_gradient_as_product(convolve, patches_of)(x, kernel)
    return convolve(x, kernel)


def _with_kernel_gradient_as_product(
    convolve: Callable[[Array, Array], Array], patches_of: Callable[[Array], Array]
) -> Callable[[Array, Array], Array]:
    """The same convolution; its kernel's gradient is a product with the patches of pictures."""

    def backward(kept: tuple[Array, Array], by: Array) -> tuple[Array, Array]:
        x, kernel = kept
        (x_gradient,) = jax.linear_transpose(lambda x: convolve(x, kernel), x)(by)
        product = jnp.einsum("bhwk,bhwd->kd", patches_of(x), by)
        return x_gradient, product.reshape(kernel.shape)

    convolution = jax.custom_vjp(convolve)
    convolution.defvjp(lambda x, kernel: (convolve(x, kernel), (x, kernel)), backward)
    return convolution


def _patches(
    x: Float[Array, "B H W C"],
    taps: tuple[int, int],
    strides: tuple[int, int],
    padding: list[tuple[int, int]],
) -> Float[Array, "B H2 W2 K"]:
    """What a kernel of `taps` sees at each place, K = all of its pixels' channels."""
    padded = jnp.pad(x, [(0, 0), *padding, (0, 0)])
    height, width = (
        (size - count) // step + 1
        for size, count, step in zip(padded.shape[1:3], taps, strides, strict=True)
    )
    rows, columns = (step * (n - 1) + 1 for n, step in zip((height, width), strides, strict=True))
    seen = [
        padded[:, i : i + rows : strides[0], j : j + columns : strides[1]]
        for i, j in itertools.product(*map(range, taps))
    ]
    return jnp.concatenate(seen, axis=-1)


def _few_patches(
    x: Float[Array, "B H W C"],
    taps: tuple[int, int],
    strides: tuple[int, int],
    padding: list[tuple[int, int]],
) -> Float[Array, "B H2 W2 K"]:
    """The same by a product with zeros and ones, for a CPU and very small pictures.

    A slice for each place of the kernel would be as many programs to compile, and one gather of
    all takes as long as the convolution.
    """
    height, width, channels = x.shape[1:]
    axes = zip((height, width), taps, strides, padding, strict=True)
    rows, columns = itertools.starmap(_taken, axes)
    taken = np.einsum("ihy,jwx->ijhwyx", rows, columns)
    patches = jnp.matmul(
        jnp.asarray(taken.reshape(-1, height * width), x.dtype),
        x.reshape(len(x), height * width, channels),
        precision=jax.lax.Precision.HIGHEST,
    )
    return patches.reshape(len(x), *taken.shape[:2], -1)


def _taken(
    size: int, taps: int, step: int, padding: tuple[int, int]
) -> Float[np.ndarray, "out {taps} {size}"]:
    """Which positions along an axis each place of a kernel reads, as ones: [out, taps, in]."""
    first = np.arange(0, size + sum(padding) - taps + 1, step) - padding[0]
    read = first[:, None] + np.arange(taps)
    return (read[..., None] == np.arange(size)).astype(np.float32)


def conv1x1(channels: int, name: str, dtype: Dtype) -> nn.Conv:
    """A convolution that mixes channels only."""
    return nn.Conv(channels, (1, 1), dtype=dtype, name=name, conv_general_dilated=_mix)


def _mix(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "1 1 C D"],
    strides: tuple[int, int],
    padding: Any,
    **told: Any,
) -> Float[Array, "B H W D"]:
    """`jax.lax.conv_general_dilated`, as a product where that is asked for."""
    if _products() == "small":
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **told)
    return jnp.matmul(x, kernel[0, 0], precision=told.get("precision"))


def upsample_nearest(x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C"]:
    """Doubles height and width by repeating pixels."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)


def downsample_mean(x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C"]:
    """Halves height and width by averaging 2x2 pixels."""
    batch, height, width, channels = x.shape
    return jnp.mean(x.reshape(batch, height // 2, 2, width // 2, 2, channels), axis=(2, 4))

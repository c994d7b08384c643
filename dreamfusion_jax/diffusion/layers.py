"""Layers that the diffusion models share, named and behaving as their PyTorch originals.

A submodule's name is its PyTorch path ("to_out.0"), so that a parameter's path, joined by
dots, is the name of a tensor in a checkpoint (see `weights.py`).
"""

import functools
import itertools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

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


_FEW = 16
"""Pixels up to which a convolution is a product of matrices: on a CPU a seventh of the time, where
XLA would turn kernels around that are larger than the picture."""


def _convolve(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "h w C D"],
    strides: tuple[int, int],
    padding: list[tuple[int, int]],
    **told: Any,
) -> Float[Array, "B H2 W2 D"]:
    """`jax.lax.conv_general_dilated`, as a product where the picture is very small."""
    if x.shape[1] * x.shape[2] > _FEW:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **told)
    height, width, channels = x.shape[1:]
    axes = zip((height, width), kernel.shape[:2], strides, padding, strict=True)
    rows, columns = itertools.starmap(_taken, axes)
    # Patches by a product with zeros and ones: a slice for each place of the kernel would be as
    # many programs to compile, and one gather of all takes as long as the convolution.
    taken = np.einsum("ihy,jwx->ijhwyx", rows, columns)
    patches = jnp.matmul(
        jnp.asarray(taken.reshape(-1, height * width), x.dtype),
        x.reshape(len(x), height * width, channels),
        precision=jax.lax.Precision.HIGHEST,
    )
    patches = patches.reshape(len(x), *taken.shape[:2], -1)
    return jnp.matmul(
        patches, kernel.reshape(-1, kernel.shape[-1]), precision=told.get("precision")
    )


def _taken(
    size: int, taps: int, step: int, padding: tuple[int, int]
) -> Float[np.ndarray, "out {taps} {size}"]:
    """Which positions along an axis each place of a kernel reads, as ones: [out, taps, in]."""
    first = np.arange(0, size + sum(padding) - taps + 1, step) - padding[0]
    read = first[:, None] + np.arange(taps)
    return (read[..., None] == np.arange(size)).astype(np.float32)


def conv1x1(channels: int, name: str, dtype: Dtype) -> nn.Conv:
    """A convolution that mixes channels only."""
    return nn.Conv(channels, (1, 1), dtype=dtype, name=name)


def upsample_nearest(x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C"]:
    """Doubles height and width by repeating pixels."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)


def downsample_mean(x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C"]:
    """Halves height and width by averaging 2x2 pixels."""
    batch, height, width, channels = x.shape
    return jnp.mean(x.reshape(batch, height // 2, 2, width // 2, 2, channels), axis=(2, 4))


_SMALL_VOCABULARY = 1024
"""Tokens up to which an embedding is a product with ones."""


class Embedding(nn.Module):
    """A table's rows, looked up so that the gradient of the table is a product or a sum.

    That of a lookup adds one row after another, in half precision with eight bits, and most of
    a batch's tokens are the same one.
    """

    size: int
    width: int
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        """The table."""
        initializer = nn.initializers.normal(0.02)
        self.embedding = self.param("embedding", initializer, (self.size, self.width))

    def __call__(self, ids: Int[Array, "B N"]) -> Float[Array, "B N D"]:
        """The rows of the tokens."""
        table = self.embedding.astype(self.dtype)
        if self.size > _SMALL_VOCABULARY:
            return jnp.take(table, ids, axis=0)
        ones = jax.nn.one_hot(ids, self.size, dtype=self.dtype)
        return jnp.matmul(ones, table, precision=jax.lax.Precision.HIGHEST)

    def first(self, count: int) -> Float[Array, "1 {count} D"]:
        """The first rows."""
        return self.embedding[None, :count].astype(self.dtype)

"""Attention and the transformer that sits inside a UNet block."""

import functools
import os
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dreamfusion_jax.devices import is_nvidia
from dreamfusion_jax.diffusion.layers import ACTIVATIONS, Dtype, GroupNorm, LayerNorm, conv1x1

ATTENTION_VARIABLE = "DREAMFUSION_JAX_ATTENTION"

_FEW, _MOST = 2**18, 2**21
"""Logits of a head: from so many on a CPU takes a head at a time, and at most so many at once."""


def attend(
    query: Float[Array, "B N C"],
    key: Float[Array, "B M C"],
    value: Float[Array, "B M C"],
    *,
    heads: int,
    causal: bool = False,
    mask: Bool[Array, "B M"] | None = None,
    bias: Float[Array, "1 {heads} N M"] | None = None,
    scale: float | None = None,
) -> Float[Array, "B N C"]:
    """softmax(scale query key^T + bias) value, for each of `heads` equal parts of the channels.

    The default scale is 1 / sqrt(C / heads). `mask` is true for keys that may be attended to.
    Logits and softmax are float32 whatever the inputs' type.
    """
    dtype = query.dtype
    # T5 and CLIP may be placed on the host beside a GPU, by `jax.default_device`.
    device = jax.config.jax_default_device or jax.devices()[0]  # pyright: ignore[reportAttributeAccessIssue]
    if dtype == jnp.float16 and device.platform == "cpu":
        # XLA has no product of float16 with sums of float32 there; products of such are exact.
        query, key, value = (x.astype(jnp.float32) for x in (query, key, value))
    query, key, value = (x.reshape(*x.shape[:2], heads, -1) for x in (query, key, value))
    plain = mask is None and bias is None
    if plain and not causal and device.platform == "cpu" and query.shape[1] * key.shape[1] >= _FEW:
        y = attend_in_pieces(query, key, value, scale=scale)
        return y.reshape(*y.shape[:2], -1).astype(dtype)
    implementation = attention_implementation(query.dtype, query.shape[-1], plain, device)
    # JAX's function promotes half precision to float32 implicitly, which strict mode forbids.
    with jax.numpy_dtype_promotion("standard"):
        y = jax.nn.dot_product_attention(
            query,
            key,
            value,
            bias=bias,
            mask=None if mask is None else mask[:, None, None],
            scale=scale,
            is_causal=causal,
            implementation=implementation,
        )
    return y.reshape(*y.shape[:2], -1).astype(dtype)


def attend_in_pieces(
    query: Float[Array, "B N H D"],
    key: Float[Array, "B M H D"],
    value: Float[Array, "B M H D"],
    *,
    scale: float | None = None,
    most: int = _MOST,
) -> Float[Array, "B N H D"]:
    """Attention one head and at most so many logits at a time, which stay in a CPU's cache.

    At 64 x 64 pixels, 4,096 queries and keys, it takes a fifth of the time (docs/performance.md).

    Args:
        query: All of them.
        key: All of them.
        value: All of them.
        scale: See `attend`.
        most: Logits.
    """
    batch, count, heads, width = query.shape
    factor = width**-0.5 if scale is None else scale
    # As few as divide the queries evenly; one query a piece is always a way.
    fits = (n for n in range(1, count) if count % n == 0 and count // n * key.shape[1] <= most)
    pieces = next(fits, count)

    def one(head: tuple[Array, Array, Array]) -> Array:
        queries, keys, values = head

        def some(queries: Array) -> Array:
            logits = jnp.matmul(queries, keys.T, preferred_element_type=jnp.float32)
            weights = jax.nn.softmax(factor * logits, axis=-1).astype(values.dtype)
            return jnp.matmul(weights, values, preferred_element_type=jnp.float32)

        return jax.lax.map(some, queries.reshape(pieces, -1, width)).reshape(count, width)

    apart = (x.swapaxes(1, 2).reshape(batch * heads, -1, width) for x in (query, key, value))
    y = jax.lax.map(one, tuple(apart)).astype(query.dtype)
    return y.reshape(batch, heads, count, width).swapaxes(1, 2)


def attention_implementation(
    dtype: Dtype, head_dim: int, plain: bool, device: Any
) -> Literal["cudnn", "xla"]:
    """Which implementation of `jax.nn.dot_product_attention` serves these inputs and device.

    cuDNN's fused attention takes half precision and head widths that are multiples of 8 up
    to 128, on NVIDIA GPUs of compute capability 8.0 (A100) or later; it is used where there
    is neither mask nor bias (`plain`). Everything else goes to XLA.

    The environment variable DREAMFUSION_JAX_ATTENTION, "xla" or "cudnn", decides for the inputs
    that cuDNN takes, whatever the device.

    Raises:
        ValueError: The variable is something else.
    """
    asked = os.environ.get(ATTENTION_VARIABLE)
    if asked not in (None, "xla", "cudnn"):
        raise ValueError(f"{ATTENTION_VARIABLE} must be xla or cudnn, not {asked!r}")
    half = jnp.dtype(dtype) in (jnp.float16, jnp.bfloat16)
    if not (half and plain and head_dim % 8 == 0 and head_dim <= 128):
        return "xla"
    if asked is not None:
        return asked
    return "cudnn" if is_nvidia(device) and float(device.compute_capability) >= 8.0 else "xla"


class Attention(nn.Module):
    """Multi-head attention of x to `context` without biases on query, key and value."""

    heads: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N C"], context: Float[Array, "B M E"]
    ) -> Float[Array, "B N C"]:
        """Attends from x to context (x itself for self-attention)."""
        dense = functools.partial(nn.Dense, x.shape[-1], dtype=self.dtype)
        query = dense(use_bias=False, name="to_q")(x)
        key = dense(use_bias=False, name="to_k")(context)
        value = dense(use_bias=False, name="to_v")(context)
        return dense(name="to_out.0")(attend(query, key, value, heads=self.heads))


class TransformerBlock(nn.Module):
    """Self-attention, attention to the text, gated feed-forward; each normalized and added.

    The self-attention is that of `views` neighbours in the batch together (MVDream, 2308.16512,
    section 3.1); of 1, each pixel attends to its own picture alone.
    """

    heads: int
    dtype: Dtype = jnp.float32
    views: int = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N C"], text: Float[Array, "B M E"]
    ) -> Float[Array, "B N C"]:
        """One transformer layer over the pixels x."""
        y = LayerNorm(dtype=self.dtype, name="norm1")(x)
        y = y.reshape(-1, self.views * y.shape[1], y.shape[2])
        x = x + Attention(self.heads, self.dtype, name="attn1")(y, y).reshape(x.shape)
        y = LayerNorm(dtype=self.dtype, name="norm2")(x)
        x = x + Attention(self.heads, self.dtype, name="attn2")(y, text)
        y = LayerNorm(dtype=self.dtype, name="norm3")(x)
        return x + self._feed_forward(y)

    def _feed_forward(self, x: Float[Array, "B N C"]) -> Float[Array, "B N C"]:
        # GEGLU (2002.05202): (x W) * gelu(x V), the two products in one matrix.
        channels = x.shape[-1]
        y = nn.Dense(8 * channels, dtype=self.dtype, name="ff.net.0.proj")(x)
        value, gate = jnp.split(y, 2, axis=-1)
        y = value * ACTIVATIONS["gelu"](gate)
        return nn.Dense(channels, dtype=self.dtype, name="ff.net.2")(y)


class Transformer(nn.Module):
    """Transformer layers over the pixels of a feature map, added to it.

    `linear_projection` only changes how a checkpoint stores the projections in and out:
    as matrices (SD 2.x) or as 1x1 convolutions (SD 1.x). `views`: see `TransformerBlock`.
    """

    heads: int
    depth: int
    groups: int
    linear_projection: bool
    dtype: Dtype = jnp.float32
    views: int = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], text: Float[Array, "B M E"]
    ) -> Float[Array, "B H W C"]:
        """Lets every pixel of x attend to all others and to the text."""
        channels = x.shape[-1]

        def project(name: str) -> nn.Module:
            if self.linear_projection:
                return nn.Dense(channels, dtype=self.dtype, name=name)
            return conv1x1(channels, name, self.dtype)

        y = GroupNorm(self.groups, 1e-6, self.dtype, name="norm")(x)
        y = project("proj_in")(y).reshape(x.shape[0], -1, channels)
        for i in range(self.depth):
            name = f"transformer_blocks.{i}"
            y = TransformerBlock(self.heads, self.dtype, self.views, name=name)(y, text)
        return x + project("proj_out")(y.reshape(x.shape))


class SpatialAttention(nn.Module):
    """Attention of the pixels to each other, and at once to a text if given, added to them.

    With text, as in DeepFloyd IF, its keys and values come from projections of their own,
    and come first. Without, it is the attention of the VAE.
    """

    heads: int
    groups: int
    eps: float
    norm_text: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], text: Float[Array, "B M E"] | None = None
    ) -> Float[Array, "B H W C"]:
        """Lets every pixel of x attend to the text and to all pixels."""
        batch, channels = x.shape[0], x.shape[-1]
        y = GroupNorm(self.groups, self.eps, self.dtype, name="group_norm")(x)
        y = y.reshape(batch, -1, channels)
        dense = functools.partial(nn.Dense, channels, dtype=self.dtype)
        query, key, value = (dense(name=f"to_{name}")(y) for name in "qkv")
        if text is not None:
            if self.norm_text:
                text = GroupNorm(32, 1e-5, self.dtype, name="norm_cross")(text)
            key = jnp.concatenate([dense(name="add_k_proj")(text), key], axis=1)
            value = jnp.concatenate([dense(name="add_v_proj")(text), value], axis=1)
        y = dense(name="to_out.0")(attend(query, key, value, heads=self.heads))
        return x + y.reshape(x.shape)

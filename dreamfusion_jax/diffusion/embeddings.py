"""What conditions every residual block: the time, and optionally the pooled text."""

import functools
import math

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from dreamfusion_jax.diffusion.attention import attend
from dreamfusion_jax.diffusion.layers import ACTIVATIONS, Dtype, LayerNorm


def timestep_features(
    timesteps: Float[Array, "B"], width: int, *, flip_sin_to_cos: bool, freq_shift: float
) -> Float[Array, "B {width}"]:
    """Sines and cosines of t at frequencies 10000^(-i / (width/2 - freq_shift)), float32.

    Sines come first, or cosines if `flip_sin_to_cos`. Denoising Diffusion Probabilistic
    Models (2006.11239), after Attention Is All You Need.
    """
    half = width // 2
    exponents = jnp.arange(half, dtype=jnp.float32) / (half - freq_shift)
    angles = timesteps.astype(jnp.float32)[:, None] * jnp.exp(-math.log(10_000) * exponents)[None]
    parts = [jnp.sin(angles), jnp.cos(angles)]
    return jnp.concatenate(parts[::-1] if flip_sin_to_cos else parts, axis=-1)


class TimestepEmbedding(nn.Module):
    """Two dense layers on the features of the time."""

    width: int
    act: str
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "B F"]) -> Float[Array, "B D"]:
        """Embeds the features of `timestep_features`."""
        y = nn.Dense(self.width, dtype=self.dtype, name="linear_1")(features)
        return nn.Dense(self.width, dtype=self.dtype, name="linear_2")(ACTIVATIONS[self.act](y))


class AttentionPooling(nn.Module):
    """One vector for a text: attention of its mean (plus a learned offset) to its tokens."""

    heads: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B N D"]) -> Float[Array, "B D"]:
        """Pools the tokens x; the mean itself is one of the tokens attended to."""
        width = x.shape[-1]
        offset = self.param("positional_embedding", nn.initializers.normal(width**-0.5), (1, width))
        query = jnp.mean(x, axis=1, keepdims=True) + offset.astype(x.dtype)[None]
        tokens = jnp.concatenate([query, x], axis=1)
        dense = functools.partial(nn.Dense, width, dtype=self.dtype)
        query = dense(name="q_proj")(query)
        key, value = dense(name="k_proj")(tokens), dense(name="v_proj")(tokens)
        return attend(query, key, value, heads=self.heads)[:, 0]


class TextTimeEmbedding(nn.Module):
    """The pooled text as a vector that is added to the embedding of the time."""

    heads: int
    width: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, text: Float[Array, "B N D"]) -> Float[Array, "B F"]:
        """Pools and projects the text states."""
        y = LayerNorm(dtype=self.dtype, name="norm1")(text)
        y = AttentionPooling(self.heads, self.dtype, name="pool")(y)
        y = nn.Dense(self.width, dtype=self.dtype, name="proj")(y)
        return LayerNorm(dtype=self.dtype, name="norm2")(y)

"""Numerically safe versions of a few functions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_LARGEST_EXPONENT = 80.0
"""exp(80) = 5.5e34 is finite in float32; exp(89) is not."""


@jax.custom_jvp
def safe_exp(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """exp(x) for x up to 80, constant above, with the derivative of what it returns.

    The derivative at a clipped input is the clipped value, not zero, so that an
    exploding density is still pushed back by its gradient.
    """
    return jnp.exp(jnp.minimum(x, _LARGEST_EXPONENT))


@safe_exp.defjvp
def _safe_exp_jvp(primals, tangents):
    y = safe_exp(primals[0])
    return y, y * tangents[0]


def safe_norm(x: Float[Array, "*shape 3"], epsilon: float = 1e-12) -> Float[Array, "*shape 1"]:
    """Euclidean norm over the last axis with a finite gradient (zero) at the origin."""
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    tiny = squared < epsilon**2
    return jnp.where(tiny, 0.0, jnp.sqrt(jnp.where(tiny, 1.0, squared)))


def safe_normalize(x: Float[Array, "*shape 3"], epsilon: float = 1e-12) -> Float[Array, "*shape 3"]:
    """X / |x| over the last axis; the zero vector, with zero gradient, where |x| vanishes."""
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    tiny = squared < epsilon**2
    return jnp.where(tiny, 0.0, x * jax.lax.rsqrt(jnp.where(tiny, 1.0, squared)))

"""Numerically safe versions of a few functions."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

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


@functools.partial(jax.jit, inline=True)
def safe_norm(x: Float[Array, "*shape 3"]) -> Float[Array, "*shape 1"]:
    """Euclidean norm over the last axis with a finite gradient (zero) at the origin.

    Value and gradient are right from 1e-30 to 1e30.
    """
    zero, scaled, scale = _rescale(x)
    squared = jnp.sum(scaled * scaled, axis=-1, keepdims=True)
    return jnp.where(zero, 0.0, jnp.sqrt(squared) / scale)


@functools.partial(jax.jit, inline=True)
def safe_normalize(x: Float[Array, "*shape 3"]) -> Float[Array, "*shape 3"]:
    """X / |x| over the last axis; the zero vector, with zero gradient, where |x| vanishes.

    Value and gradient are right from 1e-30 to 1e30.
    """
    zero, scaled, _ = _rescale(x)
    squared = jnp.sum(scaled * scaled, axis=-1, keepdims=True)
    return jnp.where(zero, 0.0, scaled * jax.lax.rsqrt(squared))


def _rescale(
    x: Float[Array, "*shape 3"],
) -> tuple[Bool[Array, "*shape 1"], Float[Array, "*shape 3"], Float[Array, "*shape 1"]]:
    """Whether x vanishes; x times a power of two; and that power.

    With it |x|^3, which the gradients hold, is in range. A power of two changes no digit, and
    for ordinary lengths it is 1. Where x vanishes, ones stand for it: of constants XLA makes
    (x s)^2 = x^2 s^2, and would multiply zero by an infinite s^2.
    """
    zero = jnp.max(jnp.abs(x), axis=-1, keepdims=True) < 2.0**-101
    x = jnp.where(zero, 1.0, x)
    squared = jax.lax.stop_gradient(jnp.sum(x * x, axis=-1, keepdims=True))
    # The square of an extreme length may be 0 or infinite, and is found all the same.
    scale = jnp.where(squared < 2.0**-80, 2.0**80, jnp.where(squared > 2.0**80, 2.0**-80, 1.0))
    return zero, x * scale, scale


def expand_to(x: Shaped[Array, "*shape"], ndim: int, *, tail: int = 0) -> Shaped[Array, "..."]:
    """Inserts axes of length 1, so that leading axes meet those of an array of `ndim` axes.

    Args:
        x: [*lead, *tail].
        ndim: How many axes the result has.
        tail: How many of the last axes of x stay last.
    """
    lead = x.ndim - tail
    return x.reshape(*x.shape[:lead], *(1,) * (ndim - x.ndim), *x.shape[lead:])


def to_symmetric(pixels: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """From [0, 1], the range of pictures here, to [-1, 1], that of pixel diffusion models."""
    return 2.0 * pixels - 1.0


def from_symmetric(pixels: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """From [-1, 1] to [0, 1]: the inverse of `to_symmetric`."""
    return 0.5 * pixels + 0.5

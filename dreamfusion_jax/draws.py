"""JAX's random numbers, the same to the bit, in a form that compiles sooner.

On a CPU each call of JAX's generator is a loop of a dozen small programs, and XLA unrolls its short
inner axes: the noise of four pictures of 16 x 16 x 12 took a third of the time in which a training
step compiled. So numbers are drawn in a row, and those of several keys in one go. (Written out
without its loop, the generator is fused into everything that follows, and compiles no sooner.)
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

_LEAST = float(np.nextafter(np.float32(-1.0), np.float32(0.0)))
"""Where `jax.random.normal` begins, so that it is finite."""


def uniform(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """`jax.random.uniform` in [0, 1), drawn in a row."""
    return jax.random.uniform(key, (math.prod(shape),)).reshape(shape)


def normal(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """`jax.random.normal`, drawn in a row."""
    return jax.random.normal(key, (math.prod(shape),)).reshape(shape)


def rows(keys: Key[Array, "K"], width: int) -> Float[Array, "K {width}"]:
    """Numbers of several keys in one go, uniform in [0, 1).

    What `jax.random.uniform` draws with a key are the first numbers of its row, and `between` and
    `gaussian` make of them what `jax.random.uniform` and `jax.random.normal` do.
    """
    return jax.vmap(lambda key: jax.random.uniform(key, (width,)))(keys)


def between(
    number: Float[Array, "*shape"], low: float | Array, high: float | Array
) -> Float[Array, "*shape"]:
    """Uniform in [low, high), of numbers in [0, 1)."""
    return jnp.maximum(low, number * (high - low) + low)


def gaussian(number: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """From N(0, 1), of numbers in [0, 1)."""
    return math.sqrt(2.0) * jax.lax.erf_inv(between(number, _LEAST, 1.0))

"""The names of views, by which a prompt follows the camera. Angles are in radians."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

VIEWS = ("front view", "side view", "back view", "overhead view")
"""The view names of DreamFusion, section 3.2; `view_index` counts in this order."""

OCTANTS = (
    "front view",
    "front left view",
    "left view",
    "back left view",
    "back view",
    "back right view",
    "right view",
    "front right view",
)
"""Finer names, by azimuth in eighths of a turn; "left" is the object's own left, +y.

Departure: DreamFusion has four names; with eight, a prior need not guess which side it sees.
"""

HEIGHTS = ("seen from below", "at eye level", "seen from above")
"""Names of elevations below 0, up to 30, and over 30 degrees; `height_index` counts so.

Departure: without them a prior takes a shape from above for one from the side.
"""

FRAMINGS = ("long shot", "medium shot", "close up")
"""Names of apparent sizes, by focal length over distance; `framing_index` counts so.

Departure: under wide cameras apparent size does not tell a prior the real size.
"""

_EYE_LEVEL = (0.0, jnp.pi / 6)
_MEDIUM_SHOT = (0.74, 1.02)
"""All but a few of the embedded prior's narrow cameras (`toybox.bank`) lie between these."""
_OVERHEAD = jnp.pi / 3
_OVERHEAD_BLEND = (jnp.pi / 4, 5 * jnp.pi / 12)


@functools.partial(jax.jit, inline=True)
def view_index(
    azimuth: Float[Array, "*batch"], elevation: Float[Array, "*batch"]
) -> Int[Array, "*batch"]:
    """Index into `VIEWS` (DreamFusion, section 3.2).

    Overhead above 60 degrees; else front within 45 degrees of azimuth 0, back within 45
    degrees of 180, and side between.
    """
    turn = _turn(azimuth)
    around = jnp.where(turn <= jnp.pi / 4, 0, jnp.where(turn < 3 * jnp.pi / 4, 1, 2))
    return jnp.where(elevation > _OVERHEAD, 3, around)


@functools.partial(jax.jit, inline=True)
def octant_index(azimuth: Float[Array, "*batch"]) -> Int[Array, "*batch"]:
    """Index into `OCTANTS` of the nearest one."""
    return jnp.round(azimuth / (jnp.pi / 4)).astype(jnp.int32) % 8


def height_index(elevation: Float[Array, "*batch"]) -> Int[Array, "*batch"]:
    """Index into `HEIGHTS`."""
    low, high = _EYE_LEVEL
    return (elevation >= low).astype(jnp.int32) + (elevation > high).astype(jnp.int32)


def framing_index(size: Float[Array, "*batch"]) -> Int[Array, "*batch"]:
    """Index into `FRAMINGS` for an apparent size: focal length over distance to the origin."""
    low, high = _MEDIUM_SHOT
    return (size >= low).astype(jnp.int32) + (size > high).astype(jnp.int32)


@functools.partial(jax.jit, inline=True)
def view_weights(
    azimuth: Float[Array, "*batch"], elevation: Float[Array, "*batch"]
) -> Float[Array, "*batch 4"]:
    """Weights of the four `VIEWS`, for interpolated text embeddings; they sum to 1.

    Piecewise linear in azimuth between front (0 degrees), side (90 and 270) and back
    (180). Overhead takes over linearly from 45 to 75 degrees of elevation, and so has
    half the weight at 60 degrees, where `view_index` changes.
    """
    quarter = _turn(azimuth) / (jnp.pi / 2)
    front, back = jnp.maximum(1 - quarter, 0.0), jnp.maximum(quarter - 1, 0.0)
    low, high = _OVERHEAD_BLEND
    overhead = jnp.clip((elevation - low) / (high - low), 0.0, 1.0)
    around = jnp.stack([front, 1 - front - back, back], axis=-1)
    return jnp.concatenate([(1 - overhead)[..., None] * around, overhead[..., None]], axis=-1)


@functools.partial(jax.jit, inline=True)
def front_side_weights(
    azimuth: Float[Array, "*batch"], elevation: Float[Array, "*batch"]
) -> Float[Array, "*batch 2"]:
    """How much a view should lead away from the front and from the side (2304.04968, section 4).

    The weights fall exponentially, a exp(-r / 2) + c, towards the views that they are meant to
    spare: both are 0 where their own view is the right one, the front's grows up to the back.
    The numbers are threestudio's. Overhead takes over as in `view_weights`.
    """
    quarter = _turn(azimuth) / (jnp.pi / 2)
    to_front, to_side = jnp.clip(1 - quarter, 0.0, 1.0), jnp.clip(2 - quarter, 0.0, 1.0)
    ahead = quarter < 1
    front = jnp.where(ahead, 4 * jnp.exp(-to_front / 2) - 2.426, jnp.exp(-to_side / 2) + 0.967)
    near = 4 * jnp.exp(-(1 - to_front) / 2) - 2.426
    side = jnp.where(ahead, near, jnp.exp(-to_side / 2) - 0.606)
    overhead = view_weights(azimuth, elevation)[..., 3:]
    return (1 - overhead) * jnp.stack([front, side], axis=-1)


def _turn(azimuth: Float[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Angle from the front in [0, pi], the same to the left and to the right."""
    return jnp.abs(jnp.arctan2(jnp.sin(azimuth), jnp.cos(azimuth)))

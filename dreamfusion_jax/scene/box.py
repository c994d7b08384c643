"""The part of a scene that holds something: a box, which pictures are drawn within.

It stands for the occupancy grid of Instant-NGP (2201.05989, appendix C), of which a picture of one
object needs little more. Training asks everywhere, so that new things can grow.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from dreamfusion_jax.maths import expand_to
from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.scene.camera import Rays
from dreamfusion_jax.scene.fields.pieces import in_pieces
from dreamfusion_jax.scene.fields.protocol import Field, Params

_VERTICES = 48
"""Along each axis of the cube in which something is looked for."""

_LEAST = 0.01
"""Density, per world unit, below which nothing is to be seen: a hundredth of the light at most."""


@pytree
class Box:
    """An axis-parallel box; nothing is in it where `low` is above `high`.

    Attributes:
        low: Its lowest corner, world units.
        high: Its highest corner, world units.
    """

    low: Float[Array, "3"]
    high: Float[Array, "3"]


def filled_box(field: Field, params: Params, variance: Float[Array, ""], radius: float) -> Box:
    """The smallest box around all that is dense, and one cell more to each side.

    Departure: it is found on the vertices of a grid, so that a speck between them may be missed.

    Args:
        field: What is asked.
        params: Its parameters.
        variance: lambda_Sigma, the blur of the queries.
        radius: Half the side of the cube that is looked through, world units.
    """
    line = jnp.linspace(-radius, radius, _VERTICES)
    places = jnp.stack(jnp.meshgrid(line, line, line, indexing="ij"), axis=-1)
    spread = jnp.broadcast_to(variance, places.shape[:-1])
    density, _ = in_pieces(lambda x, v: field(params, x, v), places, spread, field.piece)
    filled = density > _LEAST
    cell = 2.0 * radius / (_VERTICES - 1)
    low, high = [], []
    for axis in range(3):
        along = jnp.any(filled, axis=tuple(other for other in range(3) if other != axis))
        low.append(jnp.min(jnp.where(along, line, jnp.inf)) - cell)
        high.append(jnp.max(jnp.where(along, line, -jnp.inf)) + cell)
    return Box(jnp.stack(low), jnp.stack(high))


def box_bounds(rays: Rays, box: Box) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Distances at which rays enter and leave a box; near >= far where they miss it."""
    # A direction of exactly 0 along an axis would make 0 / 0 on the box's own planes.
    tiny = jnp.where(rays.direction < 0, -1e-12, 1e-12)
    slope = jnp.where(jnp.abs(rays.direction) < 1e-12, tiny, rays.direction)
    ndim = slope.ndim
    one, other = (
        (expand_to(side, ndim, tail=1) - rays.origin) / slope for side in (box.low, box.high)
    )
    near = jnp.max(jnp.minimum(one, other), axis=-1)
    far = jnp.min(jnp.maximum(one, other), axis=-1)
    # An empty box, turned over, would look like a full one.
    return near, jnp.where(jnp.all(box.low <= box.high), far, -jnp.inf)

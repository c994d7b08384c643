"""The part of a scene that holds something: a box, which pictures are drawn within.

It stands for the occupancy grid of Instant-NGP (2201.05989, appendix C), of which a picture of one
object needs little more. Training asks everywhere, so that new things can grow.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

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
    return box_around(density > _LEAST, radius)


def box_around(filled: Bool[Array, "N N N"], radius: float) -> Box:
    """The smallest box around vertices of a cube, and one cell more to each side.

    Args:
        filled: Which of the cube's vertices hold something.
        radius: Half the cube's side, world units.
    """
    vertices = filled.shape[0]
    line = jnp.linspace(-radius, radius, vertices)
    cell = 2.0 * radius / (vertices - 1)
    low, high = [], []
    for axis in range(3):
        along = jnp.any(filled, axis=tuple(other for other in range(3) if other != axis))
        low.append(jnp.min(jnp.where(along, line, jnp.inf)) - cell)
        high.append(jnp.max(jnp.where(along, line, -jnp.inf)) + cell)
    return Box(jnp.stack(low), jnp.stack(high))


def box_bounds(rays: Rays, box: Box) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Distances, from 0 on, at which rays enter and leave a box; near >= far where they miss it."""
    slope = jnp.where(jnp.abs(rays.direction) < 1e-9, 1e-9, rays.direction)
    one, other = (
        (expand_to(side, slope.ndim, tail=1) - rays.origin) / slope for side in (box.low, box.high)
    )
    near = jnp.max(jnp.minimum(one, other), axis=-1)
    far = jnp.min(jnp.maximum(one, other), axis=-1)
    # An empty box, turned over, would look like a full one.
    return jnp.maximum(near, 0.0), jnp.where(jnp.all(box.low <= box.high), far, -jnp.inf)

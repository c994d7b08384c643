"""A scene as a dense grid: a picture of it takes a small part of the field's own time."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from dreamfusion_jax.maths import safe_normalize
from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.runs.trained_scene import TrainedScene
from dreamfusion_jax.scene.box import Box, box_around, box_bounds
from dreamfusion_jax.scene.camera import Rays
from dreamfusion_jax.scene.lighting import Lighting, lambertian
from dreamfusion_jax.viewer.seen import Seen

RESOLUTION = 64
"""Vertices along each side."""

_CHUNK = 65_536
_INTERVALS = 48
_FAINT = 1e-3
"""Optical depth of a voxel that is called empty: a line of 64 of them is 6 % opaque."""


@pytree
class Baked:
    """Values at the R x R x R vertices of a cube around the origin, which lookups interpolate.

    Attributes:
        log_density: Of the density per world unit: fields are exponentials of smooth functions.
        surface: Colour and unit normal.
        box: Around all that is not empty.
        radius: Half the side of the cube.
    """

    log_density: Float[Array, "rows"]
    surface: Float[Array, "rows 6"]
    box: Box
    radius: Float[Array, ""]


def bake(scene: TrainedScene, resolution: int = RESOLUTION) -> Baked:
    """Asks the field at every vertex.

    A latent scene gets the colours of `TrainedScene.mesh`, an affine map of its latents.

    Args:
        scene: What to bake.
        resolution: Vertices along each side.

    Raises:
        ValueError: A latent scene without a decoder.
    """
    radius = scene.model.sampling.radius
    axis = np.linspace(-radius, radius, resolution, dtype=np.float32)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    ask = scene.query()
    chunks = [ask(jnp.asarray(part)) for part in _chunks(points)]
    density, colour = (
        np.concatenate([np.asarray(chunk[at]) for chunk in chunks])[: len(points)] for at in (0, 1)
    )
    inside = np.sum(points**2, axis=-1) <= radius**2
    log_density = np.log(np.maximum(np.where(inside, density, 0.0), 1e-6))
    slopes = np.gradient(log_density.reshape((resolution,) * 3))
    normal = -np.stack(slopes, axis=-1).reshape(-1, 3)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-6)
    voxel = 2 * radius / (resolution - 1)
    filled = ((density * voxel > _FAINT) & inside).reshape((resolution,) * 3)
    return Baked(
        log_density=jnp.asarray(log_density),
        surface=jnp.asarray(np.concatenate([colour, normal], axis=-1), jnp.float32),
        box=box_around(jnp.asarray(filled), radius),
        radius=jnp.asarray(radius, jnp.float32),
    )


def _chunks(points: np.ndarray) -> list[np.ndarray]:
    """Parts of one size, so that a jitted function is compiled once; the last is padded."""
    size = min(_CHUNK, len(points))
    padded = np.pad(points, ((0, -len(points) % size), (0, 0)))
    return np.split(padded, len(padded) // size)


@jax.jit
def hits(baked: Baked, rays: Rays) -> Bool[Array, "*batch"]:
    """Which rays meet the box of what is not empty."""
    near, far = box_bounds(rays, baked.box)
    return far > near


@jax.jit
def march(baked: Baked, rays: Rays, lighting: Lighting) -> Seen:
    """What rays [N] see. Colour and normal are those of the expected depth, not blended.

    Args:
        baked: The scene.
        rays: Those that miss the box see nothing.
        lighting: One light.
    """
    near, far = box_bounds(rays, baked.box)
    step = jnp.maximum(far - near, 0.0) / _INTERVALS

    def advance(number: Array, sums: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        clear, opacity, depth = sums
        middle = near + step * (number.astype(jnp.float32) + 0.5)
        density = jnp.exp(_look_up(baked.log_density[:, None], _points(rays, middle), baked)[:, 0])
        passed = clear * jnp.exp(-density * step)
        weight = clear - passed
        return passed, opacity + weight, depth + weight * middle

    # One interval after the other: on a CPU half the time of all at once.
    zero = jnp.zeros_like(near)
    sums = (jnp.ones_like(near), zero, zero)
    _, opacity, depth = jax.lax.fori_loop(0, _INTERVALS, advance, sums)
    depth = depth / jnp.maximum(opacity, 1e-6)
    point = _points(rays, depth)
    surface, place = _look_up(baked.surface, point, baked), jnp.stack(point, axis=-1)
    albedo, normal = surface[:, :3], safe_normalize(surface[:, 3:])
    light = lambertian(normal, place, lighting)
    seen = opacity[:, None]
    return Seen(
        albedo=seen * albedo,
        colour=seen * albedo * light[:, None],
        light=opacity * light,
        normal=seen * normal,
        opacity=opacity,
        depth=depth,
    )


def _points(rays: Rays, distance: Float[Array, "N"]) -> list[Float[Array, "N"]]:
    """Coordinates in separate arrays, which XLA fuses with the lookups."""
    return [rays.origin[:, axis] + distance * rays.direction[:, axis] for axis in range(3)]


def _look_up(
    table: Float[Array, "rows F"], point: list[Float[Array, "N"]], baked: Baked
) -> Float[Array, "N F"]:
    """Trilinear interpolation; clamped to the cube."""
    side = round(table.shape[0] ** (1 / 3))
    cell, weight = [], []
    for axis in point:
        scaled = jnp.clip((axis / baked.radius + 1.0) * (0.5 * (side - 1)), 0.0, side - 1.001)
        low = jnp.floor(scaled)
        cell.append(low.astype(jnp.int32))
        weight.append((1.0 - (scaled - low), scaled - low))
    total = jnp.zeros((len(point[0]), table.shape[1]))
    for a, b, c in np.ndindex(2, 2, 2):
        row = ((cell[0] + a) * side + cell[1] + b) * side + cell[2] + c
        share = weight[0][a] * weight[1][b] * weight[2][c]
        total += share[:, None] * table.at[row].get(mode="promise_in_bounds")
    return total

"""Encodings of positions: integrated positional encoding and a multiresolution grid."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from dreamfusion_jax.checks import check_count
from dreamfusion_jax.maths import expand_to

_HASH_PRIMES = (1, 2654435761, 805459861)
_CORNERS = tuple(itertools.product((0, 1), repeat=3))
_EDGES = tuple(itertools.product((0, 1), repeat=2))


@functools.partial(jax.jit, static_argnames="num_frequencies", inline=True)
def positional_encoding(
    x: Float[Array, "*batch 3"], num_frequencies: int
) -> Float[Array, "*batch 6*{num_frequencies}"]:
    """sin(2^l x) and cos(2^l x) for l = 0 .. L-1 (NeRF, eq. 4, without its factor pi).

    Layout of the last axis: all 3 L sines, then all 3 L cosines; within each half the frequency
    is the outer and the coordinate the inner index.
    """
    angle = _angles(x, num_frequencies)
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


@functools.partial(jax.jit, static_argnames="num_frequencies", inline=True)
def integrated_positional_encoding(
    mean: Float[Array, "*batch 3"], variance: Float[Array, "*batch"], num_frequencies: int
) -> Float[Array, "*batch 6*{num_frequencies}"]:
    """Expected positional encoding of x ~ N(mean, variance I) (mip-NeRF, eq. 13 and 14).

    E[sin(2^l x)] = sin(2^l mean) exp(-4^l variance / 2), and so for the cosine. Layout as in
    `positional_encoding`.
    """
    angle = _angles(mean, num_frequencies)
    squared = jnp.repeat(4.0 ** jnp.arange(num_frequencies, dtype=jnp.float32), 3)
    decay = jnp.exp(-0.5 * variance[..., None] * expand_to(squared, variance.ndim + 1, tail=1))
    return jnp.concatenate([jnp.sin(angle) * decay, jnp.cos(angle) * decay], axis=-1)


def _angles(
    x: Float[Array, "*batch 3"], num_frequencies: int
) -> Float[Array, "*batch 3*{num_frequencies}"]:
    angles = [x * 2.0**level for level in range(num_frequencies)]
    return jnp.concatenate(angles, axis=-1)


def frustum_moments(
    near: Float[Array, "*batch"], far: Float[Array, "*batch"], radius: Float[Array, "*#batch"]
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Mean distance, variance of the distance and radial variance of a conical frustum.

    mip-NeRF, eq. 7, in terms of the middle m and the half length h, so that nothing cancels for
    short frustums. `radius` is the cone's radius at distance 1.
    """
    middle, half = 0.5 * (near + far), 0.5 * (far - near)
    m2, h2 = middle**2, half**2
    ratio = h2 / jnp.maximum(3.0 * m2 + h2, jnp.finfo(m2.dtype).tiny)
    mean = middle * (1.0 + 2.0 * ratio)
    distance_variance = h2 / 3.0 - (4.0 / 15.0) * ratio**2 * (12.0 * m2 - h2)
    radial_variance = radius**2 * (m2 / 4.0 + (5.0 / 12.0) * h2 - (4.0 / 15.0) * h2 * ratio)
    return mean, distance_variance, radial_variance


@dataclasses.dataclass(frozen=True)
class GridConfig:
    """A multiresolution grid over the unit cube (Instant-NGP, 2201.05989, section 3).

    Attributes:
        resolutions: vertices along each axis, one number a level.
        features: features of each vertex.
        log2_table_size: a level with more vertices than 2 to this power is hashed.

    Raises:
        SettingError: A level has fewer than 2 vertices along an axis, or there are no features
            or no rows.
    """

    resolutions: tuple[int, ...] = (16, 32)
    features: int = 4
    log2_table_size: int = 18

    def __post_init__(self) -> None:
        check_count(self, "resolutions", least=2)
        check_count(self, "features", "log2_table_size")

    def rows(self, resolution: int) -> int:
        """Rows of the table of one level."""
        return min(resolution**3, 2**self.log2_table_size)


def growing_resolutions(levels: int, coarsest: int, finest: int) -> tuple[int, ...]:
    """Resolutions that grow by the same factor from level to level (Instant-NGP, eq. 2 and 3)."""
    growth = (finest / coarsest) ** (1.0 / max(levels - 1, 1))
    # Powers of the growth are exact but for rounding.
    return tuple(math.floor(coarsest * growth**level + 1e-6) for level in range(levels))


def level_weights(
    variance: Float[Array, "*batch"], cells: Sequence[float]
) -> Float[Array, "*batch L"]:
    """How much of a grid's level is left of a point that is blurred: exp(-variance (pi / h)^2 / 2).

    That is what integrated positional encoding leaves of a wave of length 2 h (mip-NeRF, eq. 14),
    the shortest that a level with cells of side h can hold. So a blur that falls as a run goes on
    unlocks one level after the other, as in the paper it unlocks frequencies.

    Args:
        variance: Of the points, along each axis.
        cells: Side of each level's cells, in the same unit.
    """
    rates = jnp.asarray([0.5 * (math.pi / h) ** 2 for h in cells], jnp.float32)
    return jnp.exp(-variance[..., None] * expand_to(rates, variance.ndim + 1, tail=1))


def init_grid(key: PRNGKeyArray, config: GridConfig, scale: float) -> tuple[Array, ...]:
    """One table [rows, features] a level, uniform in [-scale, scale]."""
    keys = jax.random.split(key, len(config.resolutions))
    return tuple(
        jax.random.uniform(
            k, (config.rows(resolution), config.features), jnp.float32, -scale, scale
        )
        for k, resolution in zip(keys, config.resolutions, strict=True)
    )


def encode_grid(
    tables: tuple[Array, ...], position: Float[Array, "*batch 3"], config: GridConfig
) -> Float[Array, "*batch L F"]:
    """Features at positions in [0, 1]^3 by trilinear interpolation on every level.

    Positions outside the cube are clamped to it.
    """
    x, y, z = (jnp.clip(position[..., axis].reshape(-1), 0.0, 1.0) for axis in range(3))
    levels = [
        _encode_level(table, (x, y, z), resolution)
        for table, resolution in zip(tables, config.resolutions, strict=True)
    ]
    return jnp.stack(levels, axis=1).reshape(*position.shape[:-1], len(levels), config.features)


def _encode_level(
    table: Float[Array, "rows F"], position: tuple[Float[Array, " P"], ...], resolution: int
) -> Float[Array, "P F"]:
    """Weighted sum of the 8 corners of each point's cell."""
    cell, beyond = [], []
    for x in position:
        scaled = x * (resolution - 1)
        low = jnp.clip(jnp.floor(jax.lax.stop_gradient(scaled)), 0, resolution - 2)
        cell.append(low.astype(jnp.int32))
        beyond.append(scaled - low)
    x, y, z = beyond
    if table.shape[0] == resolution**3:
        # Both ends of an edge along z in one row: half as many reads, and writes of gradients.
        ends = jnp.concatenate([table, jnp.roll(table, -1, axis=0)], axis=-1)
        first = (cell[0] * resolution + cell[1]) * resolution + cell[2]
        both = _add_rows(
            ends,
            len(first),
            _EDGES,
            lambda edge: first + (edge[0] * resolution + edge[1]) * resolution,
            lambda edge: _side(x, edge[0]) * _side(y, edge[1]),
        )
        low, high = jnp.split(both, 2, axis=-1)
        return (1.0 - z)[:, None] * low + z[:, None] * high
    return _add_rows(
        table,
        len(x),
        _CORNERS,
        lambda corner: _hashed_row(cell, corner, table.shape[0]),
        lambda corner: _side(x, corner[0]) * _side(y, corner[1]) * _side(z, corner[2]),
    )


def _side(beyond: Float[Array, " P"], upper: Int[Array, ""]) -> Float[Array, " P"]:
    """How much the lower or the upper end of a cell counts for points so far beyond the lower."""
    return jnp.where(upper == 1, beyond, 1.0 - beyond)


def _hashed_row(
    cell: list[Int[Array, " P"]], corner: Int[Array, "3"], rows: int
) -> Int[Array, " P"]:
    """Table row of a corner on a level that is hashed (Instant-NGP, eq. 4)."""
    # The products wrap around at 2^32, as published.
    x, y, z = (
        (index + step).astype(jnp.uint32) * jnp.uint32(prime)
        for index, step, prime in zip(cell, corner, _HASH_PRIMES, strict=True)
    )
    return ((x ^ y ^ z) % rows).astype(jnp.int32)


def _add_rows(
    table: Float[Array, "rows N"],
    count: int,
    corners: tuple[tuple[int, ...], ...],
    row: Callable[[Int[Array, " D"]], Int[Array, " P"]],
    weight: Callable[[Int[Array, " D"]], Float[Array, " P"]],
) -> Float[Array, "P N"]:
    """sum_k weight_k table[row_k] over the corners of each point's cell.

    Args:
        table: Features.
        count: P, of the points.
        corners: Ends of the cell along each of D axes: 0 for the lower, 1 for the upper.
        row: Of a corner. None is past the table's ends.
        weight: Of a corner.
    """

    def add(total: jax.Array, corner: jax.Array) -> tuple[jax.Array, None]:
        # To look whether rows are negative would take as long as to read them.
        read = table.at[row(corner)].get(mode="promise_in_bounds", wrap_negative_indices=False)
        return total + weight(corner)[:, None] * read, None

    # A loop on a CPU, because what goes into a loop is in memory: XLA would else work out the way
    # from the camera to the row anew for each number that is read, which takes longer than all the
    # rest of rendering.
    unroll = jax.default_backend() != "cpu"
    total = jnp.zeros((count, table.shape[1]), table.dtype)
    return jax.lax.scan(add, total, jnp.asarray(corners), unroll=unroll)[0]

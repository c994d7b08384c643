"""From a density field to the surface that is seen of it."""

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

# scikit-image and SciPy take as long to import as JAX, and a program's help has no use for
# them: such libraries are imported where they are used, here and in the rest of the package.

_CHUNK = 65_536
_SMALLEST_COMPONENT = 0.01
"""Floating pieces with less than this share of the largest piece's volume are dropped."""

DensityFn = Callable[[Float[Array, "P 3"]], Float[Array, "P"]]
"""From points to densities, per world unit."""

Volume = Float[np.ndarray, "N N N"]
"""Numbers at the points (x, y, z) of a cubic grid."""


@dataclasses.dataclass(frozen=True, eq=False)
class Surface:
    """The surface of a field, as marching cubes finds it.

    Attributes:
        vertices: World units.
        faces: Three vertices each, counterclockwise from outside.
        normal: From points near the surface to outward unit normals, those of the smoothed
            field, which know nothing of triangles; zero where the field is flat.
        threshold: The density at the surface, before smoothing.
        agreement: Intersection over union of the surface's silhouettes along the three axes
            with what renders more than half opaque.
    """

    vertices: Float[np.ndarray, "P 3"]
    faces: Int[np.ndarray, "F 3"]
    normal: Callable[[Float[np.ndarray, "Q 3"]], Float[np.ndarray, "Q 3"]]
    threshold: float
    agreement: float


def find_surface(
    density_fn: DensityFn,
    *,
    radius: float,
    resolution: int,
    smoothing: float = 0.0,
    threshold: float | None = None,
) -> Surface:
    """Surface of a field inside a sphere around the origin, by marching cubes.

    The density is cut off at the sphere, floating crumbs are dropped and enclosed cavities,
    which no camera sees, are filled: the surface is closed and bounds solids. Where the cells
    of a field of grids meet it has creases, which light shows as marks: smoothing takes them
    out. It also wears off what is convex, so that the level is chosen once more after it.

    Args:
        density_fn: Called with chunks of points.
        radius: Radius of the sphere, world units.
        resolution: Grid points along each side of the cube around the sphere.
        smoothing: Standard deviation of the Gaussian that the occupancy is blurred with,
            world units.
        threshold: Density at the surface; None lets `choose_threshold` find it.

    Raises:
        ValueError: The field is empty at the threshold, or not finite.
    """
    from scipy import ndimage
    from skimage import measure

    axis = np.linspace(-radius, radius, resolution, dtype=np.float32)
    voxel = 2 * radius / (resolution - 1)
    density = _sample_grid(density_fn, axis)
    if not np.isfinite(density).all():
        raise ValueError("the field has no surface: its density is not finite")
    isovalue = 0.5 if threshold is not None else None
    threshold = choose_threshold(density, voxel) if threshold is None else threshold
    if not (density > threshold).any():
        raise ValueError(
            f"the field is empty at threshold {threshold:.3g}: "
            f"its largest density is {density.max():.3g}"
        )
    border = math.ceil(3 * smoothing / voxel) + 1
    rendered = np.pad(_half_opaque(density, voxel), ((0, 0), *((border, border),) * 2))
    # Densities span orders of magnitude: linear interpolation between grid points suits
    # tau / (tau + threshold), the logistic function of log(tau / threshold).
    level = np.pad(_solidify(density / (density + threshold), 0.5), border)
    level = ndimage.gaussian_filter(level, smoothing / voxel, mode="constant")
    if isovalue is None:
        isovalue, _ = _best_level(level, rendered, np.linspace(0.1, 0.9, 81))
    level = _solidify(level, isovalue)
    vertices, faces, _, _ = measure.marching_cubes(level, isovalue, gradient_direction="ascent")
    return Surface(
        vertices=(voxel * (vertices - border) - radius).astype(np.float32),
        faces=faces.astype(np.int32),
        normal=_normals(level, lambda points: (points + radius) / voxel + border),
        threshold=float(threshold),
        agreement=_best_level(level, rendered, np.array([isovalue]))[1],
    )


def choose_threshold(density: Volume, voxel: float) -> float:
    """Density whose level set has the silhouettes that renders of the field have.

    A line of sight along one of the three axes belongs to the rendered silhouette if it
    is more than half opaque, 1 - exp(-sum_i tau_i voxel) > 1/2, and to that of a level
    set if its largest density is above the level. Of the levels whose intersection over
    union is within 0.01 of the best, the geometric middle is taken. The rule depends
    neither on the resolution nor on how hard or foggy the field is.

    Args:
        density: Density per world unit.
        voxel: Distance between neighbouring grid points, in world units.

    Raises:
        ValueError: If no line of sight is half opaque.
    """
    rendered = _half_opaque(density, voxel)
    if not rendered.any():
        largest = -np.expm1(-voxel * max(density.sum(axis).max() for axis in range(3)))
        raise ValueError(
            "the field is empty: no line of sight through it is half opaque "
            f"(largest opacity {largest:.2g})"
        )
    # Nothing thinner than the lowest level is half opaque, even across the whole grid.
    lowest = math.log(2) / (voxel * density.shape[0])
    peak = float(density.max())
    levels = np.geomspace(min(lowest, peak / 2), peak, 200)[:-1]
    return _best_level(density, rendered, levels)[0]


def _half_opaque(density: Volume, voxel: float) -> Bool[np.ndarray, "3 N N"]:
    """Which lines of sight along the axes render more than half opaque."""
    return np.stack([density.sum(axis) * voxel for axis in range(3)]) > math.log(2)


def _best_level(
    values: Volume, rendered: Bool[np.ndarray, "3 N N"], levels: Float[np.ndarray, "L"]
) -> tuple[float, float]:
    """The middle one of the levels with the best silhouettes, and its overlap with them."""
    peak = np.stack([values.max(axis) for axis in range(3)])
    overlap = np.array(
        [
            (rendered & (peak > level)).sum() / max((rendered | (peak > level)).sum(), 1)
            for level in levels
        ]
    )
    best = np.flatnonzero(overlap >= overlap.max() - 0.01)
    chosen = best[len(best) // 2]
    return float(levels[chosen]), float(overlap[chosen])


def _sample_grid(density_fn: DensityFn, axis: Float[np.ndarray, "N"]) -> Volume:
    """Density at the points of a cubic grid, zero on and outside the sphere."""
    y, z = np.meshgrid(axis, axis, indexing="ij")
    planes = []
    for x in axis:
        points = np.stack([np.full_like(y, x), y, z], axis=-1)
        plane = evaluate(density_fn, points.reshape(-1, 3)).reshape(y.shape)
        planes.append(np.where((points**2).sum(-1) < axis[-1] ** 2, plane, 0.0))
    return np.stack(planes)


def evaluate(
    function: Callable[..., Array], *points: Float[np.ndarray, "P 3"]
) -> Float[np.ndarray, "P ..."]:
    """A function of points in chunks of one size, so that if jitted it is compiled once."""
    size = min(_CHUNK, len(points[0]))
    values = []
    for start in range(0, len(points[0]), size):
        chunks = [x[start : start + size] for x in points]
        real = len(chunks[0])
        padded = [jax.device_put(np.pad(x, ((0, size - real), (0, 0)))) for x in chunks]
        values.append(np.asarray(function(*padded), np.float32)[:real])
    return np.concatenate(values)


def _solidify(level: Volume, isovalue: float) -> Volume:
    """Fills the cavities of what is above a value, and empties its small pieces."""
    from skimage import measure

    occupied = level > isovalue
    air = np.asarray(measure.label(~occupied, connectivity=1))
    solid = air != air[0, 0, 0]  # A corner of the grid is outside the sphere.
    pieces = np.asarray(measure.label(solid, connectivity=3))
    volumes = np.bincount(pieces.ravel())
    volumes[0] = 0
    keep = (volumes >= _SMALLEST_COMPONENT * volumes.max())[pieces]
    return np.where(solid & ~occupied, 1.0, level) * (keep | ~solid)


def _normals(
    level: Volume, to_grid: Callable[[np.ndarray], np.ndarray]
) -> Callable[[np.ndarray], np.ndarray]:
    """Minus the direction of the level's gradient, as a function of points of the world."""
    from scipy import ndimage

    gradient = np.gradient(level)

    def normal(points: np.ndarray) -> np.ndarray:
        at = to_grid(points).T
        inward = np.stack([ndimage.map_coordinates(axis, at, order=1) for axis in gradient], -1)
        length = np.linalg.norm(inward, axis=-1, keepdims=True)
        return (-inward / np.where(length > 1e-12, length, np.inf)).astype(np.float32)

    return normal

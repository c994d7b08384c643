"""From a density field to a coloured triangle mesh in a file."""

import math
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

# trimesh takes as long to import as JAX, and a program's help has no use for it: such
# libraries are imported where they are used, here and in the rest of the package.
if TYPE_CHECKING:
    import trimesh

_CHUNK = 65_536
_SMALLEST_COMPONENT = 0.01
"""Floating pieces with less than this share of the largest piece's volume are dropped."""


def extract_mesh(
    density_fn: Callable[[Float[Array, "P 3"]], Float[Array, "P"]],
    albedo_fn: Callable[[Float[Array, "P 3"]], Float[Array, "P 3"]],
    *,
    radius: float,
    resolution: int,
    threshold: float | None = None,
) -> "trimesh.Trimesh":
    """Surface of the field inside a sphere around the origin, by marching cubes.

    The density is cut off at the sphere, floating crumbs are dropped and enclosed
    cavities, which no camera sees, are filled: the mesh is closed and solid.

    Args:
        density_fn: Points to densities, per world unit; called with chunks of points.
        albedo_fn: Points to colours in [0, 1], which become vertex colours.
        radius: Radius of the sphere, in world units.
        resolution: Grid points along each side of the cube around the sphere.
        threshold: Density at the surface; `None` lets `choose_threshold` find it.

    Raises:
        ValueError: If the field is empty at the threshold, or not finite.
    """
    import trimesh
    from skimage import measure

    axis = np.linspace(-radius, radius, resolution, dtype=np.float32)
    voxel = 2 * radius / (resolution - 1)
    density = _sample_grid(density_fn, axis)
    if not np.isfinite(density).all():
        raise ValueError("the field has no surface: its density is not finite")
    if threshold is None:
        threshold = choose_threshold(density, voxel)
    if not (density > threshold).any():
        raise ValueError(
            f"the field is empty at threshold {threshold:.3g}: "
            f"its largest density is {density.max():.3g}"
        )
    # Densities span orders of magnitude: linear interpolation between grid points suits
    # tau / (tau + threshold), the logistic function of log(tau / threshold).
    level = _solidify(density / (density + threshold), density > threshold)
    vertices, faces, _, _ = measure.marching_cubes(
        level, 0.5, spacing=(voxel,) * 3, gradient_direction="ascent"
    )
    vertices = (vertices - radius).astype(np.float32)
    colours = np.clip(_evaluate(albedo_fn, vertices), 0.0, 1.0)
    return trimesh.Trimesh(vertices, faces, vertex_colors=colours, process=False)


def choose_threshold(density: Float[np.ndarray, "N N N"], voxel: float) -> float:
    """Density whose level set has the silhouettes that renders of the field have.

    A line of sight along one of the three axes belongs to the rendered silhouette if it
    is more than half opaque, 1 - exp(-sum_i tau_i voxel) > 1/2, and to that of a level
    set if its largest density is above the level. Of the levels whose intersection over
    union is within 0.01 of the best, the geometric middle is taken. The rule depends
    neither on the resolution nor on how hard or foggy the field is.

    Args:
        density: Density per world unit on a cubic grid.
        voxel: Distance between neighbouring grid points, in world units.

    Raises:
        ValueError: If no line of sight is half opaque.
    """
    opacity = np.stack([-np.expm1(-density.sum(axis) * voxel) for axis in range(3)])
    rendered = opacity > 0.5
    if not rendered.any():
        raise ValueError(
            "the field is empty: no line of sight through it is half opaque "
            f"(largest opacity {opacity.max():.2g})"
        )
    peak = np.stack([density.max(axis) for axis in range(3)])
    # Nothing thinner than the lowest level is half opaque, even across the whole grid.
    lowest = math.log(2) / (voxel * density.shape[0])
    levels = np.geomspace(min(lowest, peak.max() / 2), peak.max(), 200)[:-1]
    overlap = np.array(
        [(rendered & (peak > level)).sum() / (rendered | (peak > level)).sum() for level in levels]
    )
    best = levels[overlap >= overlap.max() - 0.01]
    return float(best[len(best) // 2])


def save_mesh(mesh: "trimesh.Trimesh", path: str | pathlib.Path) -> None:
    """Writes a mesh as .glb or .obj, y up and with the front (azimuth 0) towards +z.

    GLB colours are stored linear, as glTF wants them, with a matt material: a file
    without a material is metal to most viewers. OBJ keeps the colours as they are.

    Raises:
        ValueError: For another suffix.
    """
    import trimesh
    from trimesh.visual import ColorVisuals, TextureVisuals
    from trimesh.visual.material import PBRMaterial

    path = pathlib.Path(path)
    colours = cast(ColorVisuals, mesh.visual).vertex_colors
    match path.suffix:
        case ".glb":
            visual = TextureVisuals(material=PBRMaterial(metallicFactor=0.0, roughnessFactor=1.0))
            visual.vertex_attributes["color"] = _linear(colours)
        case ".obj":
            visual = ColorVisuals(vertex_colors=colours)
        case suffix:
            raise ValueError(f"a mesh is written as .glb or .obj, not as {suffix!r}")
    # World (x, y, z) becomes (y, z, x): the right hand, the top and the front.
    turned = trimesh.Trimesh(mesh.vertices[:, [1, 2, 0]], mesh.faces, visual=visual, process=False)
    turned.export(path, include_normals=True)


def _sample_grid(density_fn: Callable, axis: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N N N"]:
    """Density at the points (x, y, z) of a cubic grid, zero on and outside the sphere."""
    y, z = np.meshgrid(axis, axis, indexing="ij")
    planes = []
    for x in axis:
        points = np.stack([np.full_like(y, x), y, z], axis=-1)
        plane = _evaluate(density_fn, points.reshape(-1, 3)).reshape(y.shape)
        planes.append(np.where((points**2).sum(-1) < axis[-1] ** 2, plane, 0.0))
    return np.stack(planes)


def _evaluate(function: Callable, points: Float[np.ndarray, "P 3"]) -> Float[np.ndarray, "P ..."]:
    """function(points) in chunks of one size, so that a jitted function is compiled once."""
    size = min(_CHUNK, len(points))
    values = []
    for start in range(0, len(points), size):
        chunk = points[start : start + size]
        padded = np.pad(chunk, ((0, size - len(chunk)), (0, 0)))
        values.append(np.asarray(function(jnp.asarray(padded)), np.float32)[: len(chunk)])
    return np.concatenate(values)


def _solidify(
    level: Float[np.ndarray, "N N N"], occupied: Bool[np.ndarray, "N N N"]
) -> Float[np.ndarray, "N N N"]:
    """Fills the cavities of a grid and empties its small pieces."""
    from skimage import measure

    air = np.asarray(measure.label(~occupied, connectivity=1))
    solid = air != air[0, 0, 0]  # A corner of the grid is outside the sphere.
    pieces = np.asarray(measure.label(solid, connectivity=3))
    volumes = np.bincount(pieces.ravel())
    volumes[0] = 0
    keep = (volumes >= _SMALLEST_COMPONENT * volumes.max())[pieces]
    return np.where(solid & ~occupied, 1.0, level) * (keep | ~solid)


def _linear(colours: np.ndarray) -> np.ndarray:
    """8-bit sRGB colours with alpha to 8-bit linear ones (IEC 61966-2-1)."""
    encoded = colours[:, :3] / 255.0
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    return np.concatenate([np.round(255 * linear), colours[:, 3:]], axis=-1).astype(np.uint8)

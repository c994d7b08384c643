"""Colours of a surface: seen along short rays, on vertices or in the texels of a texture."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from dreamfusion_jax.export.surface import DensityFn, evaluate
from dreamfusion_jax.scene.render import composite

AlbedoFn = Callable[[Float[Array, "P 3"]], Float[Array, "P 3"]]
"""From points to colours in [0, 1]."""

_SAMPLES = 12
_OUTSIDE, _INSIDE = 1.0, 2.0
"""Where the short rays begin and end, in multiples of their reach."""
_BLOCK = 32_768
_PADDING = 4
"""Texels between charts: what a viewer's smaller copies of the texture blend in."""

_composite = jax.jit(composite)


@dataclasses.dataclass(frozen=True, eq=False)
class Paint:
    """What colours points of a surface: the field, as rays that come down on it see it.

    The albedo at a level set is not what renders show where the density rises slowly: there a
    ray gathers its colour on the way. So each point is looked at along its own normal.

    Attributes:
        density: The field's.
        albedo: The field's.
        reach: How far outside the surface a ray begins, world units; it ends twice as far
            inside.
    """

    density: DensityFn
    albedo: AlbedoFn
    reach: float

    def __call__(
        self, points: Float[np.ndarray, "P 3"], normals: Float[np.ndarray, "P 3"]
    ) -> Float[np.ndarray, "P 3"]:
        """Colours in [0, 1] of points on the surface with outward normals there."""
        blocks = [slice(at, at + _BLOCK) for at in range(0, len(points), _BLOCK)]
        return np.concatenate([self._colours(points[b], normals[b]) for b in blocks])

    def _colours(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        edges = self.reach * np.linspace(-_OUTSIDE, _INSIDE, _SAMPLES + 1, dtype=np.float32)
        middle = 0.5 * (edges[1:] + edges[:-1])
        samples = points[:, None] - middle[:, None] * normals[:, None]
        flat = samples.reshape(-1, 3)
        density = evaluate(self.density, flat).reshape(samples.shape[:2])
        albedo = evaluate(self.albedo, flat).reshape(samples.shape)
        along = np.broadcast_to(edges[None], (len(points), len(edges)))
        weights = np.asarray(_composite(density, along))
        # A ray that meets nothing, at a fine edge, takes the colour of the surface itself.
        weights = weights + 1e-3 * (np.abs(middle) == np.abs(middle).min())
        colours = (weights[..., None] * albedo).sum(axis=1) / weights.sum(axis=1)[:, None]
        return np.clip(colours, 0.0, 1.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Unwrapping:
    """A mesh cut into flat charts.

    Attributes:
        origin: The vertex that each of the new ones was; along cuts there are several.
        faces: Of the new vertices.
        uv: Place of each in the unit square, u to the right and v up.
    """

    origin: Int[np.ndarray, "Q"]
    faces: Int[np.ndarray, "F 3"]
    uv: Float[np.ndarray, "Q 2"]


def unwrap(
    vertices: Float[np.ndarray, "P 3"], faces: Int[np.ndarray, "F 3"], size: int
) -> Unwrapping:
    """Cuts a mesh into charts and packs them into a square, by xatlas.

    Args:
        vertices: World units.
        faces: Three vertices each.
        size: Height and width of the texture that the square is for, texels.
    """
    import xatlas

    pack = xatlas.PackOptions()
    pack.resolution, pack.padding, pack.bilinear = size, _PADDING, True
    atlas = xatlas.Atlas()
    atlas.add_mesh(vertices.astype(np.float32), faces.astype(np.uint32))
    atlas.generate(xatlas.ChartOptions(), pack)
    origin, cut, uv = atlas[0]
    return Unwrapping(origin.astype(np.int64), cut.astype(np.int64), uv)


def bake(
    paint: Callable[[np.ndarray, np.ndarray], np.ndarray],
    vertices: Float[np.ndarray, "Q 3"],
    normals: Float[np.ndarray, "Q 3"],
    unwrapping: Unwrapping,
    size: int,
) -> Float[np.ndarray, "{size} {size} 3"]:
    """Asks for the colour of every texel, and continues the charts over all between them.

    Args:
        paint: From points and unit normals [P, 3] to colours [P, 3]; see `Paint`.
        vertices: Of the unwrapped mesh.
        normals: At them.
        unwrapping: The charts.
        size: Height and width of the texture, texels.

    Returns:
        The texture; row 0 is the top, v = 1.
    """
    from scipy import ndimage

    face = _rasterize(unwrapping, size)
    row, column = np.nonzero(face >= 0)
    corners = unwrapping.faces[face[row, column]]
    share = _barycentric(_texels(unwrapping.uv, size)[corners], np.stack([column, row], axis=-1))
    points = np.einsum("pk,pkd->pd", share, vertices[corners]).astype(np.float32)
    toward = np.einsum("pk,pkd->pd", share, normals[corners])
    length = np.linalg.norm(toward, axis=-1, keepdims=True)
    toward = (toward / np.maximum(length, 1e-12)).astype(np.float32)
    texture = np.zeros((size, size, 3), np.float32)
    texture[row, column] = paint(points, toward)
    nearest = ndimage.distance_transform_edt(face < 0, return_distances=False, return_indices=True)
    return texture[tuple(np.asarray(nearest))]


def _texels(uv: np.ndarray, size: int) -> np.ndarray:
    """(column, row) of places in the unit square; whole numbers are the centres of texels."""
    return np.stack([uv[:, 0] * size, (1.0 - uv[:, 1]) * size], axis=-1) - 0.5


def _rasterize(unwrapping: Unwrapping, size: int) -> Int[np.ndarray, "{size} {size}"]:
    """The face at each texel, -1 between the charts."""
    from PIL import Image, ImageDraw

    image = Image.new("I", (size, size), -1)
    draw = ImageDraw.Draw(image)
    for number, corners in enumerate(_texels(unwrapping.uv, size)[unwrapping.faces]):
        draw.polygon([tuple(corner) for corner in corners.tolist()], fill=number)
    return np.asarray(image)


def _barycentric(corners: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Shares [P, 3] of the corners [P, 3, 2] of triangles at points [P, 2].

    Texels that a triangle's border only touches are taken at the border.
    """
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    offset = points - corners[:, 0]
    area = _cross(first, second)
    area = np.where(np.abs(area) > 1e-12, area, np.inf)  # A face without area is its corner.
    b, c = _cross(offset, second) / area, _cross(first, offset) / area
    share = np.clip(np.stack([1.0 - b - c, b, c], axis=-1), 0.0, None)
    return share / share.sum(axis=-1, keepdims=True)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]

"""From a field to a coloured triangle mesh."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from dreamfusion_jax.checks import NOT_NEGATIVE, check_count, check_range
from dreamfusion_jax.export.surface import DensityFn, Surface, find_surface
from dreamfusion_jax.export.texture import AlbedoFn, Paint, bake, unwrap

if TYPE_CHECKING:
    import trimesh
    from trimesh.visual import TextureVisuals

_REACH = 0.05
"""How far outside the surface colours are looked for, as a share of the sphere's radius."""


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How a field becomes a mesh.

    Attributes:
        resolution: Grid points along each side of the cube around the scene.
        smoothing: Standard deviation of the blur of the surface, as a share of the sphere's
            radius; 0 leaves it as the field has it.
        faces: The mesh is simplified to at most so many; 0 keeps all.
        texture: Height and width of the texture, texels; 0 colours the vertices instead.

    Raises:
        SettingError: A number is out of its range.
    """

    resolution: int = 96
    smoothing: float = 0.03
    faces: int = 20_000
    texture: int = 1024

    def __post_init__(self) -> None:
        check_count(self, "resolution", least=2)
        check_range(self, NOT_NEGATIVE, "smoothing")
        check_count(self, "faces", "texture", least=0)


def extract_mesh(
    density_fn: DensityFn,
    albedo_fn: AlbedoFn,
    *,
    radius: float,
    config: MeshConfig = MeshConfig(),
    threshold: float | None = None,
) -> "trimesh.Trimesh":
    """The surface of a field as a closed mesh with smooth normals and colours.

    Its `metadata` say how it came about: "threshold", the density at the surface, and
    "agreement" of silhouettes; see `surface.Surface`.

    Args:
        density_fn: Points to densities, per world unit; called with chunks of points.
        albedo_fn: Points to colours in [0, 1].
        radius: Radius of the sphere around the origin that bounds the scene, world units.
        config: Fineness.
        threshold: Density at the surface; None lets the silhouettes choose it.

    Raises:
        ValueError: The field is empty at the threshold, or not finite.
    """
    import trimesh
    from trimesh.visual import ColorVisuals

    surface = find_surface(
        density_fn,
        radius=radius,
        resolution=config.resolution,
        smoothing=config.smoothing * radius,
        threshold=threshold,
    )
    vertices, faces = simplify(surface.vertices, surface.faces, config.faces)
    normals = _normals(surface, vertices, faces)
    paint = Paint(density_fn, albedo_fn, _REACH * radius)
    if config.texture:
        charts = unwrap(vertices, faces, config.texture)
        vertices, normals, faces = vertices[charts.origin], normals[charts.origin], charts.faces
        picture = bake(paint, vertices, normals, charts, config.texture)
        visual = textured(charts.uv, picture)
    else:
        visual = ColorVisuals(vertex_colors=paint(vertices, normals))
    return trimesh.Trimesh(
        vertices,
        faces,
        vertex_normals=normals,
        visual=visual,
        process=False,
        metadata={"threshold": surface.threshold, "agreement": surface.agreement},
    )


def simplify(
    vertices: Float[np.ndarray, "P 3"], faces: Int[np.ndarray, "F 3"], budget: int
) -> tuple[Float[np.ndarray, "Q 3"], Int[np.ndarray, "G 3"]]:
    """A closed mesh with at most so many faces, by collapsing edges (quadric error metric).

    Args:
        vertices: World units.
        faces: Of a closed mesh.
        budget: Most faces; 0 for any number.

    Returns:
        Vertices and faces. More faces than the budget where so few do not close the mesh.
    """
    import fast_simplification
    import trimesh

    while budget and budget < len(faces):
        points, corners, *_ = fast_simplification.simplify(vertices, faces, target_count=budget)
        if trimesh.Trimesh(points, corners, process=False).is_watertight:
            return points.astype(np.float32), corners.astype(np.int32)
        budget *= 2
    return vertices, faces


def textured(uv: Float[np.ndarray, "Q 2"], picture: Float[np.ndarray, "H W 3"]) -> "TextureVisuals":
    """A matt, non-metallic material whose colour is a texture."""
    from PIL import Image
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    material = PBRMaterial(
        baseColorTexture=Image.fromarray(np.round(255 * picture).astype(np.uint8)),
        metallicFactor=0.0,
        roughnessFactor=1.0,
    )
    return TextureVisuals(uv, material=material)


def _normals(surface: Surface, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals of the field at vertices; of the faces around where the field has none."""
    import trimesh

    normals = surface.normal(vertices)
    around = trimesh.Trimesh(vertices, faces, process=False).vertex_normals
    flat = (normals * around).sum(axis=-1, keepdims=True) <= 0
    return np.where(flat, around, normals).astype(np.float32)

"""How true a mesh is: to the field that it was made from, and to the toy world.

The mesh is looked at as its file has it, by rays and texture look-ups of Embree and trimesh,
which share nothing with the volume renderer but the cameras.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from dreamfusion_jax.evaluation.truth_metrics import (
    Similarity,
    measuring_cameras,
    psnr,
    silhouette_iou,
    similarity_align,
    truth_silhouettes,
)
from dreamfusion_jax.export.surface import find_surface
from dreamfusion_jax.runs.trained_scene import TrainedScene
from dreamfusion_jax.scene.camera import Camera, cast_rays
from dreamfusion_jax.toybox.shapes import SCENE_RADIUS
from dreamfusion_jax.toybox.world import Scene, solid

if TYPE_CHECKING:
    import trimesh

_SUPERSAMPLE = 2
_POINTS = 20_000
_TRUTH_RESOLUTION = 160


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """How a mesh looks beside the field that it was made from, from sixteen sides.

    Attributes:
        psnr: Of the mesh's colours against the field's albedo over a backdrop, decibels.
        psnr_inside: The same on the pixels that the mesh and the opaque field both cover.
        iou: Mean overlap of the mesh's silhouettes with what the field renders more than
            half opaque.
    """

    psnr: float
    psnr_inside: float
    iou: float


@dataclasses.dataclass(frozen=True)
class Shape:
    """How near a mesh is to the true object as that fits it best.

    Attributes:
        chamfer: Mean distance from points of either surface to the other, the two means
            averaged, world units; toys are about one unit high.
        f_score: Harmonic mean of the shares of points of either surface that lie within
            `tolerance` of the other.
        tolerance: World units.
    """

    chamfer: float
    f_score: float
    tolerance: float


def read_mesh(path: Path) -> "trimesh.Trimesh":
    """A mesh that `export.formats.save_mesh` wrote as .glb, .obj or .ply, in axes of the world.

    Raises:
        ValueError: It cannot be read.
        OSError: There is no such file.
    """
    import trimesh

    if not path.is_file():
        raise FileNotFoundError(f"there is no mesh {path}")
    mesh = trimesh.load_mesh(path, process=False)
    if path.suffix in (".glb", ".obj"):
        mesh.vertices = mesh.vertices[:, [2, 0, 1]]
    return mesh


def draw_mesh(
    mesh: "trimesh.Trimesh", cameras: Camera, size: int, backdrop: float
) -> tuple[Float[np.ndarray, "V H W 3"], Float[np.ndarray, "V H W"]]:
    """Unlit colours of a mesh over a grey backdrop, and the share of each pixel it covers.

    Args:
        mesh: With a texture or vertex colours, in axes of the world.
        cameras: [V] cameras.
        size: Height and width, pixels.
        backdrop: Grey.
    """
    from trimesh.ray.ray_pyembree import RayMeshIntersector

    tracer = RayMeshIntersector(mesh)
    fine = size * _SUPERSAMPLE
    pictures = []
    for i in range(cameras.focal.shape[0]):
        rays = cast_rays(jax.tree.map(lambda x, i=i: x[i], cameras), fine, fine)
        origin, direction = (np.asarray(x).reshape(-1, 3) for x in (rays.origin, rays.direction))
        hits: Any = tracer.intersects_id(
            origin, direction, multiple_hits=False, return_locations=True
        )
        face, ray, place = hits
        picture = np.full((fine * fine, 4), (backdrop, backdrop, backdrop, 0.0))
        picture[ray] = np.pad(_colours(mesh, face, place), ((0, 0), (0, 1)), constant_values=1.0)
        blocks = picture.reshape(size, _SUPERSAMPLE, size, _SUPERSAMPLE, 4)
        pictures.append(blocks.mean(axis=(1, 3)))
    drawn = np.stack(pictures).astype(np.float32)
    return drawn[..., :3], drawn[..., 3]


def _colours(mesh: Any, face: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Colours in [0, 1] of places on faces: texture or vertex colours, interpolated."""
    from trimesh.triangles import points_to_barycentric
    from trimesh.visual.color import uv_to_interpolated_color

    share = points_to_barycentric(mesh.triangles[face], place)[..., None]
    corners = mesh.faces[face]
    if mesh.visual.kind == "texture":
        uv = (share * mesh.visual.uv[corners]).sum(axis=1)
        material = mesh.visual.material
        image = getattr(material, "baseColorTexture", None) or material.image
        return uv_to_interpolated_color(uv, image)[:, :3] / 255.0
    return (share * mesh.visual.vertex_colors[corners, :3]).sum(axis=1) / 255.0


def fidelity(
    scene: TrainedScene, mesh: "trimesh.Trimesh", size: int = 128, backdrop: float = 0.5
) -> Fidelity:
    """Compares a mesh with its field from the sixteen measuring cameras.

    Args:
        scene: The field.
        mesh: In axes of the world.
        size: Height and width of the pictures, pixels.
        backdrop: Grey behind both; neither white nor dark toys vanish before a middle one.
    """
    cameras = measuring_cameras()
    looks = scene.look(cameras, size=size, backdrop=backdrop)
    colour, cover = draw_mesh(mesh, cameras, size, backdrop)
    seen = np.asarray(looks.opacity)[..., 0] > 0.5
    both = seen & (cover > 0.5)
    return Fidelity(
        psnr=psnr(colour, looks.colour),
        psnr_inside=psnr(colour[both], np.asarray(looks.colour)[both]),
        iou=float(silhouette_iou(cover > 0.5, seen).mean()),
    )


def shape(mesh: "trimesh.Trimesh", truth: Scene, size: int = 64, tolerance: float = 0.03) -> Shape:
    """Compares a mesh with the surface of the true object.

    Score distillation leaves size and place free, so the truth is scaled and shifted to fit
    the mesh's silhouettes; it is never turned.

    Args:
        mesh: In axes of the world.
        truth: The object.
        size: Of the silhouettes, pixels.
        tolerance: Of the F-score, world units.
    """
    cameras = measuring_cameras()
    _, cover = draw_mesh(mesh, cameras, size, 1.0)
    fit, _ = similarity_align(
        lambda views: truth_silhouettes(truth, views, size=size), cover > 0.5, cameras
    )
    ours, theirs = surface_points(mesh), _moved(surface_points(true_mesh(truth)), fit)
    return compare_points(ours, theirs, tolerance)


def compare_points(
    ours: Float[np.ndarray, "P 3"], theirs: Float[np.ndarray, "Q 3"], tolerance: float
) -> Shape:
    """Compares two surfaces by points spread evenly over each; see `Shape`."""
    from scipy.spatial import KDTree

    there, back = (
        KDTree(goal).query(points)[0] for goal, points in ((theirs, ours), (ours, theirs))
    )
    precision, recall = (there < tolerance).mean(), (back < tolerance).mean()
    return Shape(
        chamfer=float(0.5 * (there.mean() + back.mean())),
        f_score=float(2 * precision * recall / max(precision + recall, 1e-12)),
        tolerance=tolerance,
    )


def true_mesh(truth: Scene) -> "trimesh.Trimesh":
    """The surface of a true object, where its signed distance vanishes."""
    import trimesh

    @jax.jit
    def density(points: jax.Array) -> jax.Array:
        # Level 1 at the surface; the logistic function of it is nearly linear around there.
        distance, _ = solid(truth.category, truth.modifier, tuple(points.T))
        return jnp.exp(-40.0 * distance)

    surface = find_surface(
        density, radius=SCENE_RADIUS, resolution=_TRUTH_RESOLUTION, threshold=1.0
    )
    return trimesh.Trimesh(surface.vertices, surface.faces, process=False)


def surface_points(mesh: "trimesh.Trimesh") -> Float[np.ndarray, "P 3"]:
    """Points spread evenly over a surface by area, the same for the same surface."""
    from trimesh.sample import sample_surface

    return np.asarray(sample_surface(mesh, _POINTS, seed=0)[0])


def _moved(points: np.ndarray, fit: Similarity) -> np.ndarray:
    return np.asarray(fit.scale) * points + np.asarray(fit.translation)

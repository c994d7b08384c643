"""What a run draws of its scene: previews, the turntable and the mesh."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dreamfusion_jax.export.formats import save_mesh
from dreamfusion_jax.export.mesh import MeshConfig
from dreamfusion_jax.files import write_whole
from dreamfusion_jax.looks.media import contact_sheet, save_png, save_video, side_by_side
from dreamfusion_jax.presets import OutputConfig
from dreamfusion_jax.runs.files import MESH, PREVIEW, SCENE, TURNTABLE
from dreamfusion_jax.runs.trained_scene import TrainedScene

if TYPE_CHECKING:
    from trimesh import Trimesh

_PREVIEW_VIEWS = 8
_FPS = 24.0


def write_preview(path: Path, scene: TrainedScene, output: OutputConfig, size: int) -> None:
    """Eight azimuths in colour, shaded, textureless and normals, as one PNG file.

    Args:
        path: The file.
        scene: What to draw.
        output: From where.
        size: Height and width of each tile, pixels.
    """
    looks = scene.look(output.cameras(_PREVIEW_VIEWS), size=size, backdrop=output.backdrop)
    path.parent.mkdir(exist_ok=True)
    rows = np.stack([looks.colour, looks.shaded, looks.textureless, looks.normals])
    labels = ["colour", "shaded", "textureless", "normals"]
    write_whole(path, lambda part: save_png(part, contact_sheet(rows, labels)))


def write_turntable(path: Path, scene: TrainedScene, output: OutputConfig) -> None:
    """A video of the scene turning once: colour, textureless and normals side by side."""
    cameras = output.cameras(output.frames)
    looks = scene.look(cameras, size=output.size, backdrop=output.backdrop)
    video = side_by_side(looks.colour, looks.textureless, looks.normals)
    write_whole(path, lambda part: save_video(part, video, _FPS))


def _extract(scene: TrainedScene, output: OutputConfig) -> "Trimesh":
    """The surface with its texture.

    Raises:
        ValueError: The scene is empty.
    """
    config = MeshConfig(
        resolution=output.mesh_resolution, faces=output.mesh_faces, texture=output.mesh_texture
    )
    return scene.mesh(config, cameras=output.cameras(_PREVIEW_VIEWS))


def write_results(folder: Path, scene: TrainedScene, output: OutputConfig) -> None:
    """Every file of a finished run; the mesh comes last.

    Raises:
        ValueError: The scene is empty.
    """
    scene.save(folder / SCENE)
    with ThreadPoolExecutor(1) as beside:  # Most of the mesh's time keeps one core busy.
        mesh = beside.submit(_extract, scene, output)
        write_preview(folder / PREVIEW, scene, output, output.size)
        write_turntable(folder / TURNTABLE, scene, output)
        save_mesh(mesh.result(), folder / MESH)

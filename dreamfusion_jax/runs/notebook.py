"""A run in a notebook: live pictures while it trains, and its results to look at and keep.

IPython is imported where it is used; every notebook has it.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dreamfusion_jax.distillation.train import TrainState
from dreamfusion_jax.looks.media import enlarge, save_png, side_by_side
from dreamfusion_jax.runs.loop import Moment
from dreamfusion_jax.runs.run import Run
from dreamfusion_jax.runs.trained_scene import TrainedScene

if TYPE_CHECKING:
    from IPython.display import HTML, DisplayHandle, Image, Video

_VIEWS = 4


class LivePreview:
    """Shows four sides of the scene below the cell while it trains; an observer.

    Args:
        run: What is shown.
        pictures: How many times, over the whole run.
        size: Height and width of each side, pixels.
    """

    def __init__(self, run: Run, pictures: int = 12, size: int = 64) -> None:
        self.run, self.size = run, size
        self.every = max(run.config.train.steps // pictures, 1)
        self._handle: DisplayHandle | None = None

    def __call__(self, moment: Moment[TrainState]) -> None:
        """See `loop.Observer`."""
        from IPython.display import display

        if not (moment.due(self.every) or moment.last or moment.step == 1):
            return
        picture = self.draw(self.run.scene(moment.state))
        if self._handle is None:
            self._handle = display(picture, display_id=True)
        else:
            self._handle.update(picture)

    def draw(self, scene: TrainedScene) -> "Image":
        """Four sides in colour, above the same as shapes."""
        looks = scene.look(self.run.config.output.cameras(_VIEWS), size=self.size)
        rows = [side_by_side(*images) for images in (looks.colour, looks.textureless)]
        return as_image(np.concatenate(rows))


def as_image(picture: np.ndarray, least: int = 512) -> "Image":
    """A picture [H, W, 3] in [0, 1] for a notebook, made larger by whole factors."""
    import tempfile

    from IPython.display import Image

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        save_png(path, enlarge(picture, least))
        return Image(data=path.read_bytes())


def as_video(path: Path | str, width: int = 768) -> "Video":
    """A video that plays inside the notebook, wherever that is opened."""
    from IPython.display import Video

    return Video(str(path), embed=True, width=width, html_attributes="controls loop autoplay muted")


def as_mesh(path: Path | str, height: int = 400) -> "HTML":
    """A mesh to turn with the mouse."""
    import html

    import trimesh
    from IPython.display import HTML
    from trimesh.viewer.notebook import scene_to_html

    scene = trimesh.load_scene(str(path))
    page = html.escape(scene_to_html(scene), quote=True)
    frame = f'<iframe srcdoc="{page}" width="100%" height="{height}" style="border:0"></iframe>'
    return HTML(f"<div>{frame}</div>")  # Of a bare one IPython says that there is another way.


def offer(path: Path | str) -> object:
    """Downloads a file where the notebook runs in Colab; elsewhere a link to it."""
    try:
        from google.colab import files  # pyright: ignore[reportMissingImports]
    except ImportError:
        from IPython.display import FileLink

        return FileLink(str(path))
    return files.download(str(path))

"""A run's numbers and pictures for TensorBoard, written without TensorFlow."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from PIL import Image

from dreamfusion_jax.checks import MissingExtraError
from dreamfusion_jax.runs.files import PROGRESS, SHOWN
from dreamfusion_jax.runs.loop import Moment
from dreamfusion_jax.runs.metrics import EVERY, read_table

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

FOLDER = "tensorboard"


def check_installed() -> None:
    """Refuses where events cannot be written.

    Raises:
        MissingExtraError: tensorboardX is not installed.
    """
    if importlib.util.find_spec("tensorboardX") is None:
        raise MissingExtraError("TensorBoard's folder", "tensorboard")


class TensorBoard:
    """Writes events into a run's folder; an observer.

    Scalars of the steps ("step/..."), the row of progress.csv ("progress/...") and the picture in
    shown/ of the steps that have one. A resumed run hides what it does again.

    Args:
        folder: Of the run.

    Raises:
        MissingExtraError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path) -> None:
        check_installed()
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def __call__(self, moment: Moment) -> None:
        """See `loop.Observer`."""
        if self._writer is None:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(self._folder / FOLDER), purge_step=moment.step)
        if moment.step == 1 or moment.last or moment.due(EVERY):
            for name, value in jax.device_get(dict(moment.values)).items():
                self._writer.add_scalar(f"step/{name}", float(value), moment.step)
        picture = self._folder / SHOWN / f"{moment.step:06d}.png"
        if picture.exists():
            for name, column in read_table(self._folder / PROGRESS).items():
                if name != "step":
                    self._writer.add_scalar(f"progress/{name}", column[-1], moment.step)
            with Image.open(picture) as image:
                self._writer.add_image("shown", np.asarray(image), moment.step, dataformats="HWC")
        if moment.last or moment.stopping:
            self._writer.close()

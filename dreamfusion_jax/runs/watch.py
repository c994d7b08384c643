"""progress.csv and shown/: an honest figure of a run's progress, on fixed views and fixed noise.

The loss of score distillation has a gradient but no meaning, and the residual of a step depends
on the view, the time and the noise that the step happened to draw. So now and then the same four
views are shown to the prior with the same noise at the same four times.
"""

import functools
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float
from PIL import Image

from dreamfusion_jax.distillation.showing import Shown, pictures, show
from dreamfusion_jax.distillation.train import Model, TrainConfig, TrainState
from dreamfusion_jax.files import write_whole
from dreamfusion_jax.looks.media import contact_sheet, save_png
from dreamfusion_jax.priors.prior import PriorParams, View
from dreamfusion_jax.priors.prompts import Text
from dreamfusion_jax.runs.files import PROGRESS, SHOWN
from dreamfusion_jax.runs.loop import Moment
from dreamfusion_jax.runs.metrics import Table
from dreamfusion_jax.scene.camera import CameraConfig, orbit
from dreamfusion_jax.sharing import at_hand

TIMES = (0.2, 0.4, 0.6, 0.8)
"""Of the schedule: from a little noise to much."""

VIEWS = ("front", "left", "back", "right")
"""The fixed views, a quarter of a turn from each to the next."""

_GREY = 0.65
"""Of their backdrop: the middle of what a step draws."""


@functools.partial(jax.jit, static_argnames=("cameras", "count", "azimuth"))
def fixed_views(cameras: CameraConfig, count: int, azimuth: float = 0.0) -> View:
    """Views evenly around, where a training's cameras are on average, unlit and before grey.

    Args:
        cameras: Of the training.
        count: Of the views.
        azimuth: Of the first, radians.
    """
    around = orbit(
        count,
        np.deg2rad(np.mean(cameras.elevation)).astype(np.float32),
        np.float32(np.mean(cameras.distance)),
        np.float32(np.mean(cameras.focal)),
        azimuth,
    )
    return View.unlit(around, _GREY)


class Watch:
    """Asks the prior about the fixed views every so many steps; an observer.

    progress.csv gets, for each time, the root mean square of eps_hat - eps over all views
    ("residual_0.2", ...), the mean opacity, and how much the views have changed since the row
    before: the root mean square of the difference of the stored pictures, from 0 to 1 (0 in the
    first row). shown/ gets a picture for each row: the four views; the front with the noise of
    each time; what the prior answered.

    Args:
        folder: Of the run.
        first: Steps that the run has done.
        every: Steps between two rows; the first and the last step have one as well.
        model: Scene and prior.
        config: Settings of the training.
        prior_params: Weights of the prior.
        text: Encoded prompts.
    """

    def __init__(
        self,
        folder: Path,
        first: int,
        every: int,
        *,
        model: Model,
        config: TrainConfig,
        prior_params: PriorParams,
        text: Text,
    ) -> None:
        self.every, self.model, self.config = every, model, config
        self._asked = prior_params, text
        views, count = fixed_views(config.cameras, len(VIEWS)), config.views
        # As many at once as a step has, so that one program serves both.
        turns = [
            np.arange(start, start + count) % len(VIEWS) for start in range(0, len(VIEWS), count)
        ]
        views = jax.tree.map(np.asarray, views)  # NumPy cuts without compiling anything.
        self._batches = [jax.tree.map(lambda x, at=at: x[at], views) for at in turns]
        self._shown = folder / SHOWN
        self._table = Table(folder / PROGRESS, first)
        self.latest: dict[str, float] = {}

    def __call__(self, moment: Moment[TrainState]) -> None:
        """See `loop.Observer`."""
        if not (moment.step == 1 or moment.last or moment.due(self.every)):
            return
        state, *_ = at_hand((moment.state, *self._asked))
        answers = [self._ask(state, views, time) for time in TIMES for views in self._batches]
        by_time = np.split(np.asarray([answer.residual for answer in answers]), len(TIMES))
        sheet = self._sheet(answers)
        values = {
            f"residual_{time:g}": float(np.sqrt(np.mean(residual**2)))
            for time, residual in zip(TIMES, by_time, strict=True)
        }
        values["opacity"] = float(np.mean([answer.opacity for answer in answers]))
        values["change"] = self._keep(moment.step, sheet)
        self._table.append(moment.step, values)
        self.latest = values

    def _ask(self, state: TrainState, view: View, time: float) -> Shown:
        prior_params, text = self._asked
        return show(
            state.params,
            state.distillation,
            prior_params,
            text,
            view,
            jax.device_put(np.full(self.config.views, time, np.float32)),
            jax.random.key(0),
            state.step,
            model=self.model,
            config=self.config,
        )

    def _sheet(self, answers: list[Shown]) -> Float[np.ndarray, "3 4 H W 3"]:
        """Views; the front with noise; the answers."""
        batches = len(answers) // len(TIMES)
        fronts = answers[::batches]
        rows = [
            np.concatenate([answer.z_0 for answer in answers[:batches]])[: len(VIEWS)],
            np.stack([np.asarray(answer.z_t)[0] for answer in fronts]),
            np.stack([np.asarray(answer.answer)[0] for answer in fronts]),
        ]
        return pictures(self.model.prior, self._asked[0], rows)

    def _keep(self, step: int, sheet: np.ndarray) -> float:
        """Writes the pictures; returns how much the views differ from those kept before."""
        self._shown.mkdir(exist_ok=True)
        path, before = (self._shown / f"{at:06d}.png" for at in (step, self._table.last))
        write_whole(path, lambda part: save_png(part, contact_sheet(sheet, padding=0)))
        if not self._table.last:
            return 0.0
        now, then = (_views_of(file, sheet.shape[2]) for file in (path, before))
        return float(np.sqrt(np.mean((now - then) ** 2)))


def _views_of(path: Path, height: int) -> np.ndarray:
    """The fixed views in a kept picture, colours in [0, 1].

    From the file, so that a resumed run compares the same as one that was not stopped.
    """
    with Image.open(path) as picture:
        return np.asarray(picture, np.float64)[:height] / 255

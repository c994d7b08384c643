"""A run in the browser while it trains: the scene, what the prior is shown, pause and step."""

import dataclasses
import time
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from dreamfusion_jax.distillation.train import TrainState
from dreamfusion_jax.looks.media import contact_sheet, enlarge, to_uint8
from dreamfusion_jax.runs.loop import Moment
from dreamfusion_jax.runs.progress import Clock
from dreamfusion_jax.runs.run import Run
from dreamfusion_jax.viewer.viewer import Viewer

if TYPE_CHECKING:
    import viser

_RESOLUTION = 48
"""Of the grid that stands for a scene which changes every few seconds."""

_EVERY, _SHARE, _RARELY = 2.0, 9.0, 20.0
"""Between two scenes: least seconds, as many times as showing one takes, most seconds."""

_WORDS = 1.0
"""Seconds between two lines of words."""

_TOLD = ("opacity", "residual")
_MOST_VIEWS = 4
_POLL = 0.05


class Live:
    """Shows a run's scene as it changes; an observer.

    The scene is brought to the page every few seconds, and only while somebody looks. Paused, the
    run stands after the step in hand; a signal to stop ends the pause.

    Args:
        run: What trains.
        viewer: Where it is shown.
    """

    def __init__(self, run: Run, viewer: Viewer) -> None:
        self.run, self.viewer = run, viewer
        self._clock, self._next, self._steps = Clock(), 0.0, 0
        gui = viewer.server.gui
        with gui.add_folder("Training"):
            self._words = gui.add_markdown("compiling")
            self._bar = gui.add_progress_bar(0.0)
            self._pause = gui.add_checkbox("pause", False)
            gui.add_button("one step").on_click(lambda _: self._one_step())
        self._picture: viser.GuiImageHandle | None = None

    def __call__(self, moment: Moment[TrainState]) -> None:
        """See `loop.Observer`."""
        self._clock.tick(moment)
        stepped, self._steps = self._steps > 0, max(self._steps - 1, 0)
        waiting = self._pause.value and not self._steps
        watched = self.viewer.painter.watched
        if moment.last or stepped or waiting or (watched and time.monotonic() > self._next):
            self._show(moment)
        if stepped or waiting or self._clock.passed(_WORDS):
            self._say(moment, waiting)
        if waiting:
            self._wait(moment)

    def _show(self, moment: Moment[TrainState]) -> None:
        begun = time.monotonic()
        # The next step takes the state.
        params = jax.tree.map(jnp.copy, moment.state.params)
        scene = dataclasses.replace(self.run.scene(moment.state), params=params)
        self.viewer.show(scene, f"step-{moment.step}", _RESOLUTION)
        if not moment.last:
            self._show_prior(moment.state)
        took = time.monotonic() - begun
        # What took long will hardly take so again: it was compiled.
        self._next = time.monotonic() + min(max(_EVERY, _SHARE * took), _RARELY)

    def _say(self, moment: Moment[TrainState], waiting: bool) -> None:
        self._clock.report(moment)
        self._bar.value = 100.0 * moment.step / moment.total
        values = jax.device_get(dict(moment.values))
        numbers = ", ".join(f"{name} {float(values[name]):.3g}" for name in _TOLD if name in values)
        pace = "paused" if waiting else self._clock.words()
        self._words.content = f"step {moment.step} of {moment.total}, {pace}\n\n{numbers}"

    def _show_prior(self, state: TrainState) -> None:
        """The pictures of the coming step: rendered, with noise, and as the prior takes them."""
        shown = self.run.show_next(state)
        sheet = self.run.pictures(shown.z_0, shown.z_t, shown.answer)[:, :_MOST_VIEWS]
        image = to_uint8(contact_sheet(enlarge(sheet)))
        times = ", ".join(f"{float(t):.2f}" for t in np.asarray(shown.t)[:_MOST_VIEWS])
        label = f"shown to the prior, t = {times}"
        if self._picture is None:
            self._picture = self.viewer.server.gui.add_image(image, label=label)
        else:
            self._picture.image, self._picture.label = image, label

    def _wait(self, moment: Moment[TrainState]) -> None:
        while self._pause.value and not self._steps and not moment.asked():
            time.sleep(_POLL)
        self._clock = Clock()  # The pause is no part of the speed.

    def _one_step(self) -> None:
        self._steps = 1  # First, or the run could be seen to pause before this step.
        self._pause.value = True

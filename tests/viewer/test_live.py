"""A run that is watched can be paused, stepped, let go on, and stopped while it waits."""

import os
import signal
import threading
import time

import pytest
from helpers.tiny_run import PRIOR, SETTINGS

from dreamfusion_jax.presets import changed
from dreamfusion_jax.runs.loop import Stopped
from dreamfusion_jax.runs.run import Run
from dreamfusion_jax.runs.settings import RunSettings
from dreamfusion_jax.viewer.live import Live
from dreamfusion_jax.viewer.viewer import Viewer

STEPS = 40


def until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


@pytest.mark.slow
def test_pause_step_go_on_and_stop(tmp_path):
    seen = []

    def visit(live):
        """What a visitor does, while the main thread trains."""
        until(lambda: seen)
        live._one_step()
        until(lambda: f"step 2 of {STEPS}, paused" in live._words.content)
        assert "opacity" in live._words.content
        time.sleep(0.5)
        assert seen[-1] == 2
        live._pause.value = False
        until(lambda: seen[-1] > 4)
        assert "paused" not in live._words.content
        live._pause.value = True
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)  # Ends the pause, and then the run.

    config = changed(SETTINGS.config, {"output.checkpoint_every": 1000})
    settings = RunSettings(SETTINGS.prompt, config, seed=3)
    with (
        Run.start(tmp_path / "run", settings, PRIOR) as run,
        Viewer("test", config.scene.sampling.radius, port=0) as viewer,
    ):
        live = Live(run, viewer)
        live._pause.value = True
        visitor = threading.Thread(target=visit, args=[live])
        visitor.start()
        with pytest.raises(Stopped) as stopped:
            run.train([lambda moment: seen.append(moment.step), live])
        visitor.join()
        assert stopped.value.signal == signal.SIGTERM
        assert 5 <= stopped.value.step < STEPS
        assert live._picture is not None and "t = 0." in live._picture.label

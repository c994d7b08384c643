"""A whole run in a few seconds, as a program that can be killed: `python -m helpers.tiny_run`."""

import dataclasses
import sys
from pathlib import Path

from dreamfusion_jax.caches import keep_compiled_programs
from dreamfusion_jax.presets import TOYBOX, changed
from dreamfusion_jax.priors.prior import GaussianPrior
from dreamfusion_jax.runs.files import CONFIG
from dreamfusion_jax.runs.loop import Stopped
from dreamfusion_jax.runs.run import Run
from dreamfusion_jax.runs.settings import RunSettings
from experiments.command_line import one_line_errors, say
from helpers.tiny import SCHEDULE

PRIOR = (GaussianPrior(SCHEDULE, image_size=8), None)
CONFIG_OF_RUN = changed(
    dataclasses.replace(TOYBOX),
    {
        "scene.field.grid.resolutions": (4, 8),
        "scene.sampling.intervals": 8,
        "train.steps": 40,
        "train.views": 1,
        "train.prompts.views": "none",
        "output.size": 16,
        "output.frames": 2,
        "output.mesh_resolution": 16,
        "output.mesh_texture": 16,
        "output.preview_every": 11,
        "output.preview_size": 16,
        "output.checkpoint_every": 5,
    },
)
SETTINGS = RunSettings("a grey thing", CONFIG_OF_RUN, seed=3)


def open_run(folder: Path) -> Run:
    """Starts the run, or goes on with it."""
    if (folder / CONFIG).exists():
        return Run.resume(folder, PRIOR, say)
    return Run.start(folder, SETTINGS, PRIOR, say)


def main(folder: Path) -> None:
    """Runs to the end, or to a signal."""
    keep_compiled_programs()
    with one_line_errors(), open_run(folder) as run:
        try:
            run.write_results(run.train())
        except Stopped as stopped:
            say(str(stopped))
            raise SystemExit(128 + stopped.signal) from None


if __name__ == "__main__":
    main(Path(sys.argv[1]))

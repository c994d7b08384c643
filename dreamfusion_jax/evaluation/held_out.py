"""How well a prior explains a scene from where it was not watched: a number to rank seeds by."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dreamfusion_jax.distillation.sds import Sds
from dreamfusion_jax.distillation.showing import show
from dreamfusion_jax.distillation.train import TrainState
from dreamfusion_jax.evaluation.watching import SYMPTOMS
from dreamfusion_jax.files import write_whole
from dreamfusion_jax.runs.run import Run
from dreamfusion_jax.runs.watch import TIMES, fixed_views

HELD_OUT = "held-out.json"
"""In a run's folder: what `held_out_residual` found."""

_VIEWS = 8
_TURN = math.pi / _VIEWS
"""The views lie half-way between eight evenly spaced ones, four of which progress.csv watches."""


def held_out_residual(run: Run, state: TrainState) -> float:
    """Root mean square of eps(z_t; y, t) - eps over fixed views, times and noise; less is better.

    It is the loss that the prior was trained with, of renderings in the place of pictures: the
    words of each view, and no guidance. An empty picture is easily explained, too: scenes are to
    be compared by it only where they have no other fault.

    Args:
        run: Its prior, prompt and cameras.
        state: Of its scene.
    """
    prior, prior_params = run.loaded
    plain = dataclasses.replace(run.config.train, distillation=Sds(guidance_weight=0.0))
    view = fixed_views(run.config.train.cameras, _VIEWS, _TURN)
    answers = [
        show(
            state.params,
            plain.distillation.init(jax.random.key(0), prior),
            prior_params,
            run.text,
            view,
            jnp.full(_VIEWS, time, jnp.float32),
            jax.random.key(1),
            state.step,
            model=run.model,
            config=plain,
        ).residual
        for time in TIMES
    ]
    return float(np.sqrt(np.mean(np.square(answers))))


def write_held_out(run: Run, state: TrainState) -> float:
    """`held_out_residual`, which is also written to the run's folder.

    Raises:
        OSError: The file cannot be written.
    """
    found = held_out_residual(run, state)
    content = json.dumps({"residual": found}, indent=2) + "\n"
    write_whole(run.folder / HELD_OUT, content.encode())
    return found


def best_by_prior(folders: Sequence[Path]) -> Path:
    """The run of one prompt with the fewest complaints; of those, what the prior explains best.

    Args:
        folders: Of finished runs; what has not been measured yet is now.

    Raises:
        CheckpointError: A run cannot be read.
        ValueError: Its prior cannot be loaded, or a file is damaged.
        OSError: A file cannot be read or written.
    """
    return min(folders, key=lambda folder: (_complaints(folder), _residual(folder)))


def _complaints(folder: Path) -> int:
    file = folder / SYMPTOMS
    return len(json.loads(file.read_text())["complaints"]) if file.exists() else 0


def _residual(folder: Path) -> float:
    file = folder / HELD_OUT
    if file.exists():
        return json.loads(file.read_text())["residual"]
    with Run.resume(folder) as run:
        return write_held_out(run, run.state())

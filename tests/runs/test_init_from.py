"""A run that begins with the scene of another."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.tiny_run import PRIOR, SETTINGS

from dreamfusion_jax import presets
from dreamfusion_jax.runs.checkpoint import CheckpointError
from dreamfusion_jax.runs.run import Run
from dreamfusion_jax.runs.trained_scene import TrainedScene

STEPS = SETTINGS.config.train.steps


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    with Run.start(folder, SETTINGS, PRIOR) as run:
        run.train().save(folder / "scene.safetensors")
    return folder


@pytest.mark.parametrize("file", ["", "scene.safetensors"])
def test_it_begins_with_that_scene_and_step_0(first: Path, file: str, tmp_path: Path) -> None:
    settings = dataclasses.replace(SETTINGS, init_from=str(first / file))
    with Run.start(tmp_path / "run", settings, PRIOR) as run:
        state = run.state()
        jax.tree.map(np.testing.assert_array_equal, state.params, TrainedScene.load(first).params)
        assert int(state.step) == 0
        run.train()
    # What it became is its own, and is what a resumed run goes on with.
    with Run.resume(tmp_path / "run", PRIOR) as run:
        assert run.settings.init_from == str(first / file) and int(run.state().step) == STEPS


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"init_from": "/nowhere"}, "/nowhere"), ({}, "another field, background or sampling")],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    first: Path, changes, reason: str, tmp_path: Path
) -> None:
    settings = dataclasses.replace(SETTINGS, **{"init_from": str(first), **changes})
    other = presets.changed(settings.config, {"scene.sampling.intervals": 9})
    settings = dataclasses.replace(settings, config=other)
    with pytest.raises(CheckpointError, match=reason):
        Run.start(tmp_path / "run", settings, PRIOR)
    assert not (tmp_path / "run").exists()

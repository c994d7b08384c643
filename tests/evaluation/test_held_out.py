"""The prior's own score against a scene and a prior whose every number is known."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import SCHEDULE
from helpers.tiny_run import PRIOR, SETTINGS

from dreamfusion_jax.evaluation.held_out import best_by_prior, held_out_residual, write_held_out
from dreamfusion_jax.runs.run import Run
from dreamfusion_jax.runs.watch import TIMES


def test_an_empty_scene_before_a_known_picture(tmp_path):
    """The prior takes every picture for middle grey; it is shown grey of 0.65, z_0 = 0.3.

    So eps_hat = z_t / sigma, and what is left is alpha / sigma z_0.
    """
    prior = dataclasses.replace(PRIOR[0], std=0.0)
    with Run.start(tmp_path / "run", SETTINGS, (prior, None)) as run:
        state = run.state()
        nothing = jax.tree.map(lambda x: 0.0 * x - 1e3, state.params)
        state = dataclasses.replace(state, params=nothing)
        found = write_held_out(run, state)
        assert json.loads((run.folder / "held-out.json").read_text()) == {"residual": found}
        # Guidance and what the run's distillation does beside it play no part.
        other = dataclasses.replace(SETTINGS.config.train.distillation, guidance_weight=50.0)
        run.config = dataclasses.replace(
            run.config, train=dataclasses.replace(run.config.train, distillation=other)
        )
        assert held_out_residual(run, state) == found
    t = jnp.asarray(TIMES)
    ratio = np.asarray(SCHEDULE.alpha(t)) / np.asarray(SCHEDULE.sigma(t))
    assert found == pytest.approx(0.3 * np.sqrt(np.mean(ratio**2)), rel=1e-4)


def test_faults_count_before_the_residual(tmp_path):
    for name, residual, complaints in (
        ("clear", 0.4, {}),
        ("better", 0.3, {}),
        ("empty", 0.1, {"emptiness": "the scene is empty"}),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "held-out.json").write_text(json.dumps({"residual": residual}))
        (folder / "symptoms.json").write_text(json.dumps({"complaints": complaints}))
    folders = [*tmp_path.iterdir()]
    assert best_by_prior(folders).name == "better"
    assert best_by_prior([tmp_path / "empty", tmp_path / "clear"]).name == "clear"

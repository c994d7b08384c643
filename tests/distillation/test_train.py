import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import SCHEDULE

from dreamfusion_jax.distillation.adam import AdamConfig
from dreamfusion_jax.distillation.sds import Sds
from dreamfusion_jax.distillation.train import (
    Model,
    TrainConfig,
    init_state,
    train_scenes,
    train_step,
)
from dreamfusion_jax.presets import PAPER
from dreamfusion_jax.priors.oracle import OraclePrior
from dreamfusion_jax.priors.prior import GaussianPrior
from dreamfusion_jax.priors.prompts import Text
from dreamfusion_jax.runs.checkpoint import Checkpointer
from dreamfusion_jax.scene.camera import CameraConfig
from dreamfusion_jax.scene.encoding import GridConfig
from dreamfusion_jax.scene.fields.grid import GridField
from dreamfusion_jax.scene.fields.mlp import MlpField
from dreamfusion_jax.scene.fields.proposal import ProposalMlp
from dreamfusion_jax.scene.render import SamplingConfig, SceneModel
from dreamfusion_jax.schedules import Ramp
from dreamfusion_jax.toybox.world import Scene


@dataclasses.dataclass(frozen=True, eq=False)
class CountingPrior(GaussianPrior):
    """Counts how often it is traced; its parameter is added to its prediction."""

    traced: list = dataclasses.field(default_factory=list, kw_only=True)

    def encode_text(self, params, prompts):
        raise AssertionError("the text is encoded before the loop")

    def predict_eps(self, params, z, t, embedding):
        self.traced.append(z.shape)
        return super().predict_eps(params, z, t, embedding) + params


SCENE = SceneModel(
    GridField(GridConfig((3, 6), features=4)),
    SamplingConfig(radius=0.62, proposals=(4,), intervals=6),
    ProposalMlp(4, 1, 2),
    background=None,
)
CONFIG = TrainConfig(
    steps=20,
    views=2,
    optimizer=AdamConfig(learning_rate=0.05, warm_up=0.1),
    distillation=Sds(guidance_weight=2.0),
)
PRIOR_PARAMS = jnp.array(0.0)


def make_text(value=0.3):
    views = value * jnp.ones((4, 1, 1)) * jnp.array([1.0, 0.5, -0.5, 0.2])[:, None, None]
    return Text(views, jnp.zeros((1, 1)), jnp.full((1, 1), -0.2))


@pytest.fixture(scope="module")
def model():
    return Model(SCENE, CountingPrior(SCHEDULE, 0.5, image_size=6))


def start(model, seed=0):
    """A fresh state, put on a device as a restored one is: both then share one program."""
    state = init_state(model, CONFIG, seed)
    return jax.device_put(state, jax.devices()[0])


def advance(model, state, steps, params=PRIOR_PARAMS):
    history = []
    for _ in range(steps):
        state, metrics = train_step(state, params, make_text(), model=model, config=CONFIG)
        history.append(jax.tree.map(float, metrics))
    return state, history


def assert_identical(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def test_a_run_is_traced_once_and_its_seed_decides_everything(model):
    first, history = advance(model, start(model), 6)
    assert int(first.step) == 6
    assert all(metrics["finite"] == 1 for metrics in history)
    again, history_again = advance(model, start(model), 6)
    other, history_other = advance(model, start(model, seed=1), 6)
    assert_identical(first, again)
    assert history == history_again
    assert history[0]["residual"] != history_other[0]["residual"]
    fields = [state.params["field"][1] for state in (first, other)]
    assert np.abs(fields[0] - fields[1]).max() > 1e-3
    # Guidance asks about both texts of both views at once.
    assert model.prior.traced == [(4, 6, 6, 3)]


def test_every_step_draws_anew(model):
    _, history = advance(model, start(model), 3)
    assert len({metrics["residual"] for metrics in history}) == 3


def test_a_resumed_run_is_bit_identical(model, tmp_path):
    straight, _ = advance(model, start(model), 6)
    half, _ = advance(model, start(model), 3)
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(3, half)
    with Checkpointer(tmp_path) as checkpoints:
        restored = checkpoints.restore(start(model, seed=5))
    resumed, _ = advance(model, restored, 3)
    assert_identical(straight, resumed)


def test_a_prior_that_fails_is_noticed(model):
    _, history = advance(model, start(model), 2, params=jnp.array(jnp.nan))
    assert [metrics["finite"] for metrics in history] == [0, 0]


def test_many_scenes_are_as_many_runs(model):
    texts = [make_text(0.3), make_text(-0.4)]
    stack = functools.partial(jax.tree.map, lambda *x: jnp.stack(x))
    scenes = stack(start(model, seed=0), start(model, seed=7))
    alone = [start(model, seed=0), start(model, seed=7)]
    for _ in range(3):
        scenes, metrics = train_scenes(
            scenes, PRIOR_PARAMS, stack(*texts), model=model, config=CONFIG
        )
        results = [
            train_step(state, PRIOR_PARAMS, text, model=model, config=CONFIG)
            for state, text in zip(alone, texts, strict=True)
        ]
        alone = [state for state, _ in results]
        for i, (_, single) in enumerate(results):
            for name, value in single.items():
                np.testing.assert_allclose(metrics[name][i], value, rtol=1e-4, err_msg=name)
    for i, state in enumerate(alone):
        for a, b in zip(jax.tree.leaves(scenes), jax.tree.leaves(state), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-3, atol=2e-5)


def test_score_distillation_from_an_oracle_approaches_the_object():
    prior = OraclePrior(SCHEDULE, image_size=10, scene=Scene("apple", "red"))
    scene = SceneModel(
        MlpField(width=32, blocks=1, frequencies=4),
        SamplingConfig(radius=0.62, proposals=(), intervals=16),
        background=None,
    )
    config = TrainConfig(
        steps=100,
        views=2,
        optimizer=AdamConfig(learning_rate=1e-2),
        cameras=CameraConfig((0.0, 50.0), 0.0, (1.3, 1.3), 0.0, 0.0, 0.0, "std", (1.1, 1.1)),
        distillation=Sds(guidance_weight=0.0, weighting="image"),
    )
    model = Model(scene, prior)
    text = Text(jnp.zeros((4, 1, 1)), jnp.zeros((1, 1)), jnp.zeros((1, 1)))
    state, errors = init_state(model, config, seed=0), []
    for _ in range(config.steps):
        state, metrics = train_step(state, None, text, model=model, config=config)
        # With this weighting the residual is the difference of rendering and truth.
        errors.append(float(metrics["residual"]))
    assert metrics["finite"] == 1
    assert np.mean(errors[-10:]) < 0.5 * np.mean(errors[:5])


@pytest.mark.slow
def test_the_papers_step_at_full_size_is_finite():
    prior = OraclePrior(SCHEDULE, image_size=64, scene=Scene("apple", "red"))
    config = dataclasses.replace(PAPER.train, views=1)  # As on each of the paper's devices.
    assert PAPER.scene.sampling.proposals == (64, 64) and PAPER.scene.sampling.intervals == 32
    model = Model(PAPER.scene, prior)
    text = Text(jnp.zeros((4, 1, 1)), jnp.zeros((1, 1)), jnp.zeros((1, 1)))
    state = init_state(model, config, seed=0)
    state, metrics = train_step(state, None, text, model=model, config=config)
    assert metrics["finite"] == 1
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize(
    ("name", "value"), [("steps", 0), ("views", 0), ("variance", Ramp(-0.1, 0.0, 0.5))]
)
def test_impossible_settings_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} of TrainConfig must be"):
        TrainConfig(**{name: value})

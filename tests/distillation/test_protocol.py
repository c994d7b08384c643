"""The seam: where gradients stop, and a kind of distillation that learns something of its own."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import LEVELS, SCHEDULE, BentPrior, Cloud

from dreamfusion_jax.distillation.adam import AdamConfig
from dreamfusion_jax.distillation.protocol import (
    Carry,
    Distillation,
    Distilled,
    add_noise,
    residual_loss,
)
from dreamfusion_jax.distillation.sds import Sds
from dreamfusion_jax.distillation.train import Model, TrainConfig, init_state, step_keys, train_step
from dreamfusion_jax.priors.prior import Condition, GaussianPrior, encode_prompts, predict
from dreamfusion_jax.runs.checkpoint import Checkpointer
from dreamfusion_jax.scene.render import SamplingConfig, SceneModel

RNG = np.random.default_rng(3)
SHAPE = (2, 3, 3, 3)
Z, EPS, MEAN = (jnp.array(RNG.normal(size=SHAPE), jnp.float32) for _ in range(3))
T = jnp.array([0.15, 0.75])
KEY = jax.random.key(0)


def test_noised_pictures_are_the_closed_form_and_lead_no_gradient_back():
    noised = add_noise(SCHEDULE, Z, EPS, T)
    level = LEVELS[[1, 7]].reshape(-1, 1, 1, 1)
    wanted = np.sqrt(level) * np.asarray(Z) + np.sqrt(1 - level) * np.asarray(EPS)
    np.testing.assert_allclose(noised.z_t, wanted, rtol=1e-5, atol=1e-6)

    def total(z):
        noised = add_noise(SCHEDULE, z, EPS, T)
        return jnp.sum(noised.z_0 + noised.z_t)

    gradient = jax.grad(total)(Z)
    np.testing.assert_array_equal(gradient, np.zeros(SHAPE))


def test_the_gradient_of_the_loss_is_the_residual_which_gets_none():
    to_residual, to_z = jax.grad(residual_loss, argnums=(0, 1))(MEAN, Z)
    np.testing.assert_array_equal(to_residual, np.zeros(SHAPE))
    np.testing.assert_allclose(to_z, np.asarray(MEAN) / (2 * 3 * 3), rtol=1e-6)


def test_sds_differentiates_nothing_of_the_prior():
    prior, params = BentPrior(SCHEDULE), BentPrior.params()
    noised = add_noise(SCHEDULE, Z, EPS, T)

    def total(params, mean, z_t):
        condition = Condition(mean, 0.5 * mean)
        ask = dataclasses.replace(noised, z_t=z_t)
        distilled = Sds()(Carry({}, {}), prior, params, ask, condition, KEY)
        return jnp.sum(distilled.residual + distilled.eps_hat) + distilled.loss

    for leaf in jax.tree.leaves(jax.grad(total, argnums=(0, 1, 2))(params, MEAN, noised.z_t)):
        np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))


def test_sds_carries_nothing():
    carry = Sds().init(KEY, GaussianPrior(SCHEDULE))
    assert isinstance(Sds(), Distillation)
    assert jax.tree.leaves(carry) == []


RATE, DECAY = 0.4, 0.75


@dataclasses.dataclass(frozen=True)
class Learner:
    """Learns the mean colour of the noise, asks for both predictions, remembers the residual."""

    def check(self, prior):
        assert prior.bounded

    def init(self, key, prior):
        bias = 0.1 * jax.random.normal(key, (3,))
        return Carry({"bias": bias}, {"average": jnp.zeros(()), "updates": jnp.zeros((), int)})

    def __call__(self, carry, prior, params, noised, condition, key):
        eps = predict(prior, params, noised.z_t, noised.t, condition)
        bias = carry.params["bias"].reshape(1, 1, 1, 3)
        seen = jnp.mean(noised.eps, axis=(0, 1, 2)) + 0.5 * jax.random.normal(key, (3,))
        return Distilled(
            eps_hat=eps.conditional,
            residual=eps.conditional - eps.unconditional + bias,
            loss=jnp.sum((carry.params["bias"] - seen) ** 2),
        )

    def update(self, carry, gradient, distilled):
        memory = {
            "average": DECAY * carry.memory["average"]
            + (1 - DECAY) * jnp.mean(distilled.residual**2),
            "updates": carry.memory["updates"] + 1,
        }
        step = jax.tree.map(lambda p, g: p - RATE * g, carry.params, gradient)
        return Carry(step, memory)


@dataclasses.dataclass(frozen=True, eq=False)
class TwoEncoderPrior(GaussianPrior):
    """Its text is two arrays of different rank, its condition a view's place in the group."""

    def encode_text(self, params, prompts):
        numbers = jnp.array([len(prompt) / 50 for prompt in prompts])
        return {"words": numbers[:, None, None] * jnp.ones((1, 2, 3)), "pooled": -numbers}

    def condition(self, text, view, config):
        condition = super().condition(text, view, config)
        place = jnp.linspace(-0.2, 0.2, condition.views)
        return Condition(
            condition.conditional | {"place": place}, condition.unconditional | {"place": place}
        )

    def predict_eps(self, params, z, t, embedding):
        assert {name: x.shape[1:] for name, x in embedding.items()} == {
            "words": (2, 3),
            "pooled": (),
            "place": (),
        }
        mean = embedding["words"][:, 0, 0] + 0.5 * embedding["pooled"] + embedding["place"]
        return super().predict_eps(params, z, t, mean)


MODEL = Model(
    SceneModel(
        Cloud(),
        SamplingConfig(radius=0.9, proposals=(), intervals=5, normals="ray"),
        background=None,
    ),
    TwoEncoderPrior(SCHEDULE, 0.5, image_size=3),
)
CONFIG = TrainConfig(steps=10, views=2, optimizer=AdamConfig(warm_up=0.0), distillation=Learner())


@pytest.fixture(scope="module")
def text():
    return encode_prompts(MODEL.prior, None, "a duck", CONFIG.prompts)


def advance(state, text, steps):
    history = []
    for _ in range(steps):
        state, metrics = train_step(state, None, text, model=MODEL, config=CONFIG)
        history.append(jax.tree.map(float, metrics))
    return state, history


def test_a_kind_with_parameters_and_memory_is_carried_through_a_run(text, tmp_path):
    state = init_state(MODEL, CONFIG, seed=2)
    bias = np.asarray(state.distillation.params["bias"], np.float64)
    assert np.abs(bias).min() > 0
    state, history = advance(jax.device_put(state, jax.devices()[0]), text, 4)
    average = 0.0
    for step, metrics in enumerate(history):
        keys = step_keys(jnp.array(2, jnp.uint32), jnp.array(step, jnp.int32))
        eps = np.asarray(jax.random.normal(keys["noise"], (2, 3, 3, 3)), np.float64)
        seen = eps.mean((0, 1, 2))
        seen = seen + 0.5 * np.asarray(jax.random.normal(keys["distillation"], (3,)))
        bias = bias - RATE * 2 * (bias - seen)
        average = DECAY * average + (1 - DECAY) * metrics["residual"] ** 2
        assert metrics["finite"] == 1
    np.testing.assert_allclose(state.distillation.params["bias"], bias, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state.distillation.memory["average"], average, rtol=1e-5)
    assert state.distillation.memory["updates"] == 4

    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(4, state)
        restored = checkpoints.restore(init_state(MODEL, CONFIG, seed=7))
    straight, _ = advance(state, text, 1)
    resumed, _ = advance(restored, text, 1)
    jax.tree.map(np.testing.assert_array_equal, straight, resumed)


def test_a_kind_whose_parameters_get_no_finite_gradient_is_noticed(text):
    state = init_state(MODEL, CONFIG, seed=2)
    broken = dataclasses.replace(state.distillation, params={"bias": jnp.full(3, jnp.inf)})
    _, (metrics,) = advance(dataclasses.replace(state, distillation=broken), text, 1)
    assert metrics["finite"] == 0

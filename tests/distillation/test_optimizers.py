import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamfusion_jax.distillation.adam import AdamConfig
from dreamfusion_jax.distillation.optimizers import make_optimizer
from dreamfusion_jax.distillation.rates import PartRates
from dreamfusion_jax.distillation.shampoo import ShampooConfig


def rates(config, steps, count):
    """Size of the updates of a single parameter whose gradient is always 1."""
    optimizer = make_optimizer(config, steps)
    one = {"field": jnp.ones(1)}
    state = optimizer.init(one)

    @jax.jit
    def step(state, _):
        update, state = optimizer.update(one, state)
        return state, -update["field"][0]

    _, sizes = jax.lax.scan(step, state, None, length=count)
    return np.asarray(sizes)


def test_adam_warms_up_and_decays():
    config = AdamConfig(learning_rate=0.2, warm_up=0.1, final=0.1)
    sizes = rates(config, 40, 41)
    np.testing.assert_allclose(sizes[:5], [0, 0.05, 0.1, 0.15, 0.2], rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(sizes[22], 0.2 * 0.55, rtol=1e-4)
    np.testing.assert_allclose(sizes[40], 0.02, rtol=1e-4)
    for warm_up in (0.0, 0.5, 1.0):
        assert np.all(np.isfinite(rates(AdamConfig(warm_up=warm_up), 1, 1)))


def test_the_warm_up_scales_with_the_run():
    config = AdamConfig(learning_rate=1.0, warm_up=0.25)
    for steps in (8, 40, 200):
        sizes = rates(config, steps, steps)
        np.testing.assert_allclose(sizes[: steps // 4], np.arange(steps // 4) / (steps // 4), 1e-4)
        assert np.argmax(sizes) == steps // 4


@pytest.mark.parametrize("steps", [1, 30, 15_000])
def test_shampoo_warms_up_a_fifth_of_the_run(steps):
    # A single parameter of gradient 1: sign and grafted update are 1, and the momentum m
    # gives 1 + 0.9 m, m = 1 + 0.9 m.
    sizes = rates(ShampooConfig(), steps, min(steps, 31))
    count = np.arange(len(sizes))
    momentum = (1 - 0.9 ** (count + 1)) / 0.1
    rise = min(3000, steps // 5)
    rate = 1e-9 + (1e-4 - 1e-9) * count / max(rise, 1)
    decay = 1e-6 + (1e-4 - 1e-6) * (1 + np.cos(np.pi * (count - rise) / (steps - rise))) / 2
    wanted = np.where(count < rise, rate, decay) * (1 + 0.9 * momentum)
    np.testing.assert_allclose(sizes, wanted, rtol=1e-3, atol=1e-11)  # 1e-4 in float32.


PARAMS = {
    "field": {"table": jnp.linspace(-1.0, 1.0, 12).reshape(3, 4)},
    "proposals": [jnp.array([0.3, -2.0]), jnp.array([0.7])],
    "background": jnp.array([[1.0, -0.4]]),
}


@pytest.mark.parametrize("config", [AdamConfig(learning_rate=0.3), ShampooConfig()])
def test_each_part_has_a_rate_of_its_own(config):
    factors = {"field": 0.5, "proposals": 3.0, "background": 0.0}
    plain = make_optimizer(config, 20)
    parted = make_optimizer(dataclasses.replace(config, parts=PartRates(**factors)), 20)
    state, state_parted = jax.jit(plain.init)(PARAMS), jax.jit(parted.init)(PARAMS)
    update_plain, update_parted = jax.jit(plain.update), jax.jit(parted.update)
    assert jax.tree.structure(state) == jax.tree.structure(state_parted)
    for step in range(3):
        gradient = jax.tree.map(lambda x, step=step: np.sin(x + np.float32(step)), PARAMS)
        plainly, state = update_plain(gradient, state, PARAMS)
        in_parts, state_parted = update_parted(gradient, state_parted, PARAMS)
        jax.tree.map(np.testing.assert_array_equal, state, state_parted)
        for name, factor in factors.items():
            for a, b in zip(
                jax.tree.leaves(plainly[name]), jax.tree.leaves(in_parts[name]), strict=True
            ):
                np.testing.assert_allclose(b, factor * np.asarray(a), rtol=1e-6)
    assert np.abs(plainly["field"]["table"]).min() > 0


@pytest.mark.parametrize("kind", [AdamConfig, ShampooConfig])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", float("nan")),
        ("initial", 1.5),
        ("final", -0.1),
        ("warm_up", 3000.0),
    ],
)
def test_impossible_rates_are_refused(kind, name, value):
    with pytest.raises(ValueError, match=f"^{name} of {kind.__name__} must be"):
        kind(**{name: value})


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (AdamConfig, "b1", 1.0),
        (AdamConfig, "b2", -0.1),
        (AdamConfig, "eps", 0.0),
        (ShampooConfig, "beta1", 1.0),
        (ShampooConfig, "beta2", -0.1),
        (ShampooConfig, "epsilon", 0.0),
        (ShampooConfig, "exponent", 0),
        (ShampooConfig, "block_size", 0),
        (ShampooConfig, "start_preconditioning_step", -1),
        (ShampooConfig, "max_merged_size", 0),
        (ShampooConfig, "max_dimension", 0),
        (PartRates, "field", -1.0),
        (PartRates, "proposals", float("inf")),
        (PartRates, "background", -1.0),
    ],
)
def test_impossible_settings_are_refused(kind, name, value):
    with pytest.raises(ValueError, match=f"^{name} of {kind.__name__} must be"):
        kind(**{name: value})

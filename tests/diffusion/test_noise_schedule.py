import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers.configs import reference_config

from dreamfusion_jax.diffusion.noise_schedule import NoiseSchedule

MODELS = ["stable-diffusion-v1-5", "stable-diffusion-2-1", "IF-I-XL-v1.0"]
SHAPE = (6, 4, 4, 3)


def peer(config):
    names = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "prediction_type")
    return diffusers.DDPMScheduler(**{n: config[n] for n in names if n in config})


def images(count):
    return list(jax.random.normal(jax.random.key(0), (count, *SHAPE)))


def times(steps=1000):
    """The middles of six steps from the first to the last, and their indices."""
    index = np.array([0, 1, 20, 500, 980, 999]) * steps // 1000
    return jnp.asarray((index + 0.5) / steps, jnp.float32), index


@pytest.mark.parametrize(
    "config",
    [
        *(reference_config(m, "scheduler") for m in MODELS),
        {},
        {"beta_schedule": "linear", "num_train_timesteps": 250},
    ],
    ids=[*MODELS, "defaults", "linear-250"],
)
def test_schedule_equals_diffusers(config):
    schedule = NoiseSchedule.from_config(config)
    reference = peer(config).alphas_cumprod.numpy()
    assert schedule.alphas_cumprod.dtype == jnp.float32
    np.testing.assert_allclose(schedule.alphas_cumprod, reference, rtol=0, atol=1e-6)
    # Where the signal is almost gone, x = (z - sigma eps) / alpha needs alpha relatively.
    np.testing.assert_allclose(schedule.alphas_cumprod, reference, rtol=2e-4)


@pytest.mark.parametrize("model", MODELS)
def test_noising_equals_diffusers(model):
    config = reference_config(model, "scheduler")
    schedule, reference = NoiseSchedule.from_config(config), peer(config)
    x, eps = images(2)
    t, index = times()
    np.testing.assert_array_equal(schedule.timestep(t), index)
    torch_x, torch_eps = (torch.from_numpy(np.array(a)) for a in (x, eps))
    z = reference.add_noise(torch_x, torch_eps, torch.from_numpy(index))
    np.testing.assert_allclose(schedule.add_noise(x, eps, t), z, atol=3e-6)
    v = reference.get_velocity(torch_x, torch_eps, torch.from_numpy(index))
    z, v = (jnp.asarray(a.numpy()) for a in (z, v))
    np.testing.assert_allclose(schedule.eps_from_v(v, z, t), eps, atol=3e-6)


@pytest.mark.parametrize("model", MODELS)
def test_identities_and_round_trips(model):
    schedule = NoiseSchedule.from_config(reference_config(model, "scheduler"))
    x, eps = images(2)
    t, _ = times()
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=2e-7)
    assert (np.diff(schedule.alphas_cumprod) < 0).all()
    z = schedule.add_noise(x, eps, t)
    # One rounding of z, of size 2^-22, is divided by the coefficient.
    scale = np.asarray(alpha)[:, None, None, None], np.asarray(sigma)[:, None, None, None]
    assert (np.abs(schedule.x_from_eps(eps, z, t) - x) * scale[0]).max() < 2e-6
    assert (np.abs(schedule.eps_from_x(x, z, t) - eps) * scale[1]).max() < 2e-6
    v = scale[0] * eps - scale[1] * x
    np.testing.assert_allclose(schedule.eps_from_v(v, z, t), eps, atol=2e-6)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_eps_from_output_reads_every_prediction_type(prediction_type):
    schedule = NoiseSchedule.from_config({"prediction_type": prediction_type})
    x, eps = images(2)
    t = jnp.full((6,), 0.4)
    alpha, sigma = schedule.alpha(t)[0], schedule.sigma(t)[0]
    outputs = {"epsilon": eps, "v_prediction": alpha * eps - sigma * x, "sample": x}
    z = alpha * x + sigma * eps
    np.testing.assert_allclose(
        schedule.eps_from_output(outputs[prediction_type], z, t), eps, atol=5e-6
    )


def test_time_runs_from_the_first_to_the_last_step_and_broadcasts():
    schedule = NoiseSchedule.from_config({"num_train_timesteps": 10})
    index = schedule.timestep(jnp.array([-0.1, 0.0, 0.05, 0.15, 0.95, 1.0, 1.1]))
    np.testing.assert_array_equal(index, [0, 0, 0, 1, 9, 9, 9])
    x, eps = images(2)
    t = jnp.linspace(0.1, 0.9, 6)
    together = schedule.add_noise(x, eps, t)
    jitted = jax.jit(NoiseSchedule.add_noise)
    for i in range(6):
        np.testing.assert_allclose(jitted(schedule, x[i], eps[i], t[i]), together[i], atol=1e-6)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"beta_schedule": "sigmoid"}, "sigmoid"),
        ({"prediction_type": "flow"}, "flow"),
        ({"trained_betas": [0.1, 0.2]}, "trained_betas"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
    ],
)
def test_unsupported_options_are_named(config, named):
    with pytest.raises(ValueError, match=named):
        NoiseSchedule.from_config(config)

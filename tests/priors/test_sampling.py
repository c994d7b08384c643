import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from helpers.configs import reference_config

from dreamfusion_jax.diffusion.noise_schedule import NoiseSchedule, Thresholding
from dreamfusion_jax.priors.prior import Condition, GaussianPrior
from dreamfusion_jax.priors.sampling import sample, sample_texts

SCHEDULE = NoiseSchedule.from_config({"beta_schedule": "squaredcos_cap_v2"})
MEANS = (0.3, -0.2, 0.0)


def draw(std, steps, guidance_weight=0.0, seed=0, unconditional=0.0, size=64):
    prior = GaussianPrior(SCHEDULE, std=std, image_size=size)
    means = jnp.asarray(MEANS)
    return np.asarray(
        sample(
            jax.random.key(seed),
            prior,
            None,
            Condition(means, jnp.full_like(means, unconditional)),
            steps=steps,
            guidance_weight=guidance_weight,
            clip_denoised=False,
        ),
        np.float64,
    )


def test_samples_have_the_mean_and_spread_of_a_gaussian():
    images = draw(std=0.2, steps=250)
    assert images.shape == (3, 64, 64, 3)
    for image, mean in zip(images, MEANS, strict=True):
        # Pixels are half as far apart in [0, 1] as z_0 in [-1, 1].
        assert image.mean() == pytest.approx(0.5 + 0.5 * mean, abs=0.004)
        assert image.std() == pytest.approx(0.5 * 0.2, rel=0.02)
        standard = (image - image.mean()) / image.std()
        assert np.mean(standard**4) == pytest.approx(3.0, abs=0.2)
        neighbours = np.mean(standard[:, 1:] * standard[:, :-1])
        assert abs(neighbours) < 0.03


def test_guidance_moves_the_mean_away_from_the_unconditional_one():
    # DDIM is a method of first order: four times the steps, a quarter of the error.
    errors = []
    for steps in (100, 400):
        images = draw(std=0.1, steps=steps, guidance_weight=0.5, unconditional=0.1)
        for image, mean in zip(images, MEANS, strict=True):
            guided = mean + 0.5 * (mean - 0.1)
            assert image.mean() == pytest.approx(0.5 + 0.5 * guided, abs=0.004)
        errors.append(abs(images.std(axis=(1, 2, 3)).mean() / (0.5 * 0.1) - 1))
    assert errors[1] < 0.02 and errors[1] < 0.4 * errors[0]


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_prior_that_knows_the_image_gives_it_in_any_number_of_steps(steps):
    images = draw(std=0.0, steps=steps, size=8)
    expected = 0.5 + 0.5 * np.array(MEANS)
    # A single step divides the rounding of z by alpha = 5e-5.
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), expected, atol=2e-3)


def test_the_seed_decides():
    first, again, other = (draw(0.2, 5, seed=seed, size=8) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).mean() > 0.02


def test_pictures_of_texts_are_in_range():
    prior = GaussianPrior(SCHEDULE, std=3.0, image_size=8)
    images = sample_texts(jax.random.key(0), prior, None, ["one", "two"], steps=5)
    assert images.shape == (2, 8, 8, 3)
    assert 0.0 <= float(images.min()) < 0.1 and 0.9 < float(images.max()) <= 1.0


def spread_of_ancestral_samples(std, steps):
    """Of samples, over that of the data: every step is linear where the prior is a Gaussian."""
    levels = np.asarray(SCHEDULE.alphas_cumprod, np.float64)
    picked = levels[np.round(np.linspace(len(levels) - 1, 0, steps)).astype(int)]
    alphas, sigmas, variance = np.sqrt(picked), np.sqrt(1 - picked), 1.0
    shrink = alphas * std**2 / (picked * std**2 + sigmas**2)  # E[x | z] = shrink z
    for i in range(steps - 1):
        added = sigmas[i + 1] / sigmas[i] * np.sqrt(1 - picked[i] / picked[i + 1])
        eps = np.sqrt(sigmas[i + 1] ** 2 - added**2) * (1 - alphas[i] * shrink[i]) / sigmas[i]
        variance = (alphas[i + 1] * shrink[i] + eps) ** 2 * variance + added**2
    return shrink[-1] * np.sqrt(variance) / std


def test_ancestral_samples_have_the_mean_and_spread_that_follow_and_forget_the_start():
    prior = GaussianPrior(SCHEDULE, std=0.2, image_size=64)
    condition = Condition(jnp.asarray(MEANS), jnp.zeros(3))
    options = {"steps": 250, "guidance_weight": 0.0, "clip_denoised": False}
    images, quiet = (
        np.asarray(sample(jax.random.key(0), prior, None, condition, **options, eta=eta))
        for eta in (1.0, 0.0)
    )
    expected = 0.5 * 0.2 * spread_of_ancestral_samples(0.2, 250)
    for image, mean in zip(images, MEANS, strict=True):
        assert image.mean() == pytest.approx(0.5 + 0.5 * mean, abs=0.004)
        assert image.std() == pytest.approx(expected, rel=0.02)
    # The noise at the start decides all of DDIM's pictures, and nothing of these.
    start = np.asarray(jax.random.normal(jax.random.key(0), images.shape))
    kept, lost = (np.corrcoef(x[0].ravel(), start[0].ravel())[0, 1] for x in (quiet, images))
    assert kept > 0.99 and abs(lost) < 0.05


STABLE = NoiseSchedule.from_config(reference_config("stable-diffusion-v1-5", "scheduler"))
LINEAR = GaussianPrior(STABLE, std=0.3, image_size=8)
PLAIN = {"guidance_weight": 0.0, "clip_denoised": False}


@pytest.mark.parametrize("steps", [1, 6, 20])
def test_dpm_solver_is_that_of_diffusers_on_a_linear_model(steps):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **{
            k: v
            for k, v in reference_config("stable-diffusion-v1-5", "scheduler").items()
            if k in ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule")
        },
        algorithm_type="dpmsolver++",
        solver_order=2,
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(steps)
    levels = scheduler.alphas_cumprod.double()
    mean = torch.tensor(MEANS, dtype=torch.float64).reshape(3, 1, 1, 1)
    z = torch.tensor(np.asarray(jax.random.normal(jax.random.key(4), (3, 8, 8, 3)), np.float64))
    for t in scheduler.timesteps:
        alpha, sigma = levels[t] ** 0.5, (1 - levels[t]) ** 0.5
        eps = sigma * (z - alpha * mean) / (alpha**2 * 0.3**2 + sigma**2)
        z = scheduler.step(eps, t, z).prev_sample
    condition = Condition(jnp.asarray(MEANS), jnp.zeros(3))
    ours = sample(jax.random.key(4), LINEAR, None, condition, steps=steps, solver="dpm++", **PLAIN)
    wanted = np.clip(0.5 + 0.5 * z.numpy(), 0, 1)
    assert wanted.std() > 0.02
    np.testing.assert_allclose(ours, wanted, atol=2e-4)


class Wide(GaussianPrior):
    """Of the spread that the latents of Stable Diffusion have, and shown without clipping."""

    def decode_image(self, params, z):
        return 0.5 + 0.1 * z


def test_dpm_solver_needs_fewer_steps():
    condition = Condition(jnp.zeros(1), jnp.zeros(1))
    prior = Wide(STABLE, std=1.0, image_size=32)
    errors = {}
    for solver in ("ddim", "dpm++"):
        images, start = (
            sample(jax.random.key(1), prior, None, condition, steps=15, solver=solver, **PLAIN),
            jax.random.normal(jax.random.key(1), (1, 32, 32, 3)),
        )
        errors[solver] = abs(float(images.std() / (0.1 * start.std())) - 1)
    assert errors["dpm++"] < 0.5 * errors["ddim"] < 0.06


def test_progress_and_parts_change_nothing():
    condition = Condition(jnp.asarray(MEANS), jnp.zeros(3))
    told = []
    options = {"steps": 4, "guidance_weight": 0.5}
    whole, slowly, parts = (
        sample(jax.random.key(0), LINEAR, None, condition, **options, **more)
        for more in ({}, {"progress": lambda: told.append(1)}, {"together": 2})
    )
    assert len(told) == 4
    np.testing.assert_allclose(slowly, whole, atol=1e-5)
    np.testing.assert_allclose(parts, whole, atol=1e-5)


def test_only_ddim_adds_noise():
    condition = Condition(jnp.zeros(1), jnp.zeros(1))
    with pytest.raises(ValueError, match="only the solver ddim adds noise"):
        sample(jax.random.key(0), LINEAR, None, condition, steps=2, eta=1.0, solver="dpm++")


def test_thresholding_is_that_of_diffusers_and_read_from_its_configuration():
    values = reference_config("IF-I-XL-v1.0", "scheduler")
    schedule = NoiseSchedule.from_config(values)
    assert schedule.thresholding == Thresholding(0.95, 1.5)
    assert STABLE.thresholding is None
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
    x *= np.array([0.2, 0.7, 3.0], np.float32).reshape(3, 1, 1, 1)
    theirs = diffusers.DDPMScheduler.from_config(values)._threshold_sample(torch.tensor(x))
    np.testing.assert_allclose(schedule.thresholding(jnp.array(x)), theirs, rtol=1e-5)


def test_pictures_of_a_thresholding_prior_are_not_clipped_but_scaled():
    means = jnp.asarray(np.linspace(-2.4, 2.4, 64, dtype=np.float32).reshape(1, 8, 8, 1))
    means = jnp.broadcast_to(means, (1, 8, 8, 3))
    options = {"steps": 1, "guidance_weight": 0.0}
    levels = STABLE.alphas_cumprod
    bounds = {None: np.clip(means, -1, 1), Thresholding(1.0, 3.0): np.asarray(means) / 2.4}
    for thresholding, wanted in bounds.items():
        prior = GaussianPrior(NoiseSchedule(levels, "epsilon", thresholding), image_size=8)
        images = sample(jax.random.key(0), prior, None, Condition(means, means), **options)
        np.testing.assert_allclose(images, 0.5 + 0.5 * wanted, atol=1e-3)

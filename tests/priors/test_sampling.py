import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamfusion_jax.diffusion.noise_schedule import NoiseSchedule
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

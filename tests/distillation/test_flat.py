"""Score distillation of pictures ends where the exact prior's mean is, as far as it can."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import SCHEDULE

from dreamfusion_jax.distillation.flat import FlatConfig, FreePixels, Mirrored, distil_pictures
from dreamfusion_jax.priors.prior import Condition, GaussianPrior

PRIOR = GaussianPrior(SCHEDULE, image_size=8)


def _distil(generator, steps=150, **changes):
    truth = jnp.asarray(np.random.default_rng(0).uniform(-0.8, 0.8, (2, 8, 8, 3)), jnp.float32)
    seen = []
    pictures = distil_pictures(
        jax.random.key(0),
        PRIOR,
        None,
        Condition(truth, jnp.zeros_like(truth)),
        generator,
        FlatConfig(steps=steps, **changes),
        watch=lambda step, images: seen.append((step, np.asarray(images))),
    )
    return np.asarray(pictures), np.asarray(0.5 + 0.5 * truth), seen


def test_free_pixels_become_what_the_guided_prior_sees() -> None:
    pictures, truth, seen = _distil(FreePixels())
    # Guidance 3 from an empty prompt whose mean is 0: four times the mean, clipped to [-1, 1].
    expected = 0.5 + 0.5 * np.clip(4 * (2 * truth - 1), -1, 1)
    np.testing.assert_allclose(pictures, expected, atol=0.03)
    assert [step for step, _ in seen] == list(range(151))
    assert np.abs(seen[0][1] - 0.5).max() < 0.3
    np.testing.assert_array_equal(seen[-1][1], pictures)


def test_a_mirrored_picture_becomes_the_mean_of_what_both_halves_should_be() -> None:
    pictures, truth, _ = _distil(Mirrored())
    np.testing.assert_array_equal(pictures, pictures[:, :, ::-1])
    wanted = 0.5 + 0.5 * np.clip(4 * (2 * truth - 1), -1, 1)
    expected = (wanted + wanted[:, :, ::-1]) / 2
    np.testing.assert_allclose(pictures, expected, atol=0.05)


@pytest.mark.parametrize("change", [{"steps": 0}, {"learning_rate": 0.0}])
def test_settings_out_of_range_are_refused(change) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        FlatConfig(**change)

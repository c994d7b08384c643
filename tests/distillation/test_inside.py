"""The pictures of a step, from a prior that knows the truth."""

import jax
import jax.numpy as jnp
import numpy as np
from helpers.tiny import SCHEDULE

from dreamfusion_jax.distillation.inside import pictures_of
from dreamfusion_jax.distillation.showing import Shown
from dreamfusion_jax.priors.prior import GaussianPrior


def test_pictures_follow_from_one_another() -> None:
    key = jax.random.key(0)
    z, eps = (
        0.2 * jax.random.normal(key, (2, 4, 4, 3)),
        jax.random.normal(jax.random.key(1), (2, 4, 4, 3)),
    )
    t = jnp.array([0.3, 0.8])
    answer = jnp.clip(z + 0.3, -1, 1)
    noised = SCHEDULE.add_noise(z, eps, t)
    some = jnp.zeros(2)
    shown = Shown(z_0=z, z_t=noised, answer=answer, residual=some, opacity=some, t=t)
    rows = pictures_of(shown, GaussianPrior(SCHEDULE, image_size=4), None)
    assert list(rows) == [
        *("rendering", "with noise", "predicted noise", "added noise", "denoised", "update")
    ]
    picture = {name: np.asarray(images) for name, images in rows.items()}
    np.testing.assert_allclose(picture["rendering"], 0.5 + 0.5 * np.asarray(z), atol=1e-6)
    noise = np.clip(0.5 + 0.5 * np.asarray(eps) / 3, 0, 1)
    np.testing.assert_allclose(picture["added noise"], noise, atol=1e-4)
    # The prior has a brighter picture in mind: the rendering is pushed there, everywhere alike.
    np.testing.assert_allclose(picture["update"], 1.0, atol=2e-3)

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import LEVELS, SCHEDULE, light, one_camera

from dreamfusion_jax.priors.prior import GaussianPrior, Prior, View, encode_prompts, text_condition
from dreamfusion_jax.priors.prompts import PromptConfig, Text


@pytest.mark.parametrize("step", [1, 5, 8])
def test_the_gaussian_prior_is_the_regression_of_the_noise_on_the_noised_image(step):
    # The best prediction of eps from z is linear for Gaussian images: least squares finds it.
    mean, std, num = 0.4, 0.6, 400_000
    rng = np.random.default_rng(step)
    x, eps = mean + std * rng.normal(size=num), rng.normal(size=num)
    z = np.sqrt(LEVELS[step]) * x + np.sqrt(1 - LEVELS[step]) * eps
    slope = np.cov(z, eps)[0, 1] / z.var()
    centre = eps.mean() - slope * z.mean()
    prior = GaussianPrior(SCHEDULE, std)
    ask = np.linspace(-2, 2, 6).astype(np.float32).reshape(2, 3, 1, 1)
    got = prior.predict_eps(
        None, jnp.array(ask), jnp.full(2, (step + 0.5) / 10), jnp.full((2, 1, 1), mean)
    )
    np.testing.assert_allclose(got, centre + slope * ask, atol=6 / np.sqrt(num) * 2)


def test_pixels_are_scaled_and_scaled_back():
    prior = GaussianPrior(SCHEDULE)
    assert isinstance(prior, Prior)
    image = jnp.array(np.random.default_rng(0).uniform(size=(2, 4, 4, 3)), jnp.float32)
    z = prior.encode_image(None, image)
    np.testing.assert_allclose(z, 2 * np.asarray(image) - 1, atol=1e-6)
    np.testing.assert_allclose(prior.decode_image(None, z), image, atol=1e-6)


@dataclasses.dataclass(frozen=True, eq=False)
class CountingPrior(GaussianPrior):
    calls: list = dataclasses.field(default_factory=list, kw_only=True)

    def encode_text(self, params, prompts):
        self.calls.append(list(prompts))
        return jnp.arange(len(prompts), dtype=jnp.float32)[:, None, None] * jnp.ones((1, 2, 3))


@pytest.mark.parametrize("config", [PromptConfig(), PromptConfig("octants")])
def test_all_texts_are_encoded_in_one_call(config):
    prior = CountingPrior(SCHEDULE)
    text = encode_prompts(prior, None, "a duck", config, negative="a goose")
    (call,) = prior.calls
    *views, plain, negative = call
    assert views == [f"a duck, {name}" for name in config.names]
    assert (plain, negative) == ("a duck", "a goose")
    np.testing.assert_array_equal(text.views[:, 0, 0], np.arange(len(views)))
    assert text.plain[0, 0] == len(views) and text.unconditional[0, 0] == len(views) + 1
    encode_prompts(prior, None, "a duck", config)
    assert prior.calls[1][-1] == ""


def test_the_condition_follows_each_camera():
    above = one_camera(elevation=1.4)
    cameras = jax.tree.map(lambda *x: jnp.stack(x), one_camera(), above)
    view = View(cameras, light((2,)), jnp.ones((2, 3)))
    values = jnp.arange(6.0)[:, None, None] * jnp.ones((1, 2, 3))
    text = Text(values[:4], values[4], values[5])
    condition = text_condition(text, view, PromptConfig())
    assert condition.conditional.shape == condition.unconditional.shape == (2, 2, 3)
    np.testing.assert_array_equal(condition.conditional[:, 0, 0], [0, 3])
    np.testing.assert_array_equal(condition.unconditional[:, 0, 0], [5, 5])

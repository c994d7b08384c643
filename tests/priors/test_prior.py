import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import LEVELS, SCHEDULE, BentPrior, light, one_camera

from dreamfusion_jax.priors.prior import (
    GaussianPrior,
    Predictions,
    Prior,
    View,
    away_from,
    encode_prompts,
    guide,
    predict,
    text_condition,
)
from dreamfusion_jax.priors.prompts import PromptConfig, Text, text_for
from dreamfusion_jax.priors.sampling import sample_texts


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


@dataclasses.dataclass(frozen=True, eq=False)
class TwoEncoderPrior(GaussianPrior):
    """Its text is a pytree of two arrays, whose sum is the mean picture."""

    def encode_text(self, params, prompts):
        numbers = jnp.array([0.01 * len(prompt) for prompt in prompts])
        return {"words": numbers[:, None, None] * jnp.ones((1, 2, 3)), "pooled": (-2 * numbers,)}

    def predict_eps(self, params, z, t, embedding):
        mean = embedding["words"][:, 0, 0] + embedding["pooled"][0]
        return super().predict_eps(params, z, t, mean)


@pytest.mark.parametrize("views", ["nearest", "interpolate", "octants", "none"])
def test_a_text_may_be_a_pytree(views):
    config = PromptConfig(views)
    prior = TwoEncoderPrior(SCHEDULE, 0.5)
    text = encode_prompts(prior, None, "a duck", config, negative="a goose")
    angles = [one_camera(azimuth, elevation) for azimuth, elevation in ((0.2, 0.1), (2, 0.3))]
    camera = jax.tree.map(lambda *x: jnp.stack(x), *angles)
    got = text_for(text, camera, config)
    # Each leaf follows the camera as it would alone.
    for pick in (lambda tree: tree["words"], lambda tree: tree["pooled"][0]):
        alone = Text(*map(pick, (text.views, text.plain, text.unconditional)))
        np.testing.assert_array_equal(pick(got), text_for(alone, camera, config))
    assert got["words"].shape == (2, 2, 3) and got["pooled"][0].shape == (2,)

    view = View(camera, light((2,)), jnp.ones((2, 3)))
    condition = prior.condition(text, view, config)
    assert condition.views == 2
    np.testing.assert_allclose(condition.unconditional["pooled"][0], [-0.14, -0.14], rtol=1e-6)

    rng = np.random.default_rng(1)
    z, t = jnp.array(rng.normal(size=(2, 3, 3, 3)), jnp.float32), jnp.array([0.25, 0.65])
    both = predict(prior, None, z, t, condition)
    for name in ("conditional", "unconditional"):
        alone = prior.predict_eps(None, z, t, getattr(condition, name))
        np.testing.assert_allclose(getattr(both, name), alone, rtol=1e-6)
    assert np.abs(both.conditional - both.unconditional).max() > 1e-3
    guided = guide(prior, None, z, t, condition, 7.0)
    wanted = 8 * np.asarray(both.conditional) - 7 * np.asarray(both.unconditional)
    np.testing.assert_allclose(guided, wanted, rtol=1e-4, atol=1e-5)


def test_pictures_of_a_pytree_of_texts():
    prior = TwoEncoderPrior(SCHEDULE, 0.0, image_size=4)
    texts = ["a duck", "a much longer caption"]
    pictures = sample_texts(jax.random.key(0), prior, None, texts, steps=4, guidance_weight=0.0)
    for picture, text in zip(pictures, texts, strict=True):
        # The mean, 0.01 - 0.02 for each letter, from [-1, 1] to [0, 1].
        np.testing.assert_allclose(picture, 0.5 - 0.005 * len(text), atol=1e-5)


def test_what_is_taken_away_is_perpendicular_to_the_prompt():
    shape = (2, 4, 4, 3)
    rng = np.random.default_rng(2)
    towards, empty, *negatives = (rng.normal(size=shape).astype(np.float32) for _ in range(4))
    weights = rng.uniform(0.2, 1.5, (2, 2)).astype(np.float32)
    eps = Predictions(
        jnp.array(empty + towards), jnp.array(empty), tuple(map(jnp.array, negatives))
    )
    got = np.asarray(jax.jit(away_from)(eps, tuple(jnp.array(weights))), np.float64)
    for view in range(2):
        axis = towards[view].reshape(-1, 1).astype(np.float64)
        wanted = 0.0
        for negative, weight in zip(negatives, weights[:, view], strict=True):
            direction = (negative - empty)[view].reshape(-1).astype(np.float64)
            # The rest of a least-squares fit is what is perpendicular.
            along = axis @ np.linalg.lstsq(axis, direction, rcond=None)[0]
            wanted = wanted - weight * (direction - along)
        np.testing.assert_allclose(got[view].reshape(-1), wanted, atol=1e-4)
        assert abs(got[view].reshape(-1) @ axis[:, 0]) < 1e-3
    # What says the same as the prompt, or nothing at all, takes nothing away.
    same = Predictions(eps.conditional, eps.unconditional, (eps.conditional, eps.unconditional))
    np.testing.assert_allclose(away_from(same, tuple(jnp.array(weights))), 0.0, atol=1e-5)
    nothing = Predictions(eps.unconditional, eps.unconditional, (eps.conditional,))
    assert np.isfinite(away_from(nothing, (jnp.ones(2),))).all()


def test_perp_neg_leads_away_from_the_front_where_it_is_not_in_front():
    config, prior = PromptConfig("perp-neg"), BentPrior(SCHEDULE)
    rng = np.random.default_rng(3)
    text = Text(*(jnp.array(rng.normal(size=(*n, 1, 1)), jnp.float32) for n in ((4,), (), ())))
    angles = [one_camera(azimuth, 0.1) for azimuth in (0.0, np.pi / 2, np.pi)]
    camera = jax.tree.map(lambda *x: jnp.stack(x), *angles)
    condition = text_condition(text, View(camera, light((3,)), jnp.ones((3, 3))), config)
    # In front, at the side and behind; the first is the weight of the front, then of the side.
    wanted = [[0.0, 1.574, 1.967], [1.574, 0.0, 0.394]]
    np.testing.assert_allclose(np.stack(condition.weights), wanted, atol=1e-3)
    for negative, name in zip(condition.negatives, (0, 1), strict=True):
        np.testing.assert_array_equal(negative, np.broadcast_to(text.views[name], (3, 1, 1)))

    z, t = jnp.array(rng.normal(size=(3, 4, 4, 3)), jnp.float32), jnp.array([0.2, 0.5, 0.8])
    params, omega = prior.params(), 6.5
    texts = (condition.conditional, condition.unconditional, *condition.negatives)
    with_text, empty, *others = (np.asarray(prior.predict_eps(params, z, t, c)) for c in texts)
    expected = with_text + omega * (with_text - empty)
    for view in range(3):
        for other, weight in zip(others, wanted, strict=True):
            a, b = (with_text - empty)[view], (other - empty)[view]
            expected[view] -= (1 + omega) * weight[view] * (b - (a * b).sum() / (a * a).sum() * a)
    got = guide(prior, params, z, t, condition, omega)
    np.testing.assert_allclose(got, expected, rtol=1e-2, atol=2e-3 * np.abs(expected).max())
    # Without guidance there is nothing to lead away from.
    alone = guide(prior, params, z, t, condition, 0.0)
    np.testing.assert_allclose(alone, with_text, rtol=1e-5, atol=1e-6)

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import LEVELS, SCHEDULE, BentPrior, grey_renderer, one_camera

from dreamfusion_jax.distillation.protocol import Carry, add_noise, residual_loss
from dreamfusion_jax.distillation.sds import Sds
from dreamfusion_jax.priors.prior import Condition, GaussianPrior
from dreamfusion_jax.scene.camera import cast_rays
from dreamfusion_jax.scene.fields.mlp import MlpField
from dreamfusion_jax.scene.render import SamplingConfig, SceneModel

T = np.array([0.05, 0.3, 0.55, 0.92], np.float32)
SHAPE = (4, 3, 2, 3)
rng = np.random.default_rng(0)
X, EPS = (rng.normal(size=SHAPE).astype(np.float32) for _ in range(2))
MEAN, OTHER = (rng.uniform(-0.8, 0.8, SHAPE).astype(np.float32) for _ in range(2))


def distil(prior, params, z, t, eps, condition, config):
    """Pictures with noise, and what SDS makes of them."""
    noised = add_noise(prior.schedule, z, eps, t)
    nothing, key = Carry(params={}, memory={}), jax.random.key(0)
    return noised, config(nothing, prior, params, noised, condition, key)


@dataclasses.dataclass(frozen=True, eq=False)
class Unbounded(GaussianPrior):
    bounded: ClassVar[bool] = False


def run(prior, params=None, z=X, eps=EPS, **settings):
    condition = Condition(jnp.array(MEAN), jnp.array(OTHER))
    call = functools.partial(distil, prior, condition=condition, config=Sds(**settings))
    return jax.jit(call)(params, jnp.array(z), jnp.array(T), jnp.array(eps))


def coefficients():
    """alpha, sigma of the times T, in float64, to multiply images."""
    level = LEVELS[np.floor(T * 10).astype(int)].reshape(-1, 1, 1, 1)
    return np.sqrt(level), np.sqrt(1 - level)


def closed_form(std, omega, eps):
    """eps_hat - eps for images N(MEAN, std^2 I), by Bayes' rule."""
    alpha, sigma = coefficients()
    spread = alpha**2 * std**2 + sigma**2
    towards = sigma * (X - MEAN) - omega * sigma * (MEAN - OTHER)
    return alpha / spread * (towards - alpha * std**2 * eps)


@pytest.mark.parametrize("omega", [0.0, 7.5, 100.0])
@pytest.mark.parametrize("std", [0.0, 0.7])
def test_residual_is_the_closed_form_of_a_gaussian_prior(std, omega):
    noised, got = run(GaussianPrior(SCHEDULE, std), guidance_weight=omega)
    alpha, sigma = coefficients()
    np.testing.assert_allclose(noised.z_t, alpha * X + sigma * EPS, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(noised.eps, EPS)
    np.testing.assert_array_equal(noised.z_0, X)
    np.testing.assert_array_equal(noised.t, T)
    assert got.loss == 0
    wanted = sigma**2 * closed_form(std, omega, EPS)
    np.testing.assert_allclose(got.residual, wanted, rtol=1e-4, atol=2e-6 * (1 + omega))


def test_expected_residual_is_the_gradient_of_the_divergence_of_the_noised_images():
    # KL(N(alpha x, sigma^2 I) || p(z_t)), whose gradient is alpha / sigma E[eps_hat - eps]
    # (DreamFusion, appendix A.4). The residual is linear in the noise: +-eps average to it.
    std = 0.7
    prior = GaussianPrior(SCHEDULE, std)
    both = [run(prior, eps=e, guidance_weight=0.0, weighting="uniform") for e in (EPS, -EPS)]
    expected = np.mean([np.asarray(d.residual, np.float64) for _, d in both], axis=0)
    alpha, sigma = coefficients()

    def divergence(x):
        variance = alpha**2 * std**2 + sigma**2
        return 0.5 * (
            np.log(variance / sigma**2) + (sigma**2 + alpha**2 * (x - MEAN) ** 2) / variance - 1.0
        )

    x, step = X.astype(np.float64), 1e-4
    gradient = (divergence(x + step) - divergence(x - step)) / (2 * step)
    np.testing.assert_allclose(alpha / sigma * expected, gradient, rtol=1e-4, atol=2e-6)


def test_weightings():
    prior = GaussianPrior(SCHEDULE, 0.7)
    alpha, sigma = coefficients()
    for name, factor in {"sigma_squared": sigma**2, "uniform": 1.0, "image": sigma / alpha}.items():
        residual = run(prior, guidance_weight=3.0, weighting=name)[1].residual
        wanted = factor * closed_form(0.7, 3.0, EPS)
        np.testing.assert_allclose(residual, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("omega", [0.0, 0.05, 20.0])
def test_clip_denoised_forms_the_residual_from_the_clipped_image(omega):
    guided = MEAN.astype(np.float64) + omega * (MEAN - OTHER)
    prior = GaussianPrior(SCHEDULE, 0.0)
    settings = {"guidance_weight": omega, "weighting": "image"}
    _, plain = run(prior, **settings)
    noised, clipped = run(prior, **settings, clip_denoised=True)
    bound = 1e-5 * (1 + omega) * 10  # Rounding of eps_hat, divided by the smallest alpha, 0.2.
    np.testing.assert_allclose(plain.residual, X - guided, atol=bound)
    np.testing.assert_allclose(clipped.residual, X - np.clip(guided, -1, 1), atol=bound)
    alpha, sigma = coefficients()
    implied = (noised.z_t - sigma * np.asarray(clipped.eps_hat)) / alpha
    np.testing.assert_allclose(implied, np.clip(guided, -1, 1), atol=bound)
    if omega == 20.0:
        assert np.abs(guided).max() > 5


def test_large_elements_of_the_residual_are_clipped():
    prior = GaussianPrior(SCHEDULE, 0.7)
    _, plain = run(prior, guidance_weight=20.0)
    _, limited = run(prior, guidance_weight=20.0, residual_limit=0.5)
    assert np.abs(plain.residual).max() > 2 and np.abs(plain.residual).min() < 0.5
    np.testing.assert_allclose(limited.residual, np.clip(plain.residual, -0.5, 0.5))
    np.testing.assert_array_equal(limited.eps_hat, plain.eps_hat)
    with pytest.raises(ValueError, match=r"^residual_limit of Sds must be above 0"):
        Sds(residual_limit=0.0)


def test_guidance_combines_two_separate_predictions():
    prior, params = BentPrior(SCHEDULE), BentPrior.params()
    omega = 12.0
    noised, got = run(prior, params, guidance_weight=omega)
    with_text, without = (
        np.asarray(prior.predict_eps(params, noised.z_t, jnp.array(T), jnp.array(c)), np.float64)
        for c in (MEAN, OTHER)
    )
    wanted = (1 + omega) * with_text - omega * without
    np.testing.assert_allclose(got.eps_hat, wanted, rtol=1e-5, atol=2e-5)


def test_guidance_weight_zero_is_the_conditional_prediction():
    prior, params = BentPrior(SCHEDULE), BentPrior.params()
    noised, got = run(prior, params, guidance_weight=0.0)
    alone = jax.jit(prior.predict_eps)(params, noised.z_t, jnp.array(T), jnp.array(MEAN))
    np.testing.assert_allclose(got.eps_hat, alone, rtol=1e-6, atol=1e-7)


def test_gradient_is_the_residual_alone():
    prior, params = BentPrior(SCHEDULE), BentPrior.params()
    condition = Condition(jnp.array(MEAN), jnp.array(OTHER))

    @jax.jit
    def gradients(z, params, condition):
        def loss(z, params, condition):
            _, distilled = distil(prior, params, z, jnp.array(T), jnp.array(EPS), condition, Sds())
            return residual_loss(distilled.residual, z), distilled.residual

        return jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(z, params, condition)

    (to_z, to_params, to_condition), residual = gradients(jnp.array(X), params, condition)
    assert float(jnp.abs(residual).max()) > 1
    # The mean over 4 views of 3 x 2 positions.
    np.testing.assert_allclose(to_z, residual / (4 * 3 * 2), rtol=1e-6)
    for leaf in jax.tree.leaves((to_params, to_condition)):
        np.testing.assert_array_equal(leaf, np.zeros(leaf.shape))


def test_gradient_through_the_renderer_is_a_vector_jacobian_product():
    sampling = SamplingConfig(radius=1.0, proposals=(), intervals=6)
    model = SceneModel(MlpField(width=8, blocks=1, frequencies=2), sampling, background=None)
    params = model.init(jax.random.key(0))
    rays = jax.tree.map(lambda x: x[None], cast_rays(one_camera(), 3, 3))
    prior, t = GaussianPrior(SCHEDULE, 0.5), 0.33
    mean, eps = (rng.normal(size=(1, 3, 3, 3)).astype(np.float32) for _ in range(2))
    omega = 4.0
    condition = Condition(jnp.array(mean), jnp.zeros_like(mean))

    def render(params):
        return grey_renderer(model, rays, 1e-3)(params).colour

    @jax.jit
    def sds_gradient(params):
        def loss(params):
            z = prior.encode_image(None, render(params))
            time = jnp.full(1, t)
            config = Sds(guidance_weight=omega)
            _, distilled = distil(prior, None, z, time, jnp.array(eps), condition, config)
            return residual_loss(distilled.residual, z)

        return jax.grad(loss)(params)

    @jax.jit
    def product(params, cotangent):
        colour, pullback = jax.vjp(render, params)
        return colour, pullback(cotangent)[0]

    colour, _ = product(params, jnp.zeros_like(eps))
    alpha, sigma = np.sqrt(LEVELS[3]), np.sqrt(1 - LEVELS[3])
    spread = alpha**2 * 0.5**2 + sigma**2
    x = 2 * np.asarray(colour, np.float64) - 1
    difference = sigma * (x - (1 + omega) * mean) - alpha * 0.5**2 * eps
    residual = sigma**2 * alpha / spread * difference
    # Pixels are scaled by 2 on their way to z_0; the loss is a mean over 9 positions.
    _, wanted = product(params, jnp.array(2.0 * residual / 9, jnp.float32))
    got = sds_gradient(params)
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(got)) > 1e-2
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_clipping_is_refused_where_z_0_has_no_bounds():
    unbounded = Unbounded(SCHEDULE)
    Sds(clip_denoised=False).check(unbounded)
    Sds(clip_denoised=True).check(GaussianPrior(SCHEDULE))
    with pytest.raises(ValueError, match="clip_denoised is for pixel priors"):
        Sds(clip_denoised=True).check(unbounded)
    with pytest.raises(ValueError, match="clip_denoised is for pixel priors"):
        run(unbounded, clip_denoised=True)


@pytest.mark.parametrize("weight", [-5.0, float("nan"), float("inf")])
def test_impossible_guidance_is_refused(weight):
    with pytest.raises(ValueError, match=r"^guidance_weight of Sds must be at least 0"):
        Sds(guidance_weight=weight)

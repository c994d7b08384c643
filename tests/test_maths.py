import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamfusion_jax.maths import safe_exp, safe_norm, safe_normalize


def test_safe_exp_is_exp_and_stays_finite_with_a_gradient_that_pushes_back():
    x = jnp.array([-80.0, -3.0, 0.0, 10.0, 79.9])
    np.testing.assert_allclose(safe_exp(x), np.exp(np.asarray(x, np.float64)), rtol=1e-5)
    # Twice differentiable: normals are gradients of the density, and have gradients themselves.
    for order in (jax.grad(safe_exp), jax.grad(jax.grad(safe_exp))):
        np.testing.assert_allclose(jax.vmap(order)(x), np.exp(np.asarray(x, np.float64)), rtol=1e-5)
        np.testing.assert_allclose(order(jnp.array(1e4)), np.exp(80.0), rtol=1e-5)
    assert np.isfinite(safe_exp(jnp.array(jnp.inf)))


def test_safe_norm_and_normalize_match_numpy():
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    x *= np.logspace(-8, 8, 20, dtype=np.float32)[:, None]
    norm = np.linalg.norm(x.astype(np.float64), axis=-1, keepdims=True)
    np.testing.assert_allclose(safe_norm(jnp.array(x)), norm, rtol=1e-6)
    np.testing.assert_allclose(safe_normalize(jnp.array(x)), x / norm, rtol=1e-6)


@pytest.mark.parametrize("function", [safe_norm, safe_normalize])
def test_the_zero_vector_has_value_and_gradients_of_zero(function):
    def total(x):
        return jnp.sum(function(x))

    zero = jnp.zeros(3)
    assert total(zero) == 0.0
    np.testing.assert_array_equal(jax.grad(total)(zero), np.zeros(3))
    np.testing.assert_array_equal(jax.hessian(total)(zero), np.zeros((3, 3)))


def test_normalize_gradient_is_the_projection_to_the_tangent_plane():
    x = np.array([0.3, -1.2, 0.7])
    norm = np.linalg.norm(x)
    jacobian = (np.eye(3) - np.outer(x, x) / norm**2) / norm
    got = jax.jacobian(safe_normalize)(jnp.array(x, jnp.float32))
    np.testing.assert_allclose(got, jacobian, atol=1e-6)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamfusion_jax.maths import (
    expand_to,
    from_symmetric,
    safe_exp,
    safe_norm,
    safe_normalize,
    to_symmetric,
)


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
    np.testing.assert_array_equal(jax.jit(jax.grad(total))(zero), np.zeros(3))
    np.testing.assert_array_equal(jax.jit(jax.hessian(total))(zero), np.zeros((3, 3)))


LENGTHS = [10.0**power for power in (-30, -20, -13, -12, -9, -4, 0, 4, 9, 13, 18, 20, 30)]
DIRECTION = np.array([0.3, -1.2, 0.7])


@pytest.mark.parametrize("length", LENGTHS)
def test_norm_and_direction_and_their_gradients_hold_for_all_lengths(length):
    x = np.float32(length) * DIRECTION.astype(np.float32)
    exact = x.astype(np.float64)
    norm = np.linalg.norm(exact)
    step = 1e-4 * norm * np.eye(3)

    def differences(function):
        ahead, behind = (np.stack([function(exact + s * e) for e in step]) for s in (1, -1))
        return (ahead - behind).T / (2e-4 * norm)

    np.testing.assert_allclose(jax.jit(safe_norm)(x), [norm], rtol=1e-6)
    np.testing.assert_allclose(jax.jit(safe_normalize)(x), exact / norm, rtol=1e-6)

    closed = (np.eye(3) - np.outer(exact, exact) / norm**2) / norm
    central = differences(lambda x: x / np.linalg.norm(x))
    np.testing.assert_allclose(central, closed, atol=1e-6 / norm)
    got = np.asarray(jax.jit(jax.jacrev(safe_normalize))(x), np.float64)
    np.testing.assert_allclose(got, central, atol=1e-6 / norm)
    # Both ways of differentiation, and in a batch beside a vector of zeros and an ordinary one.
    forward = np.asarray(jax.jit(jax.jacfwd(safe_normalize))(x), np.float64)
    np.testing.assert_allclose(forward, central, atol=1e-6 / norm)
    got = jax.jit(jax.grad(lambda x: safe_norm(x)[0]))(x)
    np.testing.assert_allclose(got, differences(np.linalg.norm), atol=1e-6)
    batch = jnp.stack([jnp.zeros(3), jnp.array(x), jnp.ones(3)])
    rows = jax.jit(jax.vmap(jax.jacrev(safe_normalize)))(batch)
    np.testing.assert_array_equal(rows[0], np.zeros((3, 3)))
    np.testing.assert_allclose(rows[1], central, atol=1e-6 / norm)
    np.testing.assert_allclose(rows[2], (np.eye(3) - 1 / 3) / np.sqrt(3), atol=1e-6)


def test_one_long_side_hides_no_short_ones():
    x = jnp.array([1e25, 1e20, 0.0])
    np.testing.assert_allclose(safe_normalize(x), [1.0, 1e-5, 0.0], rtol=1e-6)
    # The short side turns the vector; along the long one its direction stays.
    jacobian = jax.jacobian(safe_normalize)(x)
    np.testing.assert_allclose(jacobian[1], [-1e-30, 1e-25, 0.0], rtol=1e-5)


@pytest.mark.parametrize(
    ("shape", "ndim", "tail", "wanted"),
    [
        ((2, 3), 4, 0, (2, 3, 1, 1)),
        ((2, 3), 4, 1, (2, 1, 1, 3)),
        ((5,), 3, 1, (1, 1, 5)),
        ((), 2, 0, (1, 1)),
        ((2, 3), 2, 1, (2, 3)),
    ],
)
def test_expand_to_inserts_axes_before_the_tail(shape, ndim, tail, wanted):
    x = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    got = expand_to(jnp.array(x), ndim, tail=tail)
    assert got.shape == wanted
    np.testing.assert_array_equal(np.asarray(got).ravel(), x.ravel())


def test_pixels_go_to_the_symmetric_range_and_back():
    pixels = jnp.array([0.0, 0.25, 0.5, 1.0])
    np.testing.assert_array_equal(to_symmetric(pixels), [-1.0, -0.5, 0.0, 1.0])
    np.testing.assert_array_equal(from_symmetric(to_symmetric(pixels)), pixels)


@pytest.mark.parametrize("function", [safe_norm, safe_normalize])
def test_the_zero_vector_stays_zero_where_the_compiler_knows_it(function):
    """XLA folds constants by rules of its own, under which 0 * inf came out once."""
    assert not jax.jit(lambda: function(-jnp.zeros((2, 3))))().any()

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.grids import encode_by_loop
from scipy.interpolate import RegularGridInterpolator

from dreamfusion_jax.scene import encoding
from dreamfusion_jax.scene.encoding import GridConfig

encode_grid = jax.jit(encoding.encode_grid, static_argnames="config")
MIXED = GridConfig(resolutions=(4, 9), features=3, log2_table_size=7)  # Dense, then hashed.


def test_positional_encoding_layout():
    x = np.array([[0.1, -0.7, 1.3], [2.0, 0.0, -1.0]], np.float32)
    code = encoding.positional_encoding(jnp.array(x), 3)
    angles = [2.0**level * x[:, axis] for level in range(3) for axis in range(3)]
    expected = np.stack([np.sin(a) for a in angles] + [np.cos(a) for a in angles], axis=-1)
    np.testing.assert_allclose(code, expected, atol=1e-6)
    exact = encoding.integrated_positional_encoding(jnp.array(x), jnp.zeros(2), 3)
    np.testing.assert_array_equal(exact, code)


def test_integrated_positional_encoding_is_the_mean_over_a_gaussian():
    rng = np.random.default_rng(0)
    mean, variance = np.array([[0.3, -1.1, 0.8], [0.0, 0.5, -0.2]]), np.array([0.02, 0.3])
    num = 200_000
    x = mean[:, None] + np.sqrt(variance)[:, None, None] * rng.normal(size=(2, num, 3))
    angles = np.concatenate([2.0**level * x for level in range(4)], axis=-1)
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=-1).mean(axis=1)
    code = encoding.integrated_positional_encoding(
        jnp.array(mean, jnp.float32), jnp.array(variance, jnp.float32), 4
    )
    # A sine varies by at most 1 / sqrt(2) around its mean; five standard errors.
    np.testing.assert_allclose(code, expected, atol=5 * np.sqrt(0.5 / num))


def test_frustum_moments_are_those_of_points_in_a_cone():
    rng = np.random.default_rng(1)
    near, far, radius, num = 0.6, 2.1, 0.3, 400_000
    distance = rng.uniform(near**3, far**3, num) ** (1 / 3)  # The cross-section grows as t^2.
    across = radius * distance * np.sqrt(rng.uniform(size=num)) * np.cos(rng.uniform(0, 7e3, num))
    moments = encoding.frustum_moments(*(jnp.array(x) for x in (near, far, radius)))
    np.testing.assert_allclose(
        moments, [distance.mean(), distance.var(), across.var()], rtol=5 / np.sqrt(num / 2)
    )


@pytest.mark.parametrize("near, far", [(0.0, 1.5), (1.0, 1.25), (2.0, 2.0 + 2**-12)])
def test_frustum_moments_match_exact_fractions_even_for_short_frustums(near, far):
    radius = 0.0625
    n, f, r = Fraction(near), Fraction(far), Fraction(radius)
    mean = Fraction(3, 4) * (f**4 - n**4) / (f**3 - n**3)
    square = Fraction(3, 5) * (f**5 - n**5) / (f**3 - n**3)
    expected = [float(m) for m in (mean, square - mean**2, r**2 * square / 4)]
    moments = encoding.frustum_moments(*(jnp.array(x, jnp.float32) for x in (near, far, radius)))
    np.testing.assert_allclose(moments, expected, rtol=1e-6)


def test_frustum_moments_at_a_point_are_finite():
    moments = encoding.frustum_moments(jnp.zeros(2), jnp.zeros(2), jnp.ones(2))
    np.testing.assert_array_equal(moments, np.zeros((3, 2)))


def inner_positions(config: GridConfig, num: int) -> np.ndarray:
    """Points at least a tenth of a cell from every cell's faces, on all levels."""
    x = np.random.default_rng(2).uniform(size=(20 * num, 3))
    fractions = np.stack([x * (r - 1) % 1.0 for r in config.resolutions])
    keep = np.all((fractions > 0.1) & (fractions < 0.9), axis=(0, 2))
    return x[keep][:num].astype(np.float32)


def test_tables_are_dense_where_they_fit_and_bounded():
    config = GridConfig(resolutions=(4, 8, 16), features=2, log2_table_size=9)
    tables = encoding.init_grid(jax.random.key(0), config, 1e-2)
    assert [t.shape for t in tables] == [(64, 2), (512, 2), (512, 2)]
    spread = np.concatenate([t.ravel() for t in tables])
    assert np.abs(spread).max() <= 1e-2
    np.testing.assert_allclose(spread.std(), 1e-2 / np.sqrt(3), rtol=0.05)


def test_resolutions_below_two_are_refused():
    with pytest.raises(ValueError, match="resolutions of GridConfig must be"):
        GridConfig(resolutions=(1, 16))


def test_dense_level_interpolates_like_scipy_and_reproduces_linear_functions():
    config = GridConfig(resolutions=(5,), features=2, log2_table_size=18)
    rng = np.random.default_rng(3)
    axis = np.linspace(0.0, 1.0, 5)
    vertices = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1)
    linear = vertices @ [1.0, -2.0, 0.5] + 0.25
    values = np.stack([rng.normal(size=(5, 5, 5)), linear], axis=-1)
    x = np.concatenate([rng.uniform(size=(200, 3)), vertices.reshape(-1, 3)])
    x = x.astype(np.float32)

    tables = (jnp.array(values.reshape(-1, 2), jnp.float32),)
    code = encode_grid(tables, jnp.array(x), config)[:, 0]
    expected = RegularGridInterpolator((axis, axis, axis), values)(x)
    np.testing.assert_allclose(code, expected, atol=2e-6)
    np.testing.assert_allclose(code[:, 1], x @ [1.0, -2.0, 0.5] + 0.25, atol=1e-6)


def test_positions_outside_the_cube_are_clamped():
    tables = encoding.init_grid(jax.random.key(0), MIXED, 1.0)
    outside = jnp.array([[-0.5, 0.3, 2.0], [1.1, -7.0, 0.6]])
    np.testing.assert_array_equal(
        encode_grid(tables, outside, MIXED), encode_grid(tables, jnp.clip(outside, 0, 1), MIXED)
    )


def test_levels_and_their_table_gradients_match_a_plain_loop():
    tables = encoding.init_grid(jax.random.key(1), MIXED, 1.0)
    x = inner_positions(MIXED, 40)
    code = encode_grid(tables, jnp.array(x).reshape(5, 8, 3), MIXED)
    assert code.shape == (5, 8, 2, 3)
    cotangent = np.random.default_rng(4).normal(size=code.shape).astype(np.float32)
    gradient = jax.grad(lambda t: jnp.sum(encode_grid(t, jnp.array(x), MIXED) * cotangent))
    cotangent = cotangent.reshape(40, 2, 3)
    gradients = gradient(tables)
    for level, resolution in enumerate(MIXED.resolutions):
        table = np.asarray(tables[level])
        weights = encode_by_loop(table, x, resolution)
        np.testing.assert_allclose(code.reshape(40, 2, 3)[:, level], weights @ table, atol=3e-6)
        np.testing.assert_allclose(gradients[level], weights.T @ cotangent[:, level], atol=2e-5)


def test_position_derivatives_match_finite_differences_twice():
    tables = encoding.init_grid(jax.random.key(1), MIXED, 1.0)
    x = jnp.array(inner_positions(MIXED, 30))

    @jax.jit
    def value(x):
        code = encode_grid(tables, x, MIXED)
        return jnp.sum(code * jnp.cos(jnp.arange(6.0)).reshape(1, 2, 3), axis=(1, 2))

    gradient = jax.jit(jax.grad(lambda x: value(x).sum()))
    hessian = jax.jit(jax.jacfwd(lambda x: gradient(x).sum(axis=0)))(x)
    # Within a cell the field is linear along an axis: central differences have no error but
    # rounding, about 1e-6 / (2 step).
    step = 5e-3
    for axis in range(3):
        shift = step * jnp.eye(3)[axis][None]
        slope = (value(x + shift) - value(x - shift)) / (2 * step)
        np.testing.assert_allclose(gradient(x)[:, axis], slope, atol=1e-3)
        curve = (gradient(x + shift) - gradient(x - shift)) / (2 * step)
        np.testing.assert_allclose(hessian[:, :, axis].T, curve, atol=2e-2)
    assert np.abs(hessian).max() > 10.0


def test_loss_on_normals_has_the_right_table_gradient():
    tables = encoding.init_grid(jax.random.key(1), MIXED, 1.0)
    direction = encoding.init_grid(jax.random.key(2), MIXED, 1.0)
    x = jnp.array(inner_positions(MIXED, 30))

    @jax.jit
    def loss(tables):
        slope = jax.grad(lambda x: jnp.sum(jnp.tanh(encode_grid(tables, x, MIXED))))(x)
        return jnp.mean(slope**2)

    def moved(step):
        return jax.tree.map(lambda table, change: table + step * change, tables, direction)

    along = jax.tree.map(jnp.vdot, jax.jit(jax.grad(loss))(tables), direction)
    slope = (loss(moved(1e-2)) - loss(moved(-1e-2))) / 2e-2
    np.testing.assert_allclose(sum(along), slope, rtol=2e-3)

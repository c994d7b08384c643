import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import (
    Cloud,
    Fog,
    encode_by_hand,
    light,
    network_by_hand,
    random_params,
    sphere_points,
)
from scipy.interpolate import RegularGridInterpolator

from dreamfusion_jax.scene.encoding import GridConfig
from dreamfusion_jax.scene.fields.density import LITERAL, Density
from dreamfusion_jax.scene.fields.grid import GridField
from dreamfusion_jax.scene.fields.mlp import MlpField
from dreamfusion_jax.scene.shading import density_normals, shade, smooth_normals

MLP = MlpField(width=16, blocks=2, frequencies=3, density=LITERAL)
GRID = GridField(GridConfig((3, 6), features=4), radius=0.7, density=Density(-2.0, strength=4.0))
VARIANCE = 0.01


def mlp_density(params, points):
    """The paper's density in float64."""
    code = encode_by_hand(points, np.full(len(points), VARIANCE), 3)
    raw = network_by_hand(params, code, blocks=2)[:, 0]
    return np.exp(raw) + 5 * np.exp(-0.5 * (points**2).sum(-1) / 0.2**2)


def grid_density(params, points):
    """The grid field's density in float64."""
    raw = 4 * np.exp(-0.5 * (points**2).sum(-1) / 0.2**2) - 2.0
    for resolution, table in zip((3, 6), params, strict=True):
        axis = np.linspace(-0.7, 0.7, resolution)
        values = np.asarray(table, np.float64)[:, 0].reshape(3 * (resolution,))
        raw = raw + RegularGridInterpolator((axis,) * 3, values)(points)
    return np.exp(raw)


@pytest.mark.parametrize(("field", "density"), [(MLP, mlp_density), (GRID, grid_density)])
def test_normals_match_finite_differences(field, density):
    params = random_params(field.init)
    points = np.random.default_rng(1).uniform(-0.6, 0.6, (40, 3))
    step = 1e-5
    # Not where the difference would straddle two cells of the grid: there is a kink.
    for resolution in (3, 6):
        cell = (points / 0.7 + 1) / 2 * (resolution - 1)
        points = points[(np.abs(cell - np.round(cell)) > 1e-3).all(-1)]
    assert len(points) > 30
    gradient = np.stack(
        [
            (density(params, points + step * axis) - density(params, points - step * axis))
            / (2 * step)
            for axis in np.eye(3)
        ],
        axis=-1,
    )
    wanted = -gradient / np.linalg.norm(gradient, axis=-1, keepdims=True)

    @jax.jit
    def query(points):
        return density_normals(lambda p: field(params, p, jnp.full(p.shape[:-1], VARIANCE)), points)

    tau, albedo, normals = query(jnp.array(points, jnp.float32))
    np.testing.assert_allclose(tau, density(params, points), rtol=1e-4)
    np.testing.assert_allclose(normals, wanted, atol=2e-3)
    plain = jax.jit(field)(params, jnp.array(points, jnp.float32), jnp.full(len(points), VARIANCE))
    np.testing.assert_allclose(tau, plain[0], rtol=1e-5)
    np.testing.assert_allclose(albedo, plain[1], rtol=1e-5, atol=1e-6)


def test_normals_of_a_ball_point_outward():
    points = sphere_points(50, radius=0.7)
    cloud = Cloud()
    params = cloud.init(None)
    ask = jnp.array(points, jnp.float32)
    _, _, normals = density_normals(lambda p: cloud(params, p, jnp.zeros(50)), ask)
    np.testing.assert_allclose(normals, points / 0.7, atol=1e-5)


def test_smooth_normals_are_differences_of_what_saturates():
    params, step = random_params(GRID.init), 0.28

    def solidity(points):
        return 1 / (1 / grid_density(params, points) + step)

    points = np.random.default_rng(2).uniform(-0.4, 0.4, (20, 3))
    gradient = np.stack(
        [solidity(points + step * axis) - solidity(points - step * axis) for axis in np.eye(3)],
        axis=-1,
    )
    ask = jnp.array(points, jnp.float32)
    tau, _, normals = smooth_normals(lambda p: GRID(params, p, jnp.zeros(20)), ask, step)
    np.testing.assert_allclose(tau, grid_density(params, points), rtol=1e-4)
    wanted = -gradient / np.linalg.norm(gradient, axis=-1, keepdims=True)
    np.testing.assert_allclose(normals, wanted, atol=1e-3)


def test_what_is_inside_of_a_wall_does_not_bend_its_normals():
    # A wall at x = 0, solid behind it, but fifty times as dense here as there.
    def field(p):
        inside = jnp.exp(6.0 + 2.0 * jnp.sin(10.0 * p[:, 1]))
        return inside * jax.nn.sigmoid(-p[:, 0] / 0.005), p

    y = np.linspace(-0.3, 0.3, 61)
    points = jnp.array(np.stack([np.zeros_like(y), y, 0 * y], -1), jnp.float32)
    _, _, normals = smooth_normals(field, points, 0.04)
    assert np.abs(np.degrees(np.arccos(normals[:, 0]))).max() < 20
    ends = [field(points + s * 0.04 * axis[None])[0] for axis in jnp.eye(3) for s in (1, -1)]
    plain = np.array(ends[::2]) - np.array(ends[1::2])
    assert np.degrees(np.arccos(-plain[0] / np.linalg.norm(plain, axis=0))).max() > 30


def test_smooth_normals_do_not_jump_between_the_cells_of_a_grid():
    params = random_params(GRID.init)
    assert GRID.cell == pytest.approx(1.4 / 5)
    # Along a line through several cells, in steps of a thousandth of the cube.
    line = jnp.outer(jnp.linspace(-0.6, 0.6, 1201), jnp.array([1.0, 0.9, -0.8]))

    def largest_turn(step):
        ask = jax.jit(lambda x: smooth_normals(lambda p: GRID(params, p, jnp.zeros(1201)), x, step))
        normals = ask(line)[2]
        return jnp.max(jnp.linalg.norm(jnp.diff(normals, axis=0), axis=-1))

    assert largest_turn(None) > 5 * largest_turn(GRID.cell)


def test_normals_of_flat_density_are_zero_with_finite_gradients():
    fog, points = Fog(), jnp.array(sphere_points(4), jnp.float32)

    def total(strength):
        def field(p):
            density, albedo = fog(fog.init(None), p, jnp.zeros(4))
            return strength * density, albedo

        return jnp.sum(density_normals(field, points)[2])

    value, gradient = jax.value_and_grad(total)(2.0)
    assert value == 0 and gradient == 0


def test_gradients_flow_through_normals_density_and_albedo():
    # tau = exp(-x^T diag(a) x / 2): the normal is a x / |a x|, known as a function of a.
    points, direction = sphere_points(6, seed=4, radius=0.8), np.array([0.2, -0.5, 0.9])
    scale = np.array([1.0, 2.5, 0.6])

    def by_hand(a):
        tau = np.exp(-0.5 * (points**2 * a).sum(-1))
        normal = points * a / np.linalg.norm(points * a, axis=-1, keepdims=True)
        return (normal @ direction + tau + np.sin(a[0] * points).sum(-1)).sum()

    @jax.jit
    @jax.grad
    def gradient(a):
        x = jnp.array(points, jnp.float32)

        def field(p):
            return jnp.exp(-0.5 * jnp.sum(p**2 * a[None], -1)), jnp.sin(a[0] * p)

        tau, albedo, normal = density_normals(field, x)
        return jnp.sum(normal @ jnp.array(direction, jnp.float32) + tau + jnp.sum(albedo, -1))

    step = 1e-6
    wanted = [(by_hand(scale + step * e) - by_hand(scale - step * e)) / 2e-6 for e in np.eye(3)]
    np.testing.assert_allclose(gradient(jnp.array(scale, jnp.float32)), wanted, rtol=1e-4)


def test_shade_is_albedo_times_light():
    normal = sphere_points(20, seed=1)
    point = 0.5 * normal
    albedo = np.random.default_rng(2).uniform(0, 1, (20, 3))
    position, ambient, diffuse = np.array([0.0, 0.0, 1.2]), 0.1, 0.9
    towards = position - point
    towards /= np.linalg.norm(towards, axis=-1, keepdims=True)
    received = ambient + diffuse * np.maximum(0, (normal * towards).sum(-1))[:, None]
    arrays = [jnp.array(x, jnp.float32) for x in (albedo, normal, point)]
    for textureless, paint in ((False, albedo), (True, np.ones_like(albedo))):
        lighting = light(position=(0.0, 0.0, 1.2), textureless=textureless)
        np.testing.assert_allclose(shade(*arrays, lighting), paint * received, rtol=1e-5)
    plain = light(ambient=1.0, diffuse=0.0)
    np.testing.assert_allclose(shade(*arrays, plain), albedo, rtol=1e-6)


def test_textureless_views_among_others():
    albedo, normal = jnp.full((2, 5, 4, 3), 0.3), jnp.zeros((2, 5, 1, 3))
    lights = [light(textureless=False), light(textureless=True)]
    lighting = jax.tree.map(lambda *x: jnp.stack(x), *lights)
    colours = shade(albedo, normal, normal, lighting)
    np.testing.assert_allclose(colours[0], np.full((5, 4, 3), 0.03), rtol=1e-5)
    np.testing.assert_allclose(colours[1], np.full((5, 4, 3), 0.1), rtol=1e-5)

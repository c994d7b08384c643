import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from dreamfusion_jax.scene.camera import (
    Camera,
    CameraConfig,
    Rays,
    cast_rays,
    look_at,
    orbit,
    sample_camera,
    sphere_bounds,
)

N = 20_000
STILL = CameraConfig(position_jitter=0.0, look_at_std=0.0, up_std=0.0)


@functools.cache
def sample(config: CameraConfig) -> Camera:
    keys = jax.random.split(jax.random.key(1), N)
    return jax.jit(jax.vmap(lambda key: sample_camera(key, config)))(keys)


def assert_follows(values, cdf):
    assert scipy.stats.kstest(np.asarray(values, np.float64), cdf).pvalue > 1e-3


def uniform(low, high):
    return scipy.stats.uniform(low, high - low).cdf


def projected_normal(mean, std):
    """CDF of the angle of N((mean, 0), std^2 I) in the plane, by integrating its density."""
    angle = np.linspace(-np.pi, np.pi, 20_001)
    delta = mean / std * np.cos(angle)
    normal = scipy.stats.norm
    log_pdf = normal.logpdf(mean / std)
    density = np.exp(log_pdf) + delta * np.exp(
        normal.logcdf(delta) - normal.logpdf(delta) + log_pdf
    )
    cdf = scipy.integrate.cumulative_trapezoid(density, angle, initial=0) / np.sqrt(2 * np.pi)
    assert abs(cdf[-1] - 1) < 1e-6
    return lambda x: np.interp(x, angle, cdf)


def test_azimuth_distance_and_focal_are_uniform_and_independent():
    cameras = sample(STILL)
    assert_follows(cameras.azimuth, uniform(-np.pi, np.pi))
    assert_follows(cameras.distance, uniform(1.0, 1.5))
    assert_follows(cameras.focal, uniform(0.7, 1.35))
    together = [cameras.azimuth, cameras.elevation, cameras.distance, cameras.focal]
    correlation = scipy.stats.spearmanr(np.stack(together, -1)).statistic
    assert np.abs(correlation - np.eye(4)).max() < 4 / np.sqrt(N)


@pytest.mark.parametrize(
    ("area_probability", "elevation", "zone"),
    [
        (0.0, (-10.0, 90.0), (0.0, 90.0)),
        (0.5, (-10.0, 90.0), (0.0, 90.0)),
        (1.0, (-10.0, 90.0), (0.0, 90.0)),
        (0.5, (20.0, 60.0), (20.0, 60.0)),
        (0.5, (-50.0, -10.0), (-50.0, -10.0)),
    ],
)
def test_elevation_is_a_mixture_of_uniform_in_angle_and_in_area(area_probability, elevation, zone):
    config = dataclasses.replace(STILL, elevation=elevation, area_probability=area_probability)
    low, high = np.sin(np.deg2rad(zone))

    def cdf(x):
        area = np.clip((np.sin(np.deg2rad(x)) - low) / (high - low), 0, 1)
        return (1 - area_probability) * uniform(*elevation)(x) + area_probability * area

    assert_follows(np.rad2deg(sample(config).elevation), cdf)


def test_jitter_is_uniform_in_a_cube():
    jittered = dataclasses.replace(STILL, position_jitter=0.1)
    offsets = np.asarray(sample(jittered).position - sample(STILL).position)
    for axis in range(3):
        assert_follows(offsets[:, axis], uniform(-0.1, 0.1))
    assert np.abs(np.corrcoef(offsets.T) - np.eye(3)).max() < 4 / np.sqrt(N)


@pytest.mark.parametrize("gaussians", ["variance", "std"])
def test_looked_at_point_is_normal(gaussians):
    config = CameraConfig(position_jitter=0.0, distance=(1.2, 1.2), up_std=0.0, gaussians=gaussians)
    std = {"variance": np.sqrt(0.2), "std": 0.2}[gaussians]
    cameras = sample(config)
    outward = np.asarray(cameras.position) / 1.2
    across = np.cross(outward, [0.0, 0.0, 1.0])
    across /= np.linalg.norm(across, axis=-1, keepdims=True)
    back = np.asarray(cameras.rotation)[..., 2]
    for tangent in (across, np.cross(outward, across)):
        angle = np.arctan2((back * tangent).sum(-1), (back * outward).sum(-1))
        assert_follows(angle, projected_normal(1.2, std))


@pytest.mark.parametrize("gaussians", ["variance", "std"])
def test_up_vector_is_normal_around_z(gaussians):
    config = dataclasses.replace(
        STILL, elevation=(0.0, 0.0), area_probability=0.0, up_std=0.02, gaussians=gaussians
    )
    cameras = sample(config)
    up = np.asarray(cameras.rotation)[..., 1]
    azimuth = np.asarray(cameras.azimuth)
    tangent = np.stack([-np.sin(azimuth), np.cos(azimuth), 0 * azimuth], -1)
    roll = np.arctan2((up * tangent).sum(-1), up[:, 2])
    std = {"variance": np.sqrt(0.02), "std": 0.02}[gaussians]
    assert_follows(roll, projected_normal(1.0, std))


def test_rotations_are_orthonormal_and_right_handed():
    rotation = np.asarray(sample(CameraConfig()).rotation, np.float64)
    gram = np.swapaxes(rotation, -1, -2) @ rotation
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(3), gram.shape), atol=3e-6)
    np.testing.assert_allclose(np.linalg.det(rotation), 1.0, atol=3e-6)


def test_look_at_survives_an_up_vector_along_the_line_of_sight():
    z = jnp.array([0.0, 0.0, 1.0])
    above = look_at(2 * z, jnp.zeros(3), z)
    np.testing.assert_allclose(above, [[0, -1, 0], [1, 0, 0], [0, 0, 1]], atol=1e-6)
    for axis in np.eye(3, dtype=np.float32):
        rotation = np.asarray(look_at(jnp.asarray(axis), jnp.zeros(3), jnp.asarray(axis)))
        np.testing.assert_allclose(np.linalg.det(rotation), 1.0, atol=1e-6)


def test_rays_match_a_plain_loop():
    cameras = jax.tree.map(lambda leaf: leaf[:4].reshape(2, 2, *leaf.shape[1:]), sample(STILL))
    rays = cast_rays(cameras, 3, 5)
    assert rays.direction.shape == rays.origin.shape == (2, 2, 3, 5, 3)
    for index in np.ndindex(2, 2, 3, 5):
        *view, row, column = index
        right, up, back = np.asarray(cameras.rotation[tuple(view)], np.float64).T
        x, y = (column + 0.5) / 5 - 0.5, (1.5 - row - 0.5) / 5
        expected = x * right + y * up - float(cameras.focal[tuple(view)]) * back
        expected /= np.linalg.norm(expected)
        np.testing.assert_allclose(rays.direction[index], expected, atol=1e-6)
        np.testing.assert_array_equal(rays.origin[index], cameras.position[tuple(view)])


def test_the_front_camera_has_y_to_the_right_and_z_at_the_top():
    front = jax.tree.map(lambda leaf: leaf[0], orbit(1, 0.0, 2.0, 1.0))
    direction = np.asarray(cast_rays(front, 4, 4).direction)
    assert (direction[..., 0] < 0).all()
    assert (direction[:, 2:, 1] > 0).all() and (direction[:2, :, 2] > 0).all()
    # The outer pixels' centres are 3/8 of the image width off the axis at focal length 1.
    np.testing.assert_allclose(-direction[0, 0, 1] / direction[0, 0, 0], -0.375, atol=1e-6)


@pytest.mark.parametrize("elevation", [-0.3, 0.6, np.pi / 2])
def test_orbit_circles_the_origin(elevation):
    cameras = orbit(8, elevation, 1.7, 0.9, azimuth=0.2)
    np.testing.assert_allclose(cameras.distance, 1.7, rtol=1e-6)
    np.testing.assert_allclose(cameras.elevation, elevation, atol=1e-6)
    np.testing.assert_array_equal(cameras.focal, np.float32(0.9))
    azimuth = 0.2 + np.arange(8) * np.pi / 4
    right, _, back = np.moveaxis(np.asarray(cameras.rotation), -1, 0)
    np.testing.assert_allclose(back * 1.7, cameras.position, atol=1e-6)
    # The right-hand side stays level and follows the azimuth, even at the pole.
    level = np.stack([-np.sin(azimuth), np.cos(azimuth), 0 * azimuth], -1)
    np.testing.assert_allclose(right, level, atol=1e-6)


def random_rays(count):
    rng = np.random.default_rng(0)
    origin = rng.normal(size=(count, 3)).astype(np.float32) * 1.2
    direction = rng.normal(size=(count, 3)).astype(np.float32)
    return Rays(
        jnp.asarray(origin),
        jnp.asarray(direction / np.linalg.norm(direction, axis=-1, keepdims=True)),
    )


def test_sphere_bounds_against_a_dense_walk_along_the_ray():
    rays = random_rays(300)
    near, far = sphere_bounds(rays, 1.3)
    step = 1e-3
    walk = np.arange(0, 8, step)
    points = rays.origin[:, None] + walk[None, :, None] * rays.direction[:, None]
    norms = np.linalg.norm(np.asarray(points, np.float64), axis=-1)
    counts = {"inside": 0, "hit": 0, "miss": 0}
    for norm, n, f in zip(norms, near, far, strict=True):
        within = walk[norm <= 1.3]
        counts["miss" if not len(within) else "inside" if norm[0] <= 1.3 else "hit"] += 1
        if len(within):
            np.testing.assert_allclose([n, f], [within[0], within[-1]], atol=2 * step)
        else:
            assert n == f
            np.testing.assert_allclose(n, walk[norm.argmin()], atol=2 * step)
    assert min(counts.values()) > 20


def test_sphere_bounds_and_gradients_are_finite_on_the_edge_cases():
    x, y = np.eye(3, dtype=np.float32)[:2]
    origin = jnp.asarray(np.stack([y + 2 * x, 2 * x, 2 * x, 0 * x, x, 5 * y + x]))
    direction = jnp.asarray(np.stack([-x, x, -x, y, y, -x]))
    near, far = sphere_bounds(Rays(origin, direction), 1.0)
    np.testing.assert_allclose(near, [2, 0, 1, 0, 0, 1], atol=1e-6)
    np.testing.assert_allclose(far, [2, 0, 3, 1, 0, 1], atol=1e-6)

    def total(origin, direction):
        near, far = sphere_bounds(Rays(origin, direction), 1.0)
        return (near + far).sum()

    for gradient in jax.grad(total, argnums=(0, 1))(origin, direction):
        assert np.isfinite(gradient).all()

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers.tiny import light, sphere_points

from dreamfusion_jax.scene.lighting import (
    LightingConfig,
    headlight,
    lambertian,
    plain_albedo,
    sample_backdrop,
    sample_latent_backdrop,
    sample_lighting,
)

N = 20_000
CAMERA = np.array([0.9, -0.6, 0.5])
PAPER = LightingConfig()


@functools.cache
def draw(step):
    keys = jax.random.split(jax.random.key(2), N)
    position = jnp.array(CAMERA, jnp.float32)
    lights = jax.jit(jax.vmap(lambda key: sample_lighting(key, position, step, 15_000, PAPER)))(
        keys
    )
    return jax.tree.map(np.asarray, lights)


def assert_share(flags, probability):
    assert scipy.stats.binomtest(int(flags.sum()), flags.size, probability).pvalue > 1e-3


def test_lights_stand_in_the_direction_of_a_normal_around_the_camera():
    position = draw(5000).position.astype(np.float64)
    distance = np.linalg.norm(position, axis=-1)
    assert scipy.stats.kstest(distance, scipy.stats.uniform(0.8, 0.7).cdf).pvalue > 1e-3
    truth = CAMERA + np.random.default_rng(0).normal(size=(200_000, 3))
    truth /= np.linalg.norm(truth, axis=-1, keepdims=True)
    axes = np.linalg.qr(np.stack([CAMERA, [0, 0, 1.0], [0, 1.0, 0]], -1))[0]
    for axis in axes.T:
        got = position @ axis / distance
        assert scipy.stats.ks_2samp(got, truth @ axis).pvalue > 1e-3
    towards_camera = position @ CAMERA
    assert abs(scipy.stats.spearmanr(distance, towards_camera / distance).statistic) < 0.03


def test_three_quarters_of_the_views_are_lit_and_half_of_those_textureless():
    lights = draw(1000)
    lit = lights.diffuse > 0
    assert_share(lit, 0.75)
    assert_share(lights.textureless[lit], 0.5)
    assert not lights.textureless[~lit].any()
    np.testing.assert_array_equal(lights.diffuse, np.where(lit, np.float32(0.9), 0))
    np.testing.assert_array_equal(lights.ambient, np.where(lit, np.float32(0.1), 1))


@pytest.mark.parametrize("step", [0, 999])  # Of 15,000.
def test_the_first_steps_show_albedo_only(step):
    lights = draw(step)
    assert (lights.ambient == 1).all() and (lights.diffuse == 0).all()
    assert not lights.textureless.any()


def test_lambertian_matches_a_loop_over_points():
    rng = np.random.default_rng(1)
    normal, point = sphere_points(30, seed=2), rng.uniform(-1, 1, (30, 3))
    position, ambient, diffuse = np.array([0.3, -0.4, 1.6]), 0.1, 0.9
    wanted = []
    for n, p in zip(normal, point, strict=True):
        towards = (position - p) / np.linalg.norm(position - p)
        wanted.append(ambient + diffuse * max(0.0, float(n @ towards)))
    assert min(wanted) == ambient and max(wanted) > 0.9
    lighting = light(position=tuple(position))
    arrays = (jnp.array(x, jnp.float32) for x in (normal, point))
    np.testing.assert_allclose(lambertian(*arrays, lighting), wanted, rtol=1e-5)
    # At the light itself there is no direction towards it.
    here = jnp.array(position, jnp.float32)
    assert lambertian(jnp.array([0.0, 0.0, 1.0]), here, lighting) == np.float32(ambient)


def test_each_view_has_its_own_light():
    rng = np.random.default_rng(3)
    point = jnp.array(rng.uniform(-1, 1, (2, 4, 3, 3)), jnp.float32)
    normal = jnp.array(sphere_points(24).reshape(2, 4, 3, 3), jnp.float32)
    lights = [light(position=(0.0, 2.0, 1.0)), light(position=(2.0, 0.0, -1.0), ambient=0.4)]
    together = lambertian(normal, point, jax.tree.map(lambda *x: jnp.stack(x), *lights))
    for view, lighting in enumerate(lights):
        alone = lambertian(normal[view], point[view], lighting)
        np.testing.assert_allclose(together[view], alone, rtol=1e-6)


@pytest.mark.parametrize("camera", [(1.3, 0.0, 0.4), (0.0, 0.0, 1.3)])
def test_headlight_lights_what_the_camera_sees(camera):
    lighting = headlight(jnp.array(camera))
    facing = jnp.array(camera) / np.linalg.norm(camera)
    surface = 0.5 * facing
    seen, behind = lambertian(facing, surface, lighting), lambertian(-facing, surface, lighting)
    np.testing.assert_allclose(behind, 0.35, rtol=1e-6)
    assert 0.8 < seen <= 1.0
    assert not lighting.textureless and headlight(jnp.array(camera), textureless=True).textureless


def test_plain_albedo_is_all_ambient():
    points = jnp.array(sphere_points(5), jnp.float32)
    np.testing.assert_array_equal(lambertian(points, points, plain_albedo()), np.ones(5))


def test_backdrops_are_light_greys_with_a_tint():
    colours = np.asarray(sample_backdrop(jax.random.key(0), (N,)), np.float64)
    assert colours.shape == (N, 3) and colours.min() >= 0.2 and colours.max() <= 1.0
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.3, 1.0, (N, 1)) + rng.uniform(-0.1, 0.1, (N, 3))
    truth = np.clip(truth, 0, 1)
    for measure in (lambda c: c[:, 0], lambda c: c[:, 1] - c[:, 2], lambda c: c.mean(-1)):
        assert scipy.stats.ks_2samp(measure(colours), measure(truth)).pvalue > 1e-3
    assert sample_backdrop(jax.random.key(0)).shape == (3,)


def test_latent_backdrops_are_normal_numbers_of_their_own():
    latents = np.asarray(sample_latent_backdrop(jax.random.key(0), (N,)), np.float64)
    assert latents.shape == (N, 4)
    assert all(scipy.stats.kstest(channel, "norm").pvalue > 1e-3 for channel in latents.T)
    assert np.abs(np.corrcoef(latents.T) - np.eye(4)).max() < 5 / N**0.5


def test_config_sets_every_number():
    config = LightingConfig(0.25, 1.0, 1.0, ambient=0.3, diffuse=0.5, distance=(2.0, 2.0))
    lighting = sample_lighting(jax.random.key(0), jnp.ones(3), 5, 20, config)
    values = (lighting.ambient, lighting.diffuse, jnp.linalg.norm(lighting.position))
    np.testing.assert_allclose(values, (0.3, 0.5, 2.0), rtol=1e-6)
    assert lighting.textureless
    never = dataclasses.replace(config, diffuse_probability=0.0)
    assert sample_lighting(jax.random.key(0), jnp.ones(3), 5, 20, never).diffuse == 0
    assert sample_lighting(jax.random.key(0), jnp.ones(3), 4, 20, config).diffuse == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("albedo_until", 1000.0),
        ("diffuse_probability", 1.1),
        ("textureless_probability", -0.1),
        ("ambient", -0.1),
        ("diffuse", float("inf")),
        ("distance", (0.0, 1.5)),
        ("distance", (1.5, 0.8)),
    ],
)
def test_impossible_lights_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} of LightingConfig must be"):
        LightingConfig(**{name: value})

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.grids import encode_by_loop
from helpers.tiny import random_params

from dreamfusion_jax.presets import FAST_SD
from dreamfusion_jax.scene.encoding import level_weights
from dreamfusion_jax.scene.fields.density import Density
from dreamfusion_jax.scene.fields.hash import HashField
from dreamfusion_jax.scene.fields.protocol import Field
from dreamfusion_jax.scene.shading import density_normals

RNG = np.random.default_rng(0)
CONE = Density(0.0, strength=10.0, width=0.5, activation="softplus", shape="cone")
SMALL = HashField(
    3, 2, coarsest=4, finest=16, log2_table_size=7, hidden=5, radius=0.7, density=CONE
)
POINTS = RNG.uniform(-0.69, 0.69, (25, 3)).astype(np.float32)
BLUR = RNG.uniform(0.0, 4e-3, 25).astype(np.float32)


def by_hand(field, params, points, blur):
    """Plain loops over corners and levels, in float64."""
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)
    codes = []
    for table, resolution in zip(params["grid"], field.grid.resolutions, strict=True):
        inside = 0.5 + 0.5 * points.astype(np.float64) / field.radius
        cell = 2 * field.radius / (resolution - 1)
        damping = np.exp(-0.5 * blur * (np.pi / cell) ** 2)
        codes.append(encode_by_loop(table, inside, resolution) @ table * damping[:, None])
    hidden = np.concatenate(codes, axis=-1) @ params["head"]["Dense_0"]["kernel"]
    raw = np.maximum(hidden, 0) @ params["head"]["Dense_1"]["kernel"]
    blob = 10 * (1 - np.linalg.norm(points, axis=-1) / 0.5)
    return np.log1p(np.exp(raw[:, 0] + blob)), raw[:, 1:]


@pytest.mark.parametrize("latent", [False, True])
def test_the_field_is_instant_ngps_formula(latent):
    field = dataclasses.replace(SMALL, latent=latent)
    assert isinstance(field, Field)
    params = random_params(field.init)
    # The last two levels have more vertices than rows.
    assert [len(table) for table in params["grid"]] == [64, 128, 128]
    density, channels = jax.jit(field)(params, jnp.array(POINTS), jnp.array(BLUR))
    wanted, raw = by_hand(field, params, POINTS, BLUR)
    np.testing.assert_allclose(density, wanted, rtol=1e-4)
    wanted = raw if latent else 1 / (1 + np.exp(-raw))
    np.testing.assert_allclose(channels, wanted, rtol=1e-4, atol=1e-5)
    assert channels.shape == (25, 4 if latent else 3)


def test_the_levels_are_those_of_instant_ngp():
    resolutions = HashField().grid.resolutions
    growth = math.exp((math.log(4096) - math.log(16)) / 15)  # Instant-NGP, eq. 3.
    assert growth == pytest.approx(1.447269237440378)  # As threestudio's settings spell it.
    exact = [16 * growth**level for level in range(16)]
    assert resolutions[0] == 16 and resolutions[-1] == 4096
    np.testing.assert_array_less(np.abs(np.array(resolutions) - np.floor(exact)), 1.5)
    shapes = jax.eval_shape(HashField().init, jax.random.key(0))
    rows = [min(r**3, 2**19) for r in resolutions]
    assert [leaf.shape for leaf in shapes["grid"]] == [(r, 2) for r in rows]
    assert shapes["head"]["Dense_0"]["kernel"].shape == (32, 64)
    assert HashField(levels=1, coarsest=8, finest=8).grid.resolutions == (8,)


def test_points_that_share_a_row_can_differ():
    """Two corners of the finest level with one row between them."""
    finest = SMALL.grid.resolutions[-1]
    corners = RNG.integers(0, finest - 1, (60, 3))
    primes = (1, 2654435761, 805459861)
    rows = [(x ^ y * primes[1] ^ z * primes[2]) % 128 for x, y, z in corners.tolist()]
    first, second = next(
        (a, b)
        for a in range(60)
        for b in range(a)
        if rows[a] == rows[b] and (corners[a] != corners[b]).any()
    )
    points = (2 * corners[[first, second]] / (finest - 1) - 1) * SMALL.radius
    params = random_params(SMALL.init)
    _, albedo = jax.jit(SMALL)(params, jnp.array(points, jnp.float32), jnp.zeros(2))
    assert np.abs(albedo[0] - albedo[1]).max() > 1e-2


def test_a_fresh_field_is_grey_with_the_density_of_its_blob():
    params = jax.jit(SMALL.init)(jax.random.key(0))
    density, albedo = jax.jit(SMALL)(params, jnp.array(POINTS), jnp.zeros(25))
    wanted = np.log1p(np.exp(10 * (1 - np.linalg.norm(POINTS, axis=-1) / 0.5)))
    np.testing.assert_allclose(density, wanted, rtol=1e-2)
    np.testing.assert_allclose(albedo, np.full((25, 3), 0.5), atol=1e-3)


def test_normals_are_finite_everywhere_and_point_outwards_at_the_start():
    params = jax.jit(SMALL.init)(jax.random.key(0))
    points = jnp.concatenate([jnp.zeros((1, 3)), jnp.array(POINTS)])

    def total(p):
        _, _, normals = density_normals(lambda x: SMALL(params, x, jnp.zeros(26)), p)
        return jnp.sum(normals[1:] * points[1:]), normals

    gradient, normals = jax.jit(jax.grad(total, has_aux=True))(points)
    assert np.isfinite(gradient).all() and np.isfinite(normals).all()
    outwards = POINTS / np.linalg.norm(POINTS, axis=-1, keepdims=True)
    near = np.linalg.norm(POINTS, axis=-1) < 0.5
    assert near.sum() > 3 and (normals[1:] * outwards).sum(-1)[near].min() > 0.99


def test_a_blur_is_the_mean_over_a_gaussian_of_the_shortest_wave():
    """A level whose vertices alternate between 1 and -1 is nearly the wave that is damped."""
    cell, variance = 0.1, np.array([1e-4, 1e-3, 2e-3])
    x = np.sqrt(variance)[:, None] * np.random.default_rng(1).normal(size=(3, 200_000))
    wanted = np.cos(np.pi * x / cell).mean(axis=1)
    got = level_weights(jnp.array(variance, jnp.float32), [cell])[:, 0]
    np.testing.assert_allclose(got, wanted, atol=5 * np.sqrt(0.5 / 200_000))


def test_the_preset_unlocks_one_level_after_the_other():
    field, train = FAST_SD.scene.field, FAST_SD.train
    cells = [2 * field.radius / (r - 1) for r in field.grid.resolutions]
    steps = np.arange(0, 10_001, 100)
    blur = jnp.stack([train.variance(step, 10_000) for step in steps])
    weights = np.asarray(level_weights(blur, cells))
    # threestudio begins with 8 levels at step 2,000, and has all 16 by step 6,000.
    open_levels = (weights > 0.4).sum(axis=1)
    assert (open_levels[steps <= 2000] == 8).all() and (open_levels[steps >= 6000] == 16).all()
    between = open_levels[(steps >= 2000) & (steps <= 6000)]
    assert (np.diff(between) >= 0).all() and set(between) == set(range(8, 17))
    assert weights[-1].min() > 0.85 and weights[0, 10:].max() < 0.02
    # About every 500 steps.
    changes = steps[1:][np.diff(open_levels) > 0]
    assert len(changes) == 8 and 300 <= np.diff(changes).min() <= np.diff(changes).max() <= 700


@pytest.mark.parametrize(
    ("setting", "value"),
    [("levels", 0), ("features", 0), ("finest", 3), ("radius", -1.0), ("hidden", 0)],
)
def test_impossible_pyramids_are_refused(setting, value):
    with pytest.raises(ValueError, match=f"^{setting} of HashField must be"):
        HashField(**{setting: value})

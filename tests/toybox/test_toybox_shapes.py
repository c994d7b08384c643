import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from dreamfusion_jax.toybox.shapes import (
    MAIN,
    SCENE_RADIUS,
    WHITE,
    Part,
    blend,
    box,
    capsule,
    cone,
    cylinder,
    ellipsoid,
    mirror_xy,
    mirror_y,
    ring,
    shell,
    sphere,
    torus,
    turn,
    union,
)
from dreamfusion_jax.toybox.world import CATEGORIES, MODIFIERS, solid

RNG = np.random.default_rng(0)
SPACING = 0.012


def as_point(points):
    return tuple(jnp.asarray(c, jnp.float32) for c in np.asarray(points).T)


def in_rounded_box(p, half, rounding):
    """By definition: within `rounding` of the smaller box."""
    core = np.array(half) - rounding
    return np.linalg.norm(p - np.clip(p, -core, core), axis=1) < rounding


def in_rounded_cylinder(p, radius, half, rounding):
    radial, z = np.hypot(p[:, 0], p[:, 1]), p[:, 2]
    a, b = np.maximum(radial - radius + rounding, 0), np.maximum(np.abs(z) - half + rounding, 0)
    return np.hypot(a, b) < rounding


def in_capsule(p, start, end, radius):
    """The union of many balls along the segment."""
    centres = np.linspace(start, end, 200)
    return cKDTree(centres).query(p)[0] < radius


C = np.array([0.04, -0.03, 0.02])
AT = (0.04, -0.03, 0.02)
# name: (our distance, membership by definition, whether the distance is exact)
SOLIDS = {
    "sphere": (
        lambda p: sphere(p, AT, 0.3),
        lambda p: np.linalg.norm(p - C, axis=1) < 0.3,
        True,
    ),
    "box": (
        lambda p: box(p, AT, (0.3, 0.2, 0.1)),
        lambda p: np.all(np.abs(p - C) < [0.3, 0.2, 0.1], axis=1),
        True,
    ),
    "rounded box": (
        lambda p: box(p, AT, (0.3, 0.2, 0.15), 0.08),
        lambda p: in_rounded_box(p - C, (0.3, 0.2, 0.15), 0.08),
        True,
    ),
    "cylinder along y": (
        lambda p: cylinder(p, AT, 0.2, 0.3, "y"),
        lambda p: (np.hypot(*(p - C)[:, [0, 2]].T) < 0.2) & (np.abs(p - C)[:, 1] < 0.3),
        True,
    ),
    "rounded cylinder": (
        lambda p: cylinder(p, AT, 0.3, 0.15, "z", 0.08),
        lambda p: in_rounded_cylinder(p - C, 0.3, 0.15, 0.08),
        True,
    ),
    "capsule": (
        lambda p: capsule(p, (-0.2, 0.1, 0.0), (0.2, -0.1, 0.25), 0.1),
        lambda p: in_capsule(p, (-0.2, 0.1, 0.0), (0.2, -0.1, 0.25), 0.1),
        True,
    ),
    "torus about x": (
        lambda p: torus(p, AT, 0.25, 0.1, "x"),
        lambda p: np.hypot(np.hypot(*(p - C)[:, 1:].T) - 0.25, (p - C)[:, 0]) < 0.1,
        True,
    ),
    "ellipsoid": (
        lambda p: ellipsoid(p, AT, (0.35, 0.2, 0.1)),
        lambda p: np.sum(((p - C) / [0.35, 0.2, 0.1]) ** 2, axis=1) < 1,
        False,
    ),
    "cone along x": (
        lambda p: cone(p, AT, 0.3, 0.05, 0.2, "x"),
        lambda p: (
            (np.abs(p - C)[:, 0] < 0.2)
            & (np.hypot(*(p - C)[:, 1:].T) < 0.175 - 0.625 * (p - C)[:, 0])
        ),
        False,
    ),
}


@pytest.mark.parametrize("name", SOLIDS)
def test_distances_against_the_nearest_point_of_the_other_side(name):
    distance, inside, exact = SOLIDS[name]
    axis = np.arange(-0.5, 0.5, SPACING)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)
    occupied = inside(grid.reshape(-1, 3)).reshape(grid.shape[:3])
    at_surface = np.zeros_like(occupied)
    for k in range(3):
        for shift in (-1, 1):
            at_surface |= np.roll(occupied, shift, axis=k) != occupied
    points = RNG.uniform(-0.45, 0.45, (3000, 3))
    d = np.asarray(distance(as_point(points)), np.float64)
    within = inside(points)
    np.testing.assert_array_equal(d[np.abs(d) > 1e-5] < 0, within[np.abs(d) > 1e-5])
    for side in (True, False):
        nearest, _ = cKDTree(grid[at_surface & (occupied == (not side))]).query(
            points[within == side]
        )
        ours = np.abs(d[within == side])
        assert np.all(ours < nearest + 1e-5)  # Never more than the distance: no step too far.
        if exact:
            assert np.all(nearest < ours + 1.5 * SPACING)


def test_folds_turns_and_combinations():
    points = RNG.uniform(-0.5, 0.5, (500, 3))
    p = as_point(points)
    for axis, vector in zip("xyz", np.eye(3), strict=True):
        back = Rotation.from_rotvec(np.radians(-35.0) * vector).apply(points)
        np.testing.assert_allclose(np.stack(turn(p, 35.0, axis), -1), back, atol=1e-6)
    flip = np.array([1.0, -1.0, 1.0])
    np.testing.assert_array_equal(mirror_y(p), mirror_y(as_point(points * flip)))
    np.testing.assert_array_equal(mirror_xy(p), mirror_xy(as_point(-points * -flip * flip)))
    fifth = Rotation.from_rotvec([0, 0, 2 * np.pi / 5]).apply(points)
    np.testing.assert_allclose(ring(p, 5), ring(as_point(fifth), 5), atol=1e-6)
    bead = sphere(
        ring(as_point(Rotation.from_rotvec([0, 0, 4 * np.pi / 5]).apply([[0.3, 0.0, 0.1]])), 5),
        (0.3, 0.0, 0.1),
        0.05,
    )
    np.testing.assert_allclose(bead, -0.05, atol=2e-6)

    a, b = sphere(p, (0.2, 0.0, 0.0), 0.2), sphere(p, (-0.2, 0.0, 0.0), 0.25)
    least, filleted = np.minimum(a, b), np.asarray(blend(a, b, 0.1))
    assert np.all(filleted <= least + 1e-7) and np.all(filleted >= least - 0.025 - 1e-7)
    apart = np.abs(np.asarray(a) - np.asarray(b)) > 0.1
    np.testing.assert_array_equal(filleted[apart], least[apart])
    skin = np.asarray(shell(a, 0.05)) < 0
    np.testing.assert_array_equal(skin, (np.asarray(a) < 0) & (np.asarray(a) > -0.05))

    distance, material = union([Part(a, MAIN), Part(b, WHITE)])
    np.testing.assert_array_equal(distance, least)
    expected = np.where(np.asarray(b < a)[:, None], np.array(WHITE), np.array(MAIN))
    np.testing.assert_allclose(np.stack(material, -1), expected, atol=1e-6)


def fibonacci_sphere(count):
    i = np.arange(count) + 0.5
    polar, azimuth = np.arccos(1 - 2 * i / count), np.pi * (1 + 5**0.5) * i
    flat = np.sin(polar)
    return np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.cos(polar)], -1)


def test_every_object_is_there_fits_and_never_overestimates_a_distance():
    ball = SCENE_RADIUS * fibonacci_sphere(4096)
    a = RNG.uniform(-0.7, 0.7, (10_000, 3))
    b = a + fibonacci_sphere(10_000) * 10 ** RNG.uniform(-2.5, -0.5, (10_000, 1))
    points = np.concatenate([ball, a, b]).astype(np.float32)
    apart = np.linalg.norm(a - b, axis=1)
    p = as_point(points)
    for category, modifier in itertools.product(CATEGORIES, (None, *MODIFIERS)):
        distance, material = solid(category, modifier, p)
        at_ball, at_a, at_b = np.split(np.asarray(distance, np.float64), [4096, 14_096])
        kind = f"{category} {modifier}"
        assert at_ball.min() > 0.01, kind
        assert not np.any((at_a < 0) & (np.linalg.norm(a, axis=1) > SCENE_RADIUS)), kind
        volume = 1.4**3 * np.mean(np.concatenate([at_a, at_b]) < 0)
        assert 0.005 < volume < 0.6, kind
        # Lipschitz with constant 1 is what makes sphere tracing safe.
        assert np.max((np.abs(at_a - at_b) - 1e-6) / apart) < 1.001, kind
        used = np.stack(material)[:, np.asarray(distance) < 0]
        assert used[0].max() == 1.0, kind  # The caption's colour is on it,
        assert (used[1].max() == 1.0) == (modifier is not None), kind  # and the modifier's.
        shown = used[:1] + used[1:2] + used[2:]
        assert shown.min() >= 0.0 and shown.max() <= 1.0, kind


def disc(radius, x, z):
    flat = fibonacci_sphere(1000)[:500]
    r, turns = np.sqrt((np.arange(500) + 0.5) / 500) * radius, np.arctan2(flat[:, 1], flat[:, 0])
    return np.stack([x + r * np.cos(turns), r * np.sin(turns), np.full(500, z)], -1)


def test_pedestals_touch_and_hats_rest():
    top_of_pedestal, radius, scale = -0.32, 0.26, 0.8
    columns = RNG.uniform(-1, 1, (300, 2)) * 0.59
    heights = np.arange(-0.6, 0.0, 0.004)
    below = np.concatenate([np.repeat(columns, len(heights), 0), np.tile(heights, 300)[:, None]], 1)
    for name, kind in CATEGORIES.items():
        levels = (kind.bottom - 0.03, kind.bottom + 0.03)
        under, above = (
            np.asarray(solid(name, None, as_point(disc(radius / scale, 0.0, z)))[0]) for z in levels
        )
        assert under.min() > 0 and above.min() < 0, name
        lowest = below[np.asarray(solid(name, None, as_point(below))[0]) < 0, 2].min()
        assert lowest > kind.bottom - 0.03, name
        # In the world the object stands at the height of the pedestal's top.
        scene = np.asarray(
            solid(name, MODIFIERS[0], as_point(disc(0.8 * radius, 0.0, top_of_pedestal - 0.01)))[0]
        )
        assert scene.max() < 0, name
        # Ears, stalks and fins may stick through the brim, no more; below, something bears it.
        share = [
            np.mean(np.asarray(solid(name, None, as_point(disc(0.2, kind.top_x, z)))[0]) < 0)
            for z in (kind.top - 0.03, kind.top + 0.03)
        ]
        assert share[0] > 0 and share[1] < 0.12, name

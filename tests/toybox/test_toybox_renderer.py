import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamfusion_jax.scene.camera import Camera, Rays, cast_rays, from_angles, look_at
from dreamfusion_jax.scene.lighting import Lighting, plain_albedo
from dreamfusion_jax.toybox import world
from dreamfusion_jax.toybox.renderer import (
    colourise,
    occupancy,
    render_layers,
    render_truth,
    trace,
)
from dreamfusion_jax.toybox.shapes import MAIN, Part, sphere
from dreamfusion_jax.toybox.world import COLOURS, MODIFIERS, Category, Scene

RADIUS, CENTRE, SIZE = 0.35, (0.05, -0.1, 0.08), 32


@pytest.fixture(autouse=True)
def balls(monkeypatch):
    """Two more categories: a ball in the middle of the world, and one off it."""
    for name, centre in (("ball", (0.0, 0.0, 0.0)), ("shifted ball", CENTRE)):

        def parts(p, centre=centre):
            return [Part(sphere(p, centre, RADIUS), MAIN)]

        monkeypatch.setitem(world.CATEGORIES, name, Category(name, parts, -RADIUS, RADIUS))


def camera_at(azimuth, elevation, distance=1.3, focal=1.1):
    angles = [jnp.asarray(np.radians(a), jnp.float32) for a in (azimuth, elevation)]
    position = from_angles(*angles, jnp.asarray(distance))
    up = jnp.array([0.0, 0.0, 1.0])
    return Camera(position, look_at(position, jnp.zeros(3), up), jnp.asarray(focal))


def intersect(camera, size):
    """Depth, point and normal of the shifted ball, by the quadratic formula in float64."""
    rays = cast_rays(camera, size, size)
    origin, direction = (np.asarray(x, np.float64) for x in (rays.origin, rays.direction))
    offset = origin - CENTRE
    b = np.sum(offset * direction, -1)
    discriminant = b**2 - (np.sum(offset**2, -1) - RADIUS**2)
    hit = discriminant > 0
    depth = -b - np.sqrt(np.where(hit, discriminant, 0))
    point = origin + depth[..., None] * direction
    # Where the ray grazes, an error of the depth of the order of the root of the tolerance.
    clear = discriminant > 0.01
    return rays, hit, clear, depth, point, (point - CENTRE) / RADIUS


def test_truth_of_a_ball():
    camera = camera_at(30.0, 20.0)
    rays, hit, clear, depth, _, normal = intersect(camera, SIZE)
    truth = render_truth(Scene("shifted ball", "blue"), camera, size=SIZE)
    # The silhouettes may differ where the ray passes the ball within the tolerance of a hit.
    assert np.mean(np.asarray(truth.silhouette) != hit) < 0.005
    np.testing.assert_allclose(truth.depth[clear], depth[clear], atol=1e-4)
    np.testing.assert_allclose(truth.normal[clear], normal[clear], atol=1e-3)
    assert np.all(np.asarray(truth.albedo)[clear] == np.float32(COLOURS["blue"]))
    nothing = ~np.asarray(truth.silhouette)
    assert np.all(np.isinf(np.asarray(truth.depth)[nothing]))
    assert np.all(np.asarray(truth.albedo)[nothing] == 0)
    assert np.all(np.asarray(truth.normal)[nothing] == 0)

    stopped, traced = trace("shifted ball", None, rays)
    np.testing.assert_allclose(stopped[clear], depth[clear], atol=1e-4)
    assert np.mean(np.asarray(traced) != hit) < 0.005
    behind = Rays(rays.origin[0], -rays.direction[0])
    assert not np.any(trace("shifted ball", None, behind)[1])


def test_silhouette_area_and_antialiasing():
    distance, focal, size = 1.3, 1.1, 48
    camera = camera_at(-70.0, 35.0, distance, focal)
    light = plain_albedo()
    coarse = render_layers("ball", None, camera, light, size=size, supersample=1)
    fine = render_layers("ball", None, camera, light, size=2 * size, supersample=1)
    smooth = render_layers("ball", None, camera, light, size=size, supersample=2)
    # The cone of tangents meets the image plane in a disc.
    disc = np.pi * (focal * RADIUS) ** 2 / (distance**2 - RADIUS**2) * size**2
    assert abs(float(smooth.alpha.sum()) / disc - 1) < 0.01
    blocks = np.asarray(fine.alpha).reshape(size, 2, size, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(smooth.alpha, blocks, atol=1e-6)
    assert set(np.unique(coarse.alpha)) == {0.0, 1.0}

    # Against the exact coverage of each pixel, by 16 x 16 samples of the disc.
    at = (np.arange(16 * size) + 0.5) / 16 - size / 2
    samples = at[:, None] ** 2 + at[None] ** 2 < disc / np.pi
    exact = samples.reshape(size, 16, size, 16).mean(axis=(1, 3))
    errors = [np.abs(np.asarray(x.alpha) - exact).mean() for x in (coarse, smooth)]
    assert errors[1] < 0.6 * errors[0]


def test_shading_modes():
    camera, position = camera_at(10.0, 40.0), np.array([0.9, 0.7, 0.8])
    _, _, clear, _, point, normal = intersect(camera, SIZE)
    towards = position - point
    towards /= np.linalg.norm(towards, axis=-1, keepdims=True)
    received = 0.1 + 0.9 * np.maximum(np.sum(normal * towards, -1), 0)

    def layers(ambient, diffuse, textureless):
        values = (jnp.asarray(v) for v in (ambient, diffuse, textureless))
        lighting = Lighting(jnp.asarray(position, jnp.float32), *values)
        drawn = render_layers("shifted ball", None, camera, lighting, size=SIZE, supersample=1)
        return np.asarray(drawn.coefficients)[clear]

    lit = layers(0.1, 0.9, False)
    np.testing.assert_allclose(lit[:, 0], received[clear], atol=2e-3)
    assert received[clear].min() == pytest.approx(0.1) and received[clear].max() > 0.9
    assert np.all(lit[:, 1:] == 0)
    np.testing.assert_allclose(layers(1.0, 0.0, False)[:, 0], 1.0, atol=1e-6)
    white = layers(0.1, 0.9, True)
    assert np.all(white[:, :2] == 0)
    np.testing.assert_allclose(white[:, 2:], np.repeat(received[clear][:, None], 3, 1), atol=2e-3)


def test_colours_are_linear_so_that_one_view_serves_all():
    camera, backdrop = camera_at(70.0, 25.0), jnp.array([0.3, 0.5, 0.7])
    layers = render_layers("duck", MODIFIERS[1], camera, plain_albedo(), size=SIZE, supersample=1)
    for main, accent in (("red", "blue"), ("white", "black")):
        truth = render_truth(Scene("duck", main, MODIFIERS[1], accent), camera, size=SIZE)
        direct = np.where(truth.silhouette[..., None], truth.albedo, backdrop[None, None])
        colours = (jnp.asarray(COLOURS[name]) for name in (main, accent))
        np.testing.assert_allclose(colourise(layers, *colours, backdrop), direct, atol=1e-6)
        for name in (main, accent):
            shown = np.all(np.abs(direct - np.float32(COLOURS[name])) < 1e-6, axis=-1)
            assert shown.sum() > 10


@pytest.mark.parametrize(
    ("category", "modifier"), [("flower", None), ("umbrella", MODIFIERS[0]), ("donut", None)]
)
def test_the_silhouette_is_where_rays_meet_occupied_points(category, modifier):
    camera = camera_at(50.0, 15.0)
    scene = Scene(category, "red", modifier, "blue" if modifier else None)
    rays = cast_rays(camera, SIZE, SIZE)
    depths = np.linspace(0.65, 1.95, 400, dtype=np.float32)
    origin, direction = (np.asarray(x)[..., None, :] for x in (rays.origin, rays.direction))
    along = jnp.asarray(origin + depths[:, None] * direction)
    inside = np.asarray(jax.jit(lambda p: occupancy(scene, p))(along))
    truth = render_truth(scene, camera, size=SIZE)
    met, seen = inside.any(axis=-1), np.asarray(truth.silhouette)
    assert np.mean(met != seen) < 0.01 and met.sum() > 30
    first = depths[np.argmax(inside, axis=-1)]
    both = met & seen
    step = depths[1] - depths[0]
    near = np.abs(np.asarray(truth.depth) - first)[both] < 2 * step
    assert near.mean() > 0.97

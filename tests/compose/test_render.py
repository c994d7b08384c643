"""Composed scenes against the closed form of two spheres of fog, and against single ones."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import Fog, fresh, one_camera, random_params, scene

from dreamfusion_jax.compose.environment import uniform
from dreamfusion_jax.compose.illumination import Illumination
from dreamfusion_jax.compose.render import (
    SHADOW_GAP,
    Placed,
    render_rays,
    render_view,
    transmittance,
)
from dreamfusion_jax.scene.camera import Camera, Rays
from dreamfusion_jax.scene.encoding import GridConfig
from dreamfusion_jax.scene.fields.grid import GridField
from dreamfusion_jax.scene.image import render_image
from dreamfusion_jax.scene.lighting import plain_albedo

RED, BLUE = (0.9, 0.2, 0.1), (0.1, 0.3, 0.8)
render = jax.jit(render_rays, static_argnames="shadows")
WHITE = Illumination(jnp.zeros((0, 3)), jnp.zeros((0, 3)), uniform(jnp.ones(3)))


def place(model, params, position=(0.0, 0, 0), turn=0.0, size=1.0):
    c, s = math.cos(turn), math.sin(turn)
    rotation = jnp.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], jnp.float32)
    return Placed(
        model, params, jnp.array(0.0), None, rotation, jnp.array(position), jnp.array(size)
    )


def ball(colour, density, position, size):
    """Constant fog that fills a sphere of radius 0.5 size; per world unit, `density` / size."""
    model = scene(Fog(density, colour), intervals=6, radius=0.5)
    return place(model, fresh(model), position, size=size)


def rays_along_x(offsets, start):
    """Rays towards +x or -x, at heights."""
    origin = np.stack([np.full_like(offsets, start), np.zeros_like(offsets), offsets], -1)
    direction = np.tile([-np.sign(start), 0.0, 0.0], (len(offsets), 1))
    return Rays(jnp.asarray(origin, jnp.float32), jnp.asarray(direction, jnp.float32))


def two_balls_by_hand(offsets, balls, start):
    """The integral of each colour, exactly: between the ends of the chords all is constant."""
    colours, opacities = [], []
    for height in offsets:
        chords = []
        for x, radius, density, colour in balls:
            half = math.sqrt(max(radius**2 - height**2, 0.0))
            chords.append((abs(x - start) - half, abs(x - start) + half, density, colour))
        ends = sorted({end for chord in chords for end in chord[:2]})
        passing, total = 1.0, np.zeros(3)
        for a, b in itertools.pairwise(ends):
            inside = [c for c in chords if c[0] <= 0.5 * (a + b) <= c[1]]
            tau = sum(c[2] for c in inside)
            stopped = passing * -math.expm1(-tau * (b - a))
            total = total + sum((stopped * c[2] / tau * np.array(c[3]) for c in inside), 0 * total)
            passing -= stopped
        colours.append(total)
        opacities.append(1 - passing)
    return np.array(colours), np.array(opacities)


@pytest.mark.parametrize("start", [-5.0, 5.0])
@pytest.mark.parametrize("x", [0.1, 0.55, 1.5])
def test_two_spheres_hide_each_other_as_the_closed_form_says(x, start):
    """Apart, overlapping and one within the other, seen from the red and from the blue side."""
    offsets = np.linspace(-0.9, 0.9, 25)
    scenes = (ball(RED, 3.0, (0.0, 0, 0), 1.6), ball(BLUE, 1.5, (x, 0, 0), 1.0))
    seen = render(scenes, WHITE, rays_along_x(offsets, start))
    by_hand = [(0.0, 0.8, 3.0 / 1.6, RED), (x, 0.5, 1.5, BLUE)]
    colour, opacity = two_balls_by_hand(offsets, by_hand, start)
    np.testing.assert_allclose(seen.colour, colour, atol=2e-5)
    np.testing.assert_allclose(seen.opacity, opacity, atol=2e-5)
    assert opacity.max() > 0.9 and np.ptp(colour[:, 0] - colour[:, 2]) > 0.3


def test_the_order_of_the_scenes_does_not_matter():
    scenes = (ball(RED, 3.0, (0.0, 0, 0), 1.6), ball(BLUE, 1.5, (0.4, 0, 0), 1.0))
    rays = rays_along_x(np.linspace(-0.9, 0.9, 9), -5.0)
    for a, b in zip(
        jax.tree.leaves(render(scenes, WHITE, rays)),
        jax.tree.leaves(render(scenes[::-1], WHITE, rays)),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_shadow_is_the_fog_on_the_way_to_the_lamp():
    blocker = ball(BLUE, 2.0, (0.0, 0, 0), 1.0)
    start = jnp.array([[-2.0, 0, 0.3], [-2.0, 0, 0.6], [-2.0, 0, 0.0]])
    goal = jnp.array([[2.0, 0, 0.3], [2.0, 0, 0.6], [0.0, 0, 0.0]])
    chords = np.array([2 * math.sqrt(0.25 - 0.09), 0.0, 0.5])
    np.testing.assert_allclose(
        jax.jit(transmittance)((blocker,), start, goal), np.exp(-2.0 * chords), atol=1e-5
    )
    inside = jax.jit(transmittance)((blocker,), jnp.zeros((1, 3)), jnp.array([[2.0, 0, 0]]), 0.2)
    np.testing.assert_allclose(inside, math.exp(-2.0 * 0.3), atol=1e-5)


def test_shadows_darken_what_lies_behind_another_scene():
    """A red ball, opaque and lit along -x, with a dense blue one before the lamp or beside."""
    cloud = dataclasses.replace(GridField(grid=GridConfig((4,), 4, 6)), radius=0.5)
    model = scene(cloud, intervals=24, radius=0.5)
    red = place(model, jax.tree.map(jnp.zeros_like, fresh(model)))
    lamp = Illumination(jnp.array([[3.0, 0, 0]]), jnp.ones((1, 3)), uniform(jnp.zeros(3)))
    rays = rays_along_x(np.array([0.0]), 0.9)

    def brightness(blocker, shadows):
        scenes = (red, ball(BLUE, 80.0, blocker, 0.4))
        return float(render(scenes, lamp, rays, shadows=shadows).colour[0, 0])

    free = brightness((1.6, 2.0, 0), True)
    assert free > 0.2
    assert brightness((1.6, 0, 0), False) == pytest.approx(brightness((1.6, 2.0, 0), False))
    assert brightness((1.6, 0, 0), True) < 1e-3 * free
    assert 0 < SHADOW_GAP < 0.2


def test_one_scene_turned_moved_and_scaled_is_what_the_moved_camera_sees():
    field = GridField(grid=GridConfig((4, 8), 4, 12), radius=0.6)
    model = scene(field, intervals=24, radius=0.6)
    params = {**fresh(model), "field": random_params(field.init, 2.0)}
    turn, size, position = 0.7, 1.7, np.array([0.3, -0.2, 0.1])
    placed = place(model, params, position.tolist(), turn, size)
    camera = one_camera(distance=3.0)
    seen = render_view((placed,), WHITE, camera, height=12, width=16)
    rotation = np.asarray(placed.rotation)
    moved = Camera(
        jnp.asarray(rotation.T @ (np.asarray(camera.position) - position) / size, jnp.float32),
        jnp.asarray(rotation.T @ np.asarray(camera.rotation), jnp.float32),
        camera.focal,
    )
    alone = render_image(
        model,
        params,
        moved,
        plain_albedo(),
        height=12,
        width=16,
        variance=jnp.array(0.0),
        backdrop=jnp.zeros(3),
    )
    assert alone["opacity"].max() > 0.5
    np.testing.assert_allclose(seen.colour, alone["albedo"], atol=2e-4)
    np.testing.assert_allclose(seen.opacity, alone["opacity"][..., 0], atol=2e-4)
    inside = np.asarray(seen.opacity) > 0.1
    np.testing.assert_allclose(
        np.asarray(seen.depth)[inside], size * np.asarray(alone["depth"])[inside, 0], rtol=1e-3
    )


def test_light_turns_with_the_scene_and_not_with_the_camera():
    """Normals are the world's: a half turn of an even scene leaves its lit side where it is."""
    field = GridField(grid=GridConfig((4,), 4, 6), radius=0.5)
    model = scene(field, intervals=24, radius=0.5)
    params = jax.tree.map(jnp.zeros_like, fresh(model))
    lamp = Illumination(jnp.array([[0.0, 3, 0]]), jnp.ones((1, 3)), uniform(jnp.zeros(3)))
    camera = one_camera(azimuth=0.0, elevation=0.0)
    straight, turned = (
        render_view((place(model, params, turn=turn),), lamp, camera, height=9, width=9)
        for turn in (0.0, math.pi)
    )
    np.testing.assert_allclose(straight.colour, turned.colour, atol=1e-4)
    left, right = np.asarray(straight.colour)[4, [2, 6], 0]
    assert right > 5 * left

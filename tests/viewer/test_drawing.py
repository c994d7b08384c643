"""Pictures of a ball against rays and spheres, and against the scene's own looks."""

import jax
import numpy as np
import pytest
from helpers.small_scenes import ball, ball_density
from helpers.tiny import light, one_camera

from dreamfusion_jax.scene.camera import cast_rays, orbit
from dreamfusion_jax.viewer.baked import bake, hits
from dreamfusion_jax.viewer.drawing import DrawnScene, Interrupted
from dreamfusion_jax.viewer.seen import BACKDROP, FAR, Seen, paint

RADIUS, COLOUR = 0.3, (0.9, 0.2, 0.1)
CAMERA = one_camera(azimuth=0.4, elevation=0.3, distance=1.3, focal=1.1)
LIGHT = light(position=(2.0, 1.0, 1.5), ambient=0.3, diffuse=0.7)


@pytest.fixture(scope="module")
def drawn():
    return DrawnScene(ball(RADIUS, COLOUR))


def ball_by_hand(height, width):
    """Opacity, expected depth and the place there, [H, W], by small steps along each ray."""
    rays = cast_rays(CAMERA, height, width)
    origin, direction = (np.asarray(x, np.float64) for x in (rays.origin, rays.direction))
    steps = np.arange(0.7, 1.9, 0.002)
    points = origin[..., None, :] + steps[:, None] * direction[..., None, :]
    optical = 0.002 * ball_density(np.linalg.norm(points, axis=-1), RADIUS)
    clear = np.exp(-np.cumsum(optical, -1))
    weight = -np.diff(clear, axis=-1, prepend=1.0)
    opacity = weight.sum(-1)
    depth = (weight * steps).sum(-1) / np.maximum(opacity, 1e-9)
    return opacity, depth, origin + depth[..., None] * direction


@pytest.mark.parametrize("way", ["quick", "careful"])
def test_a_ball_is_where_it_should_be_and_lit_as_it_should_be(drawn, way):
    seen = getattr(drawn, way)(CAMERA, LIGHT, 24, 40).seen
    opacity, depth, place = ball_by_hand(24, 40)
    np.testing.assert_allclose(seen.opacity, opacity, atol=0.06)
    surely = opacity > 0.98
    assert 200 < surely.sum() < 500
    np.testing.assert_allclose(seen.depth[surely], depth[surely], atol=0.02)
    normal = place / np.linalg.norm(place, axis=-1, keepdims=True)
    towards = np.asarray(LIGHT.position) - place
    cosine = np.sum(normal * towards, -1) / np.linalg.norm(towards, axis=-1)
    expected = 0.3 + 0.7 * np.maximum(cosine, 0)
    np.testing.assert_allclose(seen.normal[surely], normal[surely], atol=0.15)
    np.testing.assert_allclose(seen.light[surely], expected[surely], atol=0.08)
    albedo = seen.albedo[surely] / seen.opacity[surely, None]
    np.testing.assert_allclose(albedo, np.tile(COLOUR, (len(albedo), 1)), atol=0.02)
    lit = seen.light[surely, None] * np.array(COLOUR)
    np.testing.assert_allclose(seen.colour[surely], lit, atol=0.03)


def test_the_careful_picture_is_the_look_of_the_scene(drawn):
    lighting = jax.tree.map(lambda x: x[None], LIGHT)
    cameras = orbit(1, 0.3, 1.3, 1.1, 0.4)
    look = drawn.scene.look(cameras, lighting, size=32, backdrop=BACKDROP)
    picture = drawn.careful(CAMERA, LIGHT, 32, 32)
    pairs = {"albedo": look.colour, "shaded": look.shaded, "normals": look.normals}
    for kind, expected in {**pairs, "textureless": look.textureless}.items():
        got = picture.painted(kind, drawn.radius) / 255
        np.testing.assert_allclose(got, np.clip(expected[0], 0, 1), atol=0.004, err_msg=kind)


def test_depth_along_the_line_of_sight(drawn):
    depth = drawn.quick(CAMERA, LIGHT, 24, 40).plane_depth
    opacity, _, place = ball_by_hand(24, 40)
    surely = opacity > 0.98
    local = np.einsum("...i,ij->...j", place - np.asarray(CAMERA.position), CAMERA.rotation)
    np.testing.assert_allclose(depth[surely], -local[..., 2][surely], atol=0.02)
    assert (depth[opacity < 0.3] == FAR).all()


def test_a_camera_that_looks_away_sees_nothing(drawn):
    away = one_camera(distance=1.3)
    away = type(away)(3.0 * away.position, -away.rotation, away.focal)
    for way in (drawn.quick, drawn.careful):
        assert (way(away, LIGHT, 8, 8).painted("shaded", 1.0) == round(255 * BACKDROP)).all()


def test_a_drawing_can_be_given_up(drawn):
    with pytest.raises(Interrupted):
        drawn.careful(CAMERA, LIGHT, 16, 16, given_up=lambda: True)


def test_the_box_holds_the_ball_and_little_else():
    baked = bake(ball(0.2, centre=(0.1, 0.0, -0.1)), 48)
    expected = np.array([[-0.1, -0.2, -0.3], [0.3, 0.2, 0.1]])
    corners = np.stack([baked.box.low, baked.box.high])
    assert (corners[0] <= expected[0]).all() and (corners[1] >= expected[1]).all()
    np.testing.assert_allclose(corners, expected, atol=0.17)


def test_an_empty_scene_is_met_by_hardly_a_ray():
    baked = bake(ball(-1.0), 16)
    assert np.asarray(hits(baked, cast_rays(CAMERA, 16, 16))).mean() < 0.1


def test_each_kind_paints_what_it_says():
    one = np.ones((1, 2), np.float32)
    opacity = np.array([[1.0, 0.5]], np.float32)
    shape = np.array([0.2, 0.4, 0.6], np.float32) * opacity[..., None]
    seen = Seen(shape, 0.5 * shape, 0.3 * opacity, -shape, opacity, 2.0 * one)
    behind = np.array([[[0.0], [0.5 * BACKDROP]]])
    expected = {
        "albedo": shape + behind,
        "shaded": 0.5 * shape + behind,
        "textureless": np.tile(0.3 * opacity[..., None] + behind, 3),
        "normals": -0.5 * shape + 0.5 * opacity[..., None] + behind,
        "depth": np.tile(0.25 * opacity[..., None] + behind, 3),
    }
    for kind, values in expected.items():
        got = paint(seen, kind, (1.0, 1.0 + 4 / 3))
        np.testing.assert_allclose(got / 255, values, atol=0.5 / 255 + 1e-6, err_msg=kind)

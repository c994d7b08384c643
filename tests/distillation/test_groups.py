"""Views that a prior looks at together: their cameras, times and guidance; and that they train."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import SCHEDULE

from dreamfusion_jax.distillation.protocol import Carry, add_noise
from dreamfusion_jax.distillation.sds import Sds, rescaled
from dreamfusion_jax.distillation.train import (
    TrainConfig,
    check_groups,
    sample_times,
    sample_view,
    step_keys,
)
from dreamfusion_jax.priors.mvdream import describe_pose
from dreamfusion_jax.priors.prior import Condition, GaussianPrior
from dreamfusion_jax.scene.camera import CameraConfig, cast_rays, orbit
from dreamfusion_jax.scene.lighting import LightingConfig

STEP = jnp.array(900)
CONFIG = TrainConfig(
    steps=1000, views=8, cameras=CameraConfig(elevation=(0.0, 30.0), distance=(1.2, 1.5))
)


@functools.cache
def drawn(group, config=CONFIG):
    def draw():
        keys = step_keys(jnp.uint32(3), STEP)
        return sample_view(keys, STEP, config, group), sample_times(keys, STEP, config, group)

    return jax.jit(draw)()


def test_four_cameras_stand_a_quarter_turn_apart_at_one_height():
    view, t = drawn(4)
    azimuth = np.asarray(view.camera.azimuth).reshape(2, 4)
    turned = np.mod(np.diff(azimuth, axis=1), 2 * np.pi)
    np.testing.assert_allclose(turned, np.pi / 2, atol=1e-5)
    for shared in (view.camera.elevation, view.camera.distance, view.camera.focal, t):
        groups = np.asarray(shared).reshape(2, 4)
        np.testing.assert_allclose(groups, groups[:, :1].repeat(4, 1), rtol=1e-5)
        assert abs(groups[0, 0] - groups[1, 0]) > 1e-4
    for shared in (view.backdrop, view.lighting.diffuse, view.lighting.textureless):
        groups = np.asarray(shared).reshape(2, 4, -1)
        np.testing.assert_array_equal(groups, groups[:, :1].repeat(4, 1))


def test_they_see_the_scene_as_it_turns_before_one_of_them():
    """A camera a quarter further sees at p what the first one sees at p turned back."""
    camera = drawn(4)[0].camera
    rays = cast_rays(camera, 4, 4)
    back = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    for part in (rays.origin, rays.direction):
        np.testing.assert_allclose(part[1] @ back.T, part[0], atol=1e-5)


def test_alone_every_view_is_drawn_as_ever():
    """Each from its own key, as before there were groups."""
    view, t = drawn(1)
    for values in (view.camera.azimuth, t, view.backdrop[:, 0]):
        assert len(np.unique(values)) == 8


@pytest.mark.parametrize("views", [1, 6])
def test_a_number_of_views_that_is_no_multiple_is_refused(views):
    config = dataclasses.replace(CONFIG, views=views)
    with pytest.raises(ValueError, match=f"multiple of 4, .*, not {views}"):
        check_groups(config, GaussianPrior(SCHEDULE, group=4))
    check_groups(CONFIG, GaussianPrior(SCHEDULE, group=4))


def test_distances_in_focal_lengths_keep_the_size():
    cameras = CameraConfig(
        (0.0, 30.0), distance=(0.9, 0.9), focal=(0.8, 4.0), relative=True, position_jitter=0.0
    )
    camera = drawn(1, dataclasses.replace(CONFIG, cameras=cameras))[0].camera
    # Half a picture shows what is 0.9 off the axis, at the distance of the origin.
    np.testing.assert_allclose(0.5 / camera.focal * camera.distance, 0.9, rtol=1e-5)
    assert np.ptp(np.asarray(camera.distance)) > 0.5


def test_lights_are_those_of_the_group_and_fall_in_beside_each_camera():
    lit = dataclasses.replace(CONFIG, lighting=LightingConfig(0.0, 1.0, 0.0))
    view = drawn(4, lit)[0]
    toward = np.asarray(jnp.sum(view.lighting.position * view.camera.position, axis=-1))
    distance = np.linalg.norm(view.lighting.position, axis=-1).reshape(2, 4)
    np.testing.assert_allclose(distance, distance[:, :1].repeat(4, 1), rtol=1e-5)
    assert (toward > 0).mean() > 0.5


def test_a_pose_is_the_matrix_of_the_camera_at_unit_distance():
    """The front at 20 degrees, by hand: right, up and back as columns, then the place."""
    pose = np.asarray(describe_pose(orbit(1, np.deg2rad(20.0), 2.5, 1.0))).reshape(4, 4)
    cos, sin = np.cos(np.deg2rad(20.0)), np.sin(np.deg2rad(20.0))
    expected = [[0, -sin, cos, cos], [1, 0, 0, 0], [0, cos, sin, sin], [0, 0, 0, 1]]
    np.testing.assert_allclose(pose, expected, atol=1e-6)


def test_rescaling_takes_a_share_of_the_excess_away():
    """Against NumPy, group by group; the whole share gives the spread of the unguided images."""
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(8, 3, 3, 2)).astype(np.float32)
    guided = (5.0 * plain + rng.normal(size=plain.shape)).astype(np.float32)
    for share in (0.5, 1.0):
        got = np.asarray(rescaled(jnp.array(guided), jnp.array(plain), share, 4))
        for group in (slice(0, 4), slice(4, 8)):
            factor = plain[group].std(ddof=1) / guided[group].std(ddof=1)
            np.testing.assert_allclose(
                got[group], (share * factor + 1 - share) * guided[group], rtol=1e-4
            )
    assert got[:4].std(ddof=1) == pytest.approx(plain[:4].std(ddof=1), rel=1e-4)


def test_rescaled_residual_is_the_closed_form_of_a_gaussian_prior():
    """The prior that knows its pictures denoises to (1 + w) m - w o, and by the prompt to m."""
    rng = np.random.default_rng(1)
    mean, other, x, eps = (rng.normal(size=(4, 2, 2, 3)).astype(np.float32) for _ in range(4))
    t = jnp.full(4, 0.55)
    prior = GaussianPrior(SCHEDULE, group=4)
    noised = add_noise(SCHEDULE, jnp.array(x), jnp.array(eps), t)
    sds = Sds(guidance_weight=20.0, weighting="image", rescale=0.5)
    condition = Condition(jnp.array(mean), jnp.array(other))
    got = sds(Carry({}, {}), prior, None, noised, condition, jax.random.key(0)).residual
    guided = 21.0 * mean - 20.0 * other
    clean = guided * (0.5 * mean.std(ddof=1) / guided.std(ddof=1) + 0.5)
    np.testing.assert_allclose(got, x - clean, rtol=2e-3, atol=2e-3)

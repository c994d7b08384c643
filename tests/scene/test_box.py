"""The box that pictures are drawn within: it leaves out nothing that is to be seen."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import Cloud, Fog, fresh, light, one_camera, scene

from dreamfusion_jax.maths import expand_to
from dreamfusion_jax.scene.background import EnvironmentMap
from dreamfusion_jax.scene.box import Box, box_bounds, filled_box
from dreamfusion_jax.scene.camera import Rays, cast_rays, sphere_bounds
from dreamfusion_jax.scene.image import render_image
from dreamfusion_jax.scene.render import render_rays

ZERO = jnp.zeros(())


@dataclasses.dataclass(frozen=True)
class Brick(Fog):
    """Fog within a box that is no cube and not in the middle."""

    low: tuple[float, float, float] = (-0.5, -0.1, 0.0)
    high: tuple[float, float, float] = (0.1, 0.3, 0.7)

    def __call__(self, params, mean, variance):
        density, albedo = super().__call__(params, mean, variance)
        low, high = (expand_to(jnp.array(x), mean.ndim, tail=1) for x in (self.low, self.high))
        inside = jnp.all((mean > low) & (mean < high), axis=-1)
        return jnp.where(inside, density, 0.0), albedo


def test_the_box_is_around_what_is_dense_and_hardly_larger():
    box = jax.jit(lambda: filled_box(Brick(), Brick().init(None), ZERO, 1.0))()
    cell = 2.0 / 47
    for corner, truth, outward in ((box.low, Brick.low, -1.0), (box.high, Brick.high, 1.0)):
        beyond = outward * (np.asarray(corner) - np.array(truth))
        assert beyond.min() >= 0.0 and beyond.max() <= cell + 1e-6


def test_where_rays_meet_a_box_is_what_small_steps_find():
    generator = np.random.default_rng(0)
    origin = generator.normal(size=(200, 3))
    direction = generator.normal(size=(200, 3))
    direction[:20, 0] = 0.0  # Parallel to two sides.
    direction[20:30, 1:] = 0.0  # Parallel to four.
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    low, high = np.array([-0.5, -0.2, 0.1]), np.array([0.6, 0.9, 0.8])
    steps = np.linspace(0, 6, 6001)
    points = origin[:, None] + steps[None, :, None] * direction[:, None]
    inside = ((points > low) & (points < high)).all(-1)
    rays = Rays(*(jnp.asarray(x, jnp.float32) for x in (origin, direction)))
    box = Box(*(jnp.asarray(x, jnp.float32) for x in (low, high)))
    near, far = (np.asarray(x) for x in jax.jit(box_bounds)(rays, box))
    met = inside.any(1)
    assert 20 < met.sum() < 180
    assert ((far > near) | ~met).all() and ((far - near < 2e-3) | met).all()
    np.testing.assert_allclose(near[met], steps[inside.argmax(1)][met], atol=2e-3)
    last = steps[::-1][inside[:, ::-1].argmax(1)]
    np.testing.assert_allclose(far[met], last[met], atol=2e-3)


@pytest.mark.parametrize("background", [None, EnvironmentMap(4, 1, 2)])
def test_a_picture_in_the_box_is_the_picture_without(background):
    model = scene(Cloud(width=0.08), background, radius=1.0, intervals=256)
    params = fresh(model)
    camera = one_camera(distance=2.5)
    backdrop = jnp.array([0.9, 0.5, 0.2]) if background is None else None
    rays = cast_rays(camera, 24, 20)
    whole = jax.jit(
        lambda params: render_rays(
            model, params, rays, light(), variance=ZERO, backdrop=backdrop, train_fraction=1.0
        )
    )(params)
    # 100 rays at once: most of the picture is in chunks without the object.
    picture = render_image(
        model,
        params,
        camera,
        light(),
        height=24,
        width=20,
        variance=ZERO,
        backdrop=backdrop,
        chunk=100,
    )
    for name in ("colour", "albedo", "opacity", "light"):
        truth = np.asarray(getattr(whole, name)).reshape(24, 20, -1)
        np.testing.assert_allclose(picture[name], truth, atol=3e-3, err_msg=name)
    seen = np.asarray(whole.opacity) > 0.1
    assert 0.02 < seen.mean() < 0.4
    np.testing.assert_allclose(picture["depth"][seen, 0], whole.depth[seen], atol=5e-3)
    _, far = sphere_bounds(rays, 1.0)
    corner = np.asarray(picture["depth"])[0, 0, 0]
    assert corner == pytest.approx(float(far[0, 0]), abs=1e-4)


def test_a_picture_of_nothing_is_the_backdrop():
    model = scene(Fog(density=1e-4), radius=1.0, intervals=4)
    picture = render_image(
        model,
        fresh(model),
        one_camera(),
        light(),
        height=5,
        width=7,
        variance=ZERO,
        backdrop=jnp.array([0.1, 0.2, 0.3]),
        chunk=8,
    )
    np.testing.assert_array_equal(picture["opacity"], np.zeros((5, 7, 1)))
    np.testing.assert_allclose(picture["colour"], np.broadcast_to([0.1, 0.2, 0.3], (5, 7, 3)))


def test_few_even_samples_are_enough_within_the_box():
    fine, coarse = (
        scene(Brick(density=20.0), radius=1.4, intervals=intervals) for intervals in (512, 24)
    )
    params, camera, grey = fresh(fine), one_camera(distance=3.0), jnp.full(3, 0.5)
    told = {"variance": ZERO, "backdrop": grey}
    truth, in_box = (
        render_image(model, params, camera, light(), height=16, width=16, **told)["opacity"][..., 0]
        for model in (fine, coarse)
    )
    even = jax.jit(
        lambda params: render_rays(coarse, params, cast_rays(camera, 16, 16), light(), **told)
    )(params).opacity
    assert np.abs(truth - in_box).mean() < 0.6 * np.abs(truth - even).mean()

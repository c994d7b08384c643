"""What follows the progress of a run besides numbers: sizes of renderings, and backdrops."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.prior_steps import CONFIG, make_model
from helpers.tiny import SCHEDULE, Fog, light, one_camera, scene

from dreamfusion_jax.distillation.stages import stage_at, stages
from dreamfusion_jax.distillation.train import (
    TrainConfig,
    TrainState,
    render_view,
    sample_view,
    step_keys,
)
from dreamfusion_jax.priors.prior import GaussianPrior, View
from dreamfusion_jax.priors.unet_prior import UNetPrior
from dreamfusion_jax.runs import run as run_module
from dreamfusion_jax.scene.background import EnvironmentMap
from dreamfusion_jax.scene.camera import cast_rays
from dreamfusion_jax.scene.lighting import LightingConfig

SIZES = dataclasses.replace(CONFIG, steps=40, sizes=((0.25, 6), (0.5, 9)))


def test_renderings_grow_at_their_moments_and_each_size_is_one_program():
    model = make_model(GaussianPrior(SCHEDULE, 0.5, image_size=4))
    run = stages(model, SIZES)
    sizes = {step: stage_at(run, step).model.prior.image_size for step in range(40)}
    assert [step for step in sizes if step and sizes[step] != sizes[step - 1]] == [10, 20]
    assert [sizes[step] for step in (0, 10, 20, 39)] == [4, 6, 9, 9]
    assert run[0].model is model
    # The model is what programs are compiled for.
    assert len({stage_at(run, step).model for step in range(40)}) == 3


def test_a_run_takes_each_step_with_the_model_of_its_stage():
    model = make_model(GaussianPrior(SCHEDULE, 0.5, image_size=4))
    taken = []

    def step(state, *, model):
        taken.append(model.prior.image_size)
        return state, {}

    run = object.__new__(run_module.Run)
    run._stages = stages(model, SIZES)
    advance = run.advance_from(8, step)  # As after a stop.
    for _ in range(14):
        advance(object.__new__(TrainState))
    assert taken == 2 * [4] + 10 * [6] + 2 * [9]


@pytest.mark.parametrize("sizes", [((0.5, 8), (0.25, 16)), ((1.5, 8),), ((-0.1, 8),)])
def test_moments_that_are_not_in_order_are_refused(sizes):
    with pytest.raises(ValueError, match=r"^sizes of TrainConfig must be moments"):
        TrainConfig(sizes=sizes)


def test_priors_of_one_size_refuse_others():
    with pytest.raises(ValueError, match="other sizes than its own, such as 8"):
        UNetPrior.resized(object.__new__(UNetPrior), 8)


def test_half_of_the_views_have_a_plain_backdrop_in_the_backgrounds_place():
    config = TrainConfig(views=400, lighting=LightingConfig(plain_backdrops=0.5))
    keys = step_keys(jnp.array(0, jnp.uint32), jnp.array(3))
    draw = jax.jit(sample_view, static_argnums=2)
    view = draw(keys, jnp.array(3), config)
    assert 160 < int(view.plain.sum()) < 240
    usual = draw(keys, jnp.array(3), TrainConfig(views=400))
    assert usual.plain is None
    np.testing.assert_array_equal(usual.backdrop, view.backdrop)


@pytest.mark.parametrize("own", [True, False])
def test_what_is_seen_behind_nothing_is_the_backdrop_where_it_is_plain(own):
    background = EnvironmentMap(4, 1, 2) if own else None
    model = scene(Fog(density=0.0), background=background, intervals=4)
    params = jax.jit(model.init)(jax.random.key(0))
    cameras = jax.tree.map(lambda *x: jnp.stack(x), one_camera(0.1), one_camera(2.0))
    backdrops = jnp.array([[0.1, 0.2, 0.3], [0.7, 0.8, 0.9]])
    view = View(cameras, light((2,)), backdrops, jnp.array([True, False]))
    when = {"variance": jnp.array(0.0), "key": None, "train_fraction": jnp.array(0.0)}
    seen, directions = jax.jit(lambda: render_view(model, params, view, size=3, **when))()
    wanted = np.broadcast_to(backdrops[:, None, None], (2, 3, 3, 3)).copy()
    if background is not None:
        wanted[1] = background(
            params["background"], cast_rays(cameras, 3, 3).direction, latent=False
        )[1]
        assert np.ptp(wanted[1]) > 1e-3
    np.testing.assert_allclose(seen.colour, wanted, atol=1e-6)
    assert directions.shape == (2, 3, 3, 3)


def test_behind_latents_stands_a_plain_latent():
    config = TrainConfig(views=400, lighting=LightingConfig(plain_backdrops=0.5))
    keys = step_keys(jnp.array(0, jnp.uint32), jnp.array(3))
    drawn = jax.jit(lambda: sample_view(keys, jnp.array(3), config, latent=True))()
    assert drawn.backdrop.shape == (400, 4) and 160 < int(drawn.plain.sum()) < 240
    view = jax.tree.map(lambda x: x[:6], drawn)
    model = scene(
        Fog(density=0.0, colour=(0.0,) * 4), background=EnvironmentMap(4, 1, 2), intervals=4
    )
    params = jax.jit(model.init)(jax.random.key(0))
    when = {"variance": jnp.array(0.0), "key": None, "train_fraction": jnp.array(0.0)}
    seen = jax.jit(lambda: render_view(model, params, view, size=3, **when)[0].colour)()
    plain = np.asarray(view.plain)
    assert 0 < plain.sum() < 6
    wanted = np.broadcast_to(view.backdrop[:, None, None], seen.shape)
    np.testing.assert_allclose(seen[plain], wanted[plain], atol=1e-6)
    assert np.abs(seen - wanted)[~plain].min(axis=(1, 2)).max(axis=-1).min() > 0.01

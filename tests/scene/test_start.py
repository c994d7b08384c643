"""The preset `paper` starts thin, as its own random cameras see it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamfusion_jax.presets import PAPER
from dreamfusion_jax.scene.camera import cast_rays, sample_camera
from dreamfusion_jax.scene.fields.density import LITERAL
from dreamfusion_jax.scene.fields.mlp import MlpField
from dreamfusion_jax.scene.fields.proposal import ProposalMlp
from dreamfusion_jax.scene.lighting import plain_albedo
from dreamfusion_jax.scene.render import SceneModel, render_rays

CAMERAS, SIZE = 24, 5


@functools.partial(jax.jit, static_argnames="model")
def opacities(model, seed):
    """Of the field and of each round of proposals, at step 0, [rays] each."""
    train = PAPER.train
    init_key, jitter_key, *keys = jax.random.split(jax.random.key(seed), 2 + CAMERAS)
    cameras = jax.vmap(lambda key: sample_camera(key, train.cameras))(jnp.stack(keys))

    def see(camera):
        seen = render_rays(
            model,
            params,
            cast_rays(camera, SIZE, SIZE),
            plain_albedo(),
            variance=train.variance(0, train.steps),
            key=jitter_key,
            train_fraction=0.0,
        )
        return [seen.opacity, *(weights.sum(-1) for _, weights in seen.proposals)]

    params = model.init(init_key)
    return [x.reshape(-1) for x in jax.lax.map(see, cameras, batch_size=8)]


# Normals play no part in the opacity.
MODEL = dataclasses.replace(
    PAPER.scene, sampling=dataclasses.replace(PAPER.scene.sampling, normals="ray")
)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_field_and_the_proposals_start_thin(seed):
    for opacity in opacities(MODEL, seed):
        assert np.mean(opacity) <= 0.3 and np.mean(opacity > 0.5) <= 0.2
        # But there is something in the middle to begin with.
        assert np.max(opacity) > 0.25 and np.mean(opacity) > 0.02


def test_the_literal_reading_starts_as_fog():
    literal = SceneModel(MlpField(density=LITERAL), MODEL.sampling, ProposalMlp(density=LITERAL))
    assert all(np.mean(opacity) > 0.7 for opacity in opacities(literal, 0))

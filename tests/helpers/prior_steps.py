"""One training step under a prior, and what must be true after it."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np

from dreamfusion_jax.distillation.adam import AdamConfig
from dreamfusion_jax.distillation.losses import LossConfig
from dreamfusion_jax.distillation.sds import Sds
from dreamfusion_jax.distillation.train import Model, TrainConfig, init_state
from dreamfusion_jax.priors.prompts import Text
from dreamfusion_jax.scene.background import EnvironmentMap
from dreamfusion_jax.scene.camera import CameraConfig
from dreamfusion_jax.scene.encoding import GridConfig
from dreamfusion_jax.scene.fields.grid import GridField
from dreamfusion_jax.scene.render import SamplingConfig, SceneModel
from dreamfusion_jax.schedules import Ramp

# No regularizers: what moves the field comes from the prior. Cameras that do not look past it.
CONFIG = TrainConfig(
    steps=20,
    views=1,
    optimizer=AdamConfig(learning_rate=0.05, warm_up=0.0),
    cameras=CameraConfig(look_at_std=0.0),
    distillation=Sds(guidance_weight=20.0),
    losses=LossConfig(orientation=Ramp(0.0, 0.0, 0.0), opacity=0.0, interlevel=0.0),
)


def make_model(prior, latent=False):
    return Model(
        SceneModel(
            GridField(GridConfig((3, 6), features=4), smoothness=0.0, latent=latent),
            SamplingConfig(radius=0.62, proposals=(), intervals=6, normals="ray"),
            background=EnvironmentMap(8, 1, 2) if latent else None,
        ),
        prior,
    )


def random_text(width, tokens=77):
    draw = np.random.default_rng(5).standard_normal
    return Text(*(jnp.asarray(draw((*n, tokens, width)), jnp.float32) for n in ((4,), (), ())))


def fingerprints(tree):
    """A checksum of the bits of each array."""
    return jax.tree.map(lambda x: zlib.crc32(np.ascontiguousarray(x).view(np.uint8).data), tree)


def check_steps(step, prior, params, text, *, latent=False, steps=1):
    """Takes steps; yields after each: all is finite, the field moved, the weights did not."""
    weights = fingerprints(params)
    state = init_state(make_model(prior, latent), CONFIG, 0)
    for _ in range(steps):
        before = jax.tree.map(np.array, state.params["field"])
        state, metrics = step(state, params, text)
        assert metrics["finite"] == 1 and metrics["gradient"] > 0
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))
        # Density and albedo, on each level.
        for old, new in zip(before, state.params["field"], strict=True):
            assert np.all(np.any(old != np.asarray(new), axis=0))
        assert fingerprints(params) == weights
        yield metrics

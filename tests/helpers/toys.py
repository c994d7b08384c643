"""A toy of few numbers, as a trained scene."""

import jax
import jax.numpy as jnp
import numpy as np

from dreamfusion_jax.runs.trained_scene import TrainedScene
from dreamfusion_jax.scene.encoding import GridConfig
from dreamfusion_jax.scene.fields.grid import GridField
from helpers.tiny import scene


def toy(raw):
    """A scene of one cube of eight cells: around a blob, `raw` density and random colours."""
    field = GridField(grid=GridConfig((3,), 4, 6), radius=0.6)
    model = scene(field, intervals=32, radius=0.6)
    params = jax.tree.map(jnp.zeros_like, jax.jit(model.init)(jax.random.key(0)))
    table = np.random.default_rng(0).normal(size=(27, 4))
    table[:, 0] = raw
    table[:, 1:] *= 5  # Bright colours, other ones on every side.
    params["field"] = [jnp.asarray(table, jnp.float32)]
    return TrainedScene(model, params, jnp.array(0.0), about={"prompt": "a red apple"})

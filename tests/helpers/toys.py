"""A toy of few numbers, as a trained scene: hard, lopsided, another colour on every side."""

import jax.numpy as jnp
import numpy as np

from dreamfusion_jax.runs.trained_scene import TrainedScene
from dreamfusion_jax.scene.encoding import GridConfig
from dreamfusion_jax.scene.fields.density import Density
from dreamfusion_jax.scene.fields.grid import GridField
from helpers.tiny import scene, zeros

NODES = 13


def toy(lift=0.0):
    """An egg with its colours along the axes; `lift` is added to the logarithm of its density.

    Mirrored or turned it is another toy: pictures of it that only have its size are told from
    pictures of it.
    """
    plain = Density(bias=0.0, strength=0.0)
    field = GridField(grid=GridConfig((NODES,), 4, 12), radius=0.6, density=plain)
    model = scene(field, intervals=64, radius=0.6)
    params = zeros(model.init)
    axis = np.linspace(-0.6, 0.6, NODES)
    place = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    inside = 0.42 - np.linalg.norm(place * [1.3, 1.0, 1.1], axis=-1)
    raw = np.clip(60 * inside, -9, 6) + lift
    table = np.concatenate([raw[:, None], 12 * place], axis=-1)
    params["field"] = [jnp.asarray(table, jnp.float32)]
    return TrainedScene(model, params, jnp.array(0.0), about={"prompt": "a red apple"})

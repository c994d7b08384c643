"""Scenes of two grey blobs, and folders of runs that were never trained."""

import dataclasses
import json
import math

import jax.numpy as jnp
import numpy as np
from PIL import Image

from dreamfusion_jax.presets import TOYBOX, changed
from dreamfusion_jax.runs.settings import RunSettings, describe_run
from dreamfusion_jax.runs.trained_scene import TrainedScene
from dreamfusion_jax.scene.encoding import GridConfig
from helpers.tiny import zeros

CONFIG = changed(
    TOYBOX, {"scene.field.grid": GridConfig(resolutions=(48,), features=4), "output.size": 16}
)
"""One dense level, so that the scene can be written down."""


def ball(radius=0.3, colour=(0.9, 0.2, 0.1), centre=(0.0, 0.0, 0.0)) -> TrainedScene:
    """A scene of one ball with a soft edge, see `ball_density`."""
    field, side = CONFIG.scene.field, 48
    axis = np.linspace(-field.radius, field.radius, side)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    distance = np.linalg.norm(points - np.array(centre), axis=-1)
    bump = 6.0 * np.exp(-0.5 * np.sum(points**2, axis=-1) / 0.2**2)
    raw = np.log(ball_density(distance, radius)) + 4.0 - bump  # It is exp(raw - 4 + bump).
    table = np.concatenate([raw[:, None], np.tile(_logit(colour), (len(raw), 1))], axis=-1)
    params = zeros(CONFIG.scene.init)
    params = {**params, "field": [jnp.asarray(table, jnp.float32)]}
    return TrainedScene(CONFIG.scene, params, jnp.zeros(()), about={"prompt": "a ball"})


def ball_density(distance, radius):
    """Density per world unit so far from the middle of a ball."""
    return np.exp(np.clip(60.0 * (radius - distance) + 3.0, -12.0, 6.0))


def _logit(colour):
    return [math.log(c / (1.0 - c)) for c in colour]


def written_run(folder, prompt="a ball", seed=0, residual=0.5, opacity=0.3):
    """A folder as a finished run leaves it, with tiny pictures and a mesh of an octahedron."""
    import trimesh

    folder.mkdir(parents=True)
    settings = RunSettings(
        "a ball", dataclasses.replace(CONFIG), seed=seed, prior="toybox", preset="toybox"
    )
    config = describe_run(settings)
    config["settings"]["prompt"] = prompt
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.csv").write_text(f"step,opacity\n1,0.1\n600,{opacity}\n")
    (folder / "progress.csv").write_text(
        f"step,residual_0.2,residual_0.8,change\n1,0.9,0.3,0.0\n600,{residual},0.1,0.02\n"
    )
    for place, size in (("preview.png", (16 * 8 + 20, 16 * 4 + 10)), ("shown/000600.png", (8, 6))):
        path = folder / place
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", size, (10 * seed, 120, 60)).save(path)
    trimesh.creation.icosphere(subdivisions=1).export(folder / "mesh.glb")
    return folder

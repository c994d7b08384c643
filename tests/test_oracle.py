"""With the truth in the prior's place, score distillation must reproduce the object."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamfusion_jax.camera import orbit
from dreamfusion_jax.config import TOYBOX, TOYBOX_MLP, RunConfig
from dreamfusion_jax.prior import encode_prompts
from dreamfusion_jax.priors import load_prior
from dreamfusion_jax.toybox.captions import Vocabulary
from dreamfusion_jax.toybox.renderer import render_truth
from dreamfusion_jax.train import Model, TrainState, init_state, train_step
from dreamfusion_jax.views import look_around


def _distil(prompt: str, config: RunConfig) -> TrainState:
    prior, params = load_prior("oracle", prompt, None)
    model = Model(config.scene, prior)
    text = encode_prompts(prior, params, prompt, config.train.prompts)
    state = init_state(model, config.train)
    for _ in range(config.train.steps):
        state, metrics = train_step(state, params, text, model=model, config=config.train)
    assert metrics["finite"] == 1
    return state


def _scores(prompt: str, config: RunConfig, state: TrainState) -> tuple[float, float]:
    """Mean silhouette IoU and PSNR of the albedo over 8 views that were not trained on."""
    cameras = orbit(8, math.radians(20.0), 1.3, 1.1, azimuth=0.1)
    variance = config.train.variance(config.train.steps)
    looks = look_around(
        config.scene, state.params, cameras, size=64, variance=variance, backdrop=1.0
    )
    scene, overlaps, errors = Vocabulary().scene(prompt), [], []
    for i in range(8):
        truth = render_truth(scene, jax.tree.map(lambda x, i=i: x[i], cameras), size=64)
        solid = np.asarray(looks.opacity[i, ..., 0]) > 0.5
        seen = np.asarray(truth.silhouette)
        overlaps.append((solid & seen).sum() / (solid | seen).sum())
        albedo = jnp.where(truth.silhouette[..., None], truth.albedo, 1.0)
        errors.append(float(jnp.mean((looks.color[i] - albedo) ** 2)))
    return float(np.mean(overlaps)), -10 * math.log10(np.mean(errors))


def test_the_grid_field_becomes_a_car() -> None:
    train = dataclasses.replace(
        TOYBOX.train,
        steps=160,
        views=2,
        sds=dataclasses.replace(TOYBOX.train.sds, guidance_weight=0.0),
    )
    config = dataclasses.replace(TOYBOX, train=train)
    overlap, psnr = _scores("a red car", config, _distil("a red car", config))
    assert overlap >= 0.85
    assert psnr >= 24.0


@pytest.mark.slow
def test_the_papers_mlp_becomes_a_snowman() -> None:
    train = dataclasses.replace(
        TOYBOX_MLP.train,
        steps=1500,
        views=1,
        sds=dataclasses.replace(TOYBOX_MLP.train.sds, guidance_weight=0.0),
    )
    config = dataclasses.replace(TOYBOX_MLP, train=train)
    overlap, _ = _scores("a red snowman", config, _distil("a red snowman", config))
    assert overlap >= 0.80

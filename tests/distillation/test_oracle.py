"""With the truth in the prior's place, score distillation must reproduce the object."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.compiling import compile_well

from dreamfusion_jax.distillation.losses import LossConfig
from dreamfusion_jax.distillation.train import Model, TrainState, init_state, train_step
from dreamfusion_jax.evaluation.truth_metrics import psnr, silhouette_iou
from dreamfusion_jax.field_choice import with_field
from dreamfusion_jax.looks.views import look_around
from dreamfusion_jax.presets import TOYBOX, RunConfig
from dreamfusion_jax.priors.loading import load_prior
from dreamfusion_jax.priors.oracle import OraclePrior
from dreamfusion_jax.priors.prior import encode_prompts
from dreamfusion_jax.scene.camera import Camera, orbit
from dreamfusion_jax.scene.lighting import plain_albedo
from dreamfusion_jax.toybox.captions import Vocabulary
from dreamfusion_jax.toybox.renderer import Layers, colourise, render_layers


def _oracle(preset: RunConfig, steps: int, views: int) -> RunConfig:
    """A preset without guidance and with the paper's regularizers: the truth needs no help."""
    train = dataclasses.replace(
        preset.train,
        steps=steps,
        views=views,
        distillation=dataclasses.replace(preset.train.distillation, guidance_weight=0.0),
        losses=LossConfig(),
    )
    return dataclasses.replace(preset, train=train)


def _distil(prompt: str, config: RunConfig, group: int = 1) -> TrainState:
    """Trains on pictures half as large as those of `_scores`: four times faster, and enough."""
    prior, params = load_prior("oracle", prompt, None)
    assert isinstance(prior, OraclePrior)
    prior = dataclasses.replace(prior, image_size=32, group=group)
    model = Model(config.scene, prior)
    text = encode_prompts(prior, params, prompt, config.train.prompts)
    state = init_state(model, config.train, seed=0)
    step = compile_well(functools.partial(train_step, model=model, config=config.train))
    for _ in range(config.train.steps):
        state, metrics = step(state, params, text)
    assert metrics["finite"] == 1
    return state


def _scores(prompt: str, config: RunConfig, state: TrainState) -> tuple[float, float]:
    """Mean silhouette IoU and PSNR of the albedo over 8 views that were not trained on."""
    cameras = orbit(8, math.radians(20.0), 1.3, 1.1, azimuth=0.1)
    variance = config.train.variance(config.train.steps, config.train.steps)
    looks = look_around(
        config.scene, state.params, cameras, size=64, variance=variance, backdrop=1.0
    )
    scene = Vocabulary().scene(prompt)

    def draw(camera: Camera) -> Layers:
        return render_layers(scene.category, scene.modifier, camera, plain_albedo(), size=64)

    layers = jax.vmap(draw)(cameras)
    colours = (jnp.broadcast_to(jnp.asarray(colour), (8, 3)) for colour in scene.palette)
    truth = colourise(layers, *colours, jnp.ones((8, 3)))
    overlaps = silhouette_iou(looks.opacity[..., 0] > 0.5, layers.alpha > 0.5)
    return float(np.mean(overlaps)), psnr(looks.colour, truth)


@pytest.mark.slow
def test_the_grid_field_becomes_a_car() -> None:
    config = _oracle(TOYBOX, steps=240, views=2)
    overlap, psnr = _scores("a red car", config, _distil("a red car", config))
    assert overlap >= 0.85
    assert psnr >= 24.0


@pytest.mark.slow
def test_groups_of_four_cameras_train_a_car() -> None:
    """As a prior of several views asks: four cameras around, one time, one light."""
    config = _oracle(TOYBOX, steps=100, views=4)
    overlap, psnr = _scores("a red car", config, _distil("a red car", config, group=4))
    assert overlap >= 0.85
    assert psnr >= 22.0


def snowman_config() -> RunConfig:
    """The paper's field, with few samples a ray so that it can be trained on a CPU."""
    config = _oracle(with_field(TOYBOX, "mlp"), steps=600, views=1)
    sampling = dataclasses.replace(config.scene.sampling, intervals=24)
    return dataclasses.replace(config, scene=dataclasses.replace(config.scene, sampling=sampling))


@pytest.mark.slow
def test_the_papers_mlp_becomes_a_snowman() -> None:
    config = snowman_config()
    state = _distil("a red snowman", config)
    overlap, psnr = _scores("a red snowman", config, state)
    assert overlap >= 0.80
    assert psnr >= 24.0

import dataclasses
import json
import operator

import jax
import jax.numpy as jnp
import pytest

from dreamfusion_jax import presets as config
from dreamfusion_jax.distillation.rates import PartRates
from dreamfusion_jax.presets import PAPER, RunConfig
from dreamfusion_jax.scene.fields.density import Density
from dreamfusion_jax.scene.lighting import sample_lighting

PRESETS = {name: value for name, value in vars(config).items() if isinstance(value, RunConfig)}

# DreamFusion, sections 2.1, 3.1, 3.2 and appendix A.2; mip-NeRF 360, supplement. Departures, as
# `CameraConfig` and `Density` explain: the cameras' spread, the bias and blob of the density.
PAPER_NUMBERS = {
    "train.steps": 15_000,
    "train.views": 4,
    "train.time.low": 0.02,
    "train.distillation.guidance_weight": 100.0,
    "train.distillation.weighting": "sigma_squared",
    "train.distillation.clip_denoised": False,
    "train.prompts.views": "nearest",
    "train.cameras.elevation": (-10.0, 90.0),
    "train.cameras.area_probability": 0.5,
    "train.cameras.distance": (1.0, 1.5),
    "train.cameras.position_jitter": 0.1,
    "train.cameras.look_at_std": 0.2,
    "train.cameras.up_std": 0.02,
    "train.cameras.gaussians": "std",
    "train.cameras.focal": (0.7, 1.35),
    "train.lighting.diffuse_probability": 0.75,
    "train.lighting.textureless_probability": 0.5,
    "train.lighting.ambient": 0.1,
    "train.lighting.diffuse": 0.9,
    "train.lighting.distance": (0.8, 1.5),
    "train.losses.distortion": 0.0,
    "train.losses.interlevel": 1.0,
    "train.optimizer.parts": PartRates(1.0, 1.0, 1.0),
    "train.optimizer.beta1": 0.9,
    "train.optimizer.beta2": 0.9,
    "train.optimizer.exponent": 2,
    "train.optimizer.block_size": 128,
    "train.optimizer.epsilon": 1e-6,
    "train.optimizer.start_preconditioning_step": 5,
    "train.optimizer.max_merged_size": 4096,
    "train.optimizer.max_dimension": 4096,
    "train.optimizer.learning_rate": 1e-4,
    "scene.field.width": 128,
    "scene.field.blocks": 5,
    "scene.field.frequencies": 8,
    "scene.field.density.bias": -4.0,
    "scene.field.density.blob": "inside",
    "scene.field.density.strength": 6.0,
    "scene.field.density.width": 0.2,
    "scene.proposal.density": Density(-4.0, "inside", 6.0, 0.2),
    "scene.sampling.radius": 1.4,
    "scene.sampling.proposals": (64, 64),
    "scene.sampling.intervals": 32,
    "scene.sampling.dilation": 0.5,
    "scene.sampling.dilation_floor": 0.0025,
    "scene.sampling.anneal_slope": 10.0,
    "scene.sampling.normals": "sample",
}


@pytest.mark.parametrize("name", PAPER_NUMBERS)
def test_the_paper_preset_has_the_papers_numbers(name):
    assert operator.attrgetter(name)(PAPER) == PAPER_NUMBERS[name]


# Step: lambda_Sigma and the weight of the orientation loss (appendix A.2).
PAPER_RAMPS = {
    0: (0.05, 0.0001),
    1250: (0.038, 0.002575),
    2500: (0.026, 0.00505),
    4999: (0.0020096, 0.00999802),
    5000: (0.002, 0.01),
    10_000: (0.002, 0.01),
    15_000: (0.002, 0.01),
}


@pytest.mark.parametrize("step", PAPER_RAMPS)
def test_the_paper_preset_has_the_papers_ramps(step):
    train, (blur, orientation) = PAPER.train, PAPER_RAMPS[step]
    assert float(train.variance(step, 15_000)) == pytest.approx(blur, rel=1e-5)
    assert float(train.losses.orientation(step, 15_000)) == pytest.approx(orientation, rel=1e-5)
    assert float(train.time.high(step, 15_000)) == pytest.approx(0.98)
    assert float(train.losses.entropy(step, 15_000)) == 0.0


# From 1e-9 to 1e-4 in 3,000 steps, then half a cosine to 1e-6 (appendix A.2).
PAPER_RATES = {
    0: 1e-9,
    1500: 5.00005e-5,
    2999: 9.99667e-5,
    3000: 1e-4,
    6000: 8.55017867e-5,  # A quarter of the decay: 1e-6 + 99e-6 (1 + cos 45 deg) / 2.
    9000: 5.05e-5,
    15_000: 1e-6,
}


@pytest.mark.parametrize("step", PAPER_RATES)
def test_the_paper_preset_has_the_papers_learning_rate(step):
    rate = float(PAPER.train.optimizer.schedule(15_000)(step))
    assert rate == pytest.approx(PAPER_RATES[step], rel=2e-5, abs=1e-11)


@pytest.mark.parametrize(("step", "lit"), [(0, False), (999, False), (1000, True), (15_000, True)])
def test_the_paper_preset_lights_the_scene_after_1000_steps(step, lit):
    lights = dataclasses.replace(PAPER.train.lighting, diffuse_probability=1.0)
    light = sample_lighting(jax.random.key(0), jnp.ones(3), step, 15_000, lights)
    assert (float(light.diffuse) > 0) == lit


def test_the_paper_preset_keeps_the_opacity_weight_and_learns_its_background():
    assert 1e-3 <= PAPER.train.losses.opacity <= 5e-3
    assert PAPER.scene.background is not None


# Of the presets as they were tuned: what had been steps, at their usual length.
STEPS = {"TOYBOX": 600, "QUALITY": 2000, "FAST_SD": 10_000, "FAST_IF": 10_000, "LATENT_SD": 10_000}
LIT_FROM = {"TOYBOX": 150, "QUALITY": 500, "FAST_SD": 2000, "FAST_IF": 2000, "LATENT_SD": 2000}
WARM_UP = {"TOYBOX": 20, "QUALITY": 67, "FAST_SD": 100, "FAST_IF": 100, "LATENT_SD": 100}


@pytest.mark.parametrize("name", STEPS)
def test_the_other_presets_keep_their_moments(name):
    train = PRESETS[name].train
    assert train.steps == STEPS[name]
    assert train.lighting.albedo_until * train.steps == LIT_FROM[name]
    rates = jax.vmap(train.optimizer.schedule(train.steps))(jnp.arange(200))
    assert int(jnp.argmax(rates)) == WARM_UP[name]
    over = {"TOYBOX": (500, 450), "QUALITY": (5000 / 3, 1500)}.get(name, (5000, 5000))
    for ramp, step in zip((train.losses.orientation, train.losses.entropy), over, strict=True):
        assert float(ramp(step, train.steps)) == pytest.approx(ramp.end, rel=1e-5)
        before = float(ramp(0.99 * step, train.steps))
        assert before == pytest.approx(ramp.start + 0.99 * (ramp.end - ramp.start), rel=1e-4)


@pytest.mark.parametrize("name", ["FAST_SD", "FAST_IF", "LATENT_SD"])
def test_fast_backgrounds_learn_slowly_enough_not_to_saturate(name):
    optimizer = PRESETS[name].train.optimizer
    assert optimizer.learning_rate * optimizer.parts.background == pytest.approx(1e-3)
    assert (optimizer.parts.field, optimizer.parts.proposals) == (1.0, 1.0)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_values(name):
    preset = PRESETS[name]
    assert hash(preset) == hash(dataclasses.replace(preset))
    assert json.loads(json.dumps(dataclasses.asdict(preset)))["train"]["steps"] > 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset.train.steps = 1


def test_only_the_departures_divide_the_small_priors_preset_from_the_papers():
    back = {name: operator.attrgetter(name)(PAPER) for name in config.FOR_SMALL_PRIOR}
    assert config.changed(config.PAPER_SMALL, back) == PAPER
    assert config.preset("paper").config == config.PAPER_SMALL
    for name in ("paper-sd", "paper-if"):
        assert config.preset(name).config == PAPER


def test_the_presets_are_there():
    assert {"PAPER", "TOYBOX"} <= set(PRESETS)

import dataclasses
import json
import operator

import pytest

from dreamfusion_jax import presets as config
from dreamfusion_jax.presets import PAPER, RunConfig
from dreamfusion_jax.scene.fields.density import Density

PRESETS = {name: value for name, value in vars(config).items() if isinstance(value, RunConfig)}

# DreamFusion, sections 2.1, 3.1, 3.2 and appendix A.2; mip-NeRF 360, supplement. Departures, as
# `CameraConfig` and `Density` explain: the cameras' spread, the bias and blob of the density.
PAPER_NUMBERS = {
    "train.steps": 15_000,
    "train.views": 4,
    "train.sds.guidance_weight": 100.0,
    "train.sds.time_low": 0.02,
    "train.sds.weighting": "sigma_squared",
    "train.sds.clip_denoised": False,
    "train.prompts.views": "nearest",
    "train.cameras.elevation": (-10.0, 90.0),
    "train.cameras.area_probability": 0.5,
    "train.cameras.distance": (1.0, 1.5),
    "train.cameras.position_jitter": 0.1,
    "train.cameras.look_at_std": 0.2,
    "train.cameras.up_std": 0.02,
    "train.cameras.gaussians": "std",
    "train.cameras.focal": (0.7, 1.35),
    "train.lighting.albedo_steps": 1000,
    "train.lighting.diffuse_probability": 0.75,
    "train.lighting.textureless_probability": 0.5,
    "train.lighting.ambient": 0.1,
    "train.lighting.diffuse": 0.9,
    "train.lighting.distance": (0.8, 1.5),
    "train.losses.distortion": 0.0,
    "train.optimizer.beta1": 0.9,
    "train.optimizer.beta2": 0.9,
    "train.optimizer.exponent": 2,
    "train.optimizer.block_size": 128,
    "train.optimizer.epsilon": 1e-6,
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


def test_the_paper_preset_has_the_papers_schedules():
    train = PAPER.train
    for step in (0, 2500, 5000, 15_000):
        share = min(step / 5000, 1)
        assert float(train.variance(step)) == pytest.approx(5e-2 + share * (2e-3 - 5e-2))
        assert float(train.losses.orientation(step)) == pytest.approx(1e-4 + share * (1e-2 - 1e-4))
        assert float(train.sds.time_high(step)) == pytest.approx(0.98)
        assert float(train.losses.entropy(step)) == 0.0
    assert 1e-3 <= train.losses.opacity <= 5e-3
    assert PAPER.scene.background is not None


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_values(name):
    preset = PRESETS[name]
    assert hash(preset) == hash(dataclasses.replace(preset))
    assert json.loads(json.dumps(dataclasses.asdict(preset)))["train"]["steps"] > 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset.train.steps = 1


def test_the_presets_are_there():
    assert {"PAPER", "TOYBOX"} <= set(PRESETS)

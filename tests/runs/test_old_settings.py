"""Settings as the first kind of run folder stored them."""

import copy
import json

import pytest

from dreamfusion_jax import presets
from dreamfusion_jax.distillation.sds import Sds
from dreamfusion_jax.distillation.time import TimeConfig
from dreamfusion_jax.runs.old_settings import upgrade
from dreamfusion_jax.runs.settings import RunSettings, from_json, to_json
from dreamfusion_jax.scene.fields.density import LITERAL, Density
from dreamfusion_jax.scene.fields.grid import GridField
from dreamfusion_jax.scene.fields.hash import HashField
from dreamfusion_jax.scene.fields.mlp import MlpField
from dreamfusion_jax.scene.fields.proposal import ProposalMlp
from dreamfusion_jax.schedules import Ramp

SDS = {"guidance_weight": 3.0, "weighting": "image", "clip_denoised": True, "time_low": 0.02}
RAMP = {"start": 0.98, "end": 0.98, "steps": 0}


def old_train(steps, orientation, albedo_steps, optimizer, **changes):
    today = to_json(presets.TOYBOX)["train"]
    train = {name: today[name] for name in ("views", "cameras", "lighting", "prompts", "losses")}
    train = json.loads(json.dumps(train))
    train["lighting"].pop("albedo_until")
    train["lighting"]["albedo_steps"] = albedo_steps
    train["losses"] |= {
        "orientation": {"start": 0.01, "end": 0.1, "steps": orientation},
        "entropy": {"start": 0.02, "end": 0.3, "steps": 450},
    }
    return train | {
        "steps": steps,
        "seed": 7,
        "variance": {"start": 0.0, "end": 0.0, "steps": 0},
        "optimizer": optimizer,
        "sds": {**SDS, "time_high": RAMP},
        **changes,
    }


SCENE = {
    "field": {
        "grid": {"resolutions": [16, 32], "features": 4, "log2_table_size": 18},
        **{"radius": 0.62, "bias": -4.0, "blob": {"strength": 6.0, "width": 0.2}},
        **{"smoothness": 0.005, "latent": False},
    },
    "sampling": {
        **{"radius": 0.62, "proposals": [], "intervals": 48, "normals": "ray"},
        **{"dilation": 0.5, "dilation_floor": 0.0025, "anneal_slope": 10.0},
    },
    "proposal": {
        **{"width": 64, "blocks": 1, "frequencies": 5},
        "blob": {"strength": 5.0, "width": 0.2},
    },
    "background": None,
}
ADAM = {"learning_rate": 0.1, "warm_up": 20, "final": 0.1, "b1": 0.9, "b2": 0.99, "eps": 1e-15}


def upgraded(train):
    output = to_json(presets.TOYBOX)["output"]
    config = {"scene": copy.deepcopy(SCENE), "train": train, "output": output}
    names = ("prompt", "negative_prompt", "seed", "prior", "weights", "image_size", "preset")
    old = dict.fromkeys(names) | {"prompt": "a duck", "seed": 7, "negative_prompt": ""}
    old |= {"prior": "toybox", "preset": "toybox", "config": config}
    saved = upgrade({"arguments": [], "settings": old})
    return from_json(saved["settings"], RunSettings).config.train


def test_the_old_default_is_todays_but_for_what_was_tuned_since():
    since = {
        "train.time": TimeConfig(),
        "train.distillation": Sds(3.0, weighting="image", clip_denoised=True),
        "train.losses.entropy": Ramp(0.02, 0.3, 3 / 4),
    }
    expected = presets.changed(presets.TOYBOX, since).train
    assert upgraded(old_train(600, 500, 150, ADAM)) == expected


def test_what_lasted_longer_than_the_run_ends_with_it():
    train = upgraded(old_train(100, 500, 1000, ADAM))
    assert train.lighting.albedo_until == 1.0
    # 100 of 500 steps from 0.01 to 0.1.
    for step, value in {0: 0.01, 50: 0.019, 100: 0.028}.items():
        assert float(train.losses.orientation(step, 100)) == pytest.approx(value)
    assert train.optimizer.warm_up == 0.2


@pytest.mark.parametrize(("steps", "rise"), [(15_000, 3000), (20_000, 3000), (100, 20)])
def test_shampoo_rose_for_a_fifth_of_a_run_at_most_3000_steps(steps, rise):
    beta = {"beta1": 0.9, "beta2": 0.9, "exponent": 2, "block_size": 128, "epsilon": 1e-6}
    optimizer = upgraded(old_train(steps, 500, 0, beta)).optimizer
    assert optimizer.warm_up * steps == pytest.approx(rise)
    assert optimizer.learning_rate == 1e-4


BLOB = {"strength": 5.0, "width": 0.2}
MLP = {"width": 32, "blocks": 2, "frequencies": 6, "blob": BLOB, "bfloat16": True}
GRID = {"radius": 0.5, "bias": -3.0, "blob": {"strength": 7.0, "width": 0.1}, "latent": False}
GRID["grid"] = {"resolutions": [8, 16], "features": 4, "log2_table_size": 18}


def upgraded_scene(field):
    scene = {"field": dict(field), "proposal": {"width": 16, "blob": BLOB}, "background": None}
    names = ("negative_prompt", "seed", "prior", "weights", "image_size", "preset")
    config = {"scene": scene, "train": old_train(600, 500, 150, ADAM)}
    settings = dict.fromkeys(names) | {"prompt": "a red apple", "config": config}
    return upgrade({"arguments": [], "settings": settings})["settings"]["config"]["scene"]


def test_densities_of_older_runs_are_what_they_were():
    scene = upgraded_scene(MLP)
    field = from_json(scene["field"], GridField | HashField | MlpField)
    assert field == MlpField(32, 2, 6, LITERAL, bfloat16=True)
    assert from_json(scene["proposal"], ProposalMlp) == ProposalMlp(16, density=LITERAL)
    field = from_json(upgraded_scene(GRID)["field"], GridField | HashField | MlpField)
    assert isinstance(field, GridField) and field.radius == 0.5
    assert field.density == Density(-3.0, "inside", 7.0, 0.1)

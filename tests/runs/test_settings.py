"""Settings by value: every preset comes back, whatever was added since, and old folders too."""

import dataclasses
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from dreamfusion_jax import presets
from dreamfusion_jax.distillation.sds import Sds
from dreamfusion_jax.field_choice import with_field
from dreamfusion_jax.runs.checkpoint import CheckpointError, load_config
from dreamfusion_jax.runs.run import Run, load_finished
from dreamfusion_jax.runs.settings import (
    RunSettings,
    describe_run,
    from_json,
    read_settings,
    to_json,
)
from dreamfusion_jax.scene.camera import orbit

OLD = Path(__file__).parent / "old-run"
FOLDER = Path("a-folder")


def stored(settings):
    return json.loads(json.dumps(describe_run(settings)))


@pytest.mark.parametrize("preset", presets.PRESETS, ids=lambda preset: preset.name)
@pytest.mark.parametrize("field", ["grid", "hash", "mlp"])
def test_every_preset_comes_back(preset, field):
    settings = RunSettings.of(preset, "a red mushroom", 7)
    config = settings.config
    if not config.scene.latent:
        config = with_field(config, field)
    settings = dataclasses.replace(settings, config=config, negative_prompt="a toy")
    assert read_settings(stored(settings), FOLDER) == settings


def test_a_setting_that_was_added_since_has_its_default():
    settings = RunSettings.of(presets.preset("toybox"), "a red mushroom")
    saved = stored(settings)
    del saved["settings"]["config"]["output"]["backdrop"]
    del saved["settings"]["config"]["scene"]["sampling"]["normals"]
    found = read_settings(saved, FOLDER).config
    assert found.output == settings.config.output
    assert found.scene.sampling.normals == "sample"  # The field's default, not the preset's.


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda s: s["settings"]["config"]["train"].update(views="many"), "views"),
        (lambda s: s["settings"]["config"]["train"].update(wings=2), "wings"),
        (lambda s: s["settings"].pop("prompt"), "prompt"),
        (lambda s: s["settings"].update(prompt=" "), "prompt"),
        (lambda s: s.update(format=99), "format 99"),
        (lambda s: s.pop("settings"), "not the folder of a run"),
    ],
)
def test_what_is_wrong_with_stored_settings_is_said_in_one_line(spoil, said):
    saved = stored(RunSettings.of(presets.preset("toybox"), "a red mushroom"))
    spoil(saved)
    with pytest.raises(CheckpointError, match=said) as caught:
        read_settings(saved, FOLDER)
    assert "\n" not in str(caught.value)


def test_what_a_run_is_made_with_is_stored():
    made = stored(RunSettings.of(presets.preset("toybox"), "a red mushroom"))["made_with"]
    assert made["versions"]["jax"] == jax.__version__
    assert made["platform"] == "cpu" and "cpu" in made["device"].lower()


def test_values_of_unions_keep_their_class():
    kind = presets.RunConfig
    for config in (presets.PAPER, presets.TOYBOX):
        values = json.loads(json.dumps(to_json(config)))
        found = from_json(values, kind)
        assert type(found.scene.field) is type(config.scene.field)
        assert type(found.train.optimizer) is type(config.train.optimizer)


def test_a_finished_run_of_the_first_kind_can_be_read():
    """Its folder was written by the version that stored the command line."""
    settings, scene = load_finished(OLD)
    assert settings.prompt == "a red mushroom" and settings.seed == 0
    assert settings.prior == "oracle" and settings.config.train.steps == 6
    assert settings.config.scene.sampling.intervals == 12
    # What that version itself read from the folder.
    sums = [float(np.abs(np.asarray(x)).sum()) for x in jax.tree.leaves(scene.params)]
    np.testing.assert_allclose(sums, [46.23799133300781, 213.3074188232422], rtol=1e-6)
    assert float(scene.variance) == 0.0
    looks = scene.look(orbit(1, 0.3, 1.3, 1.1), size=16)
    assert 0.05 < float(looks.opacity.mean()) < 0.9


def test_settings_of_the_first_kind_become_todays_values():
    found = read_settings(load_config(OLD), OLD).config
    today = presets.TOYBOX
    assert found.train.cameras == today.train.cameras
    assert found.train.distillation == Sds(3.0, weighting="image", clip_denoised=True)
    assert found.train.time.low == today.train.time.low
    # Its ramps and its albedo were counted in steps, of which it had only 6.
    assert dataclasses.replace(found.train.lighting, albedo_until=0.25) == today.train.lighting
    assert found.train.lighting.albedo_until == 1.0
    assert dataclasses.replace(found.train.optimizer, warm_up=1 / 30) == today.train.optimizer
    assert found.train.optimizer.warm_up == 0.5
    losses = found.train.losses
    assert float(losses.orientation(6, 6)) == pytest.approx(0.01 + 0.09 * 6 / 500)
    assert float(losses.entropy(3, 6)) == pytest.approx(0.02 + 0.28 * 3 / 450)
    assert (losses.opacity, losses.distortion) == (0.01, 0.0)
    assert dataclasses.replace(found.scene.field, grid=today.scene.field.grid) == today.scene.field


def test_an_old_folder_without_a_setting_is_named():
    saved = load_config(OLD)
    del saved["settings"]["config"]["train"]
    with pytest.raises(CheckpointError, match="train"):
        read_settings(saved, OLD)


def test_an_empty_prompt_and_a_negative_seed_are_refused():
    config = presets.TOYBOX
    with pytest.raises(ValueError, match="prompt is empty"):
        RunSettings(" ", config)
    with pytest.raises(ValueError, match="seed must not be negative"):
        RunSettings("a red mushroom", config, seed=-1)
    with pytest.raises(CheckpointError, match="there is no folder"):
        Run.resume("nowhere")

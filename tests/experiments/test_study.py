"""The study of settings from end to end, and the judging of samples, at tiny sizes."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamfusion_jax import presets
from dreamfusion_jax.evaluation import measuring, objects
from dreamfusion_jax.evaluation.judge import Judge, Verdict
from dreamfusion_jax.evaluation.study import study, table_of
from dreamfusion_jax.evaluation.truth_metrics import Portrait, measure, truth_portrait
from dreamfusion_jax.priors.loading import load_prior
from dreamfusion_jax.toybox.world import Scene
from experiments import judge_samples
from experiments import study as program

PROMPT = "a green car"
TINY = {
    "train.steps": 3,
    "train.views": 1,
    "scene.sampling.intervals": 8,
    "output.mesh_resolution": 16,
    "output.mesh_texture": 0,
    "train.distillation.guidance_weight": 0.0,
}


@pytest.mark.slow
def test_a_study_makes_and_measures_and_does_nothing_twice(tmp_path, monkeypatch):
    oracle, preset = load_prior("oracle", PROMPT), presets.preset("toybox")

    def run(*names):
        changes = {"default": TINY, "same": TINY, "other": {**TINY, "train.steps": 2}}
        changes = {name: changes[name] for name in names}
        found = study(changes, preset, (PROMPT,), 0, tmp_path, measuring.no_jury, 16, oracle)
        return table_of(found)

    _, _, default, same, other = run("default", "same", "other").splitlines()
    assert default.split("|")[2:] == same.split("|")[2:] != other.split("|")[2:]
    assert f"{PROMPT} 0." in default

    monkeypatch.setattr(objects.Run, "start", lambda *_: pytest.fail("made again"))
    monkeypatch.setattr(objects.Run, "resume", lambda *_: pytest.fail("made again"))
    assert run("default").splitlines()[2] == default
    assert (tmp_path / "default/a-green-car-seed0.png").is_file()


def test_the_plot_has_the_numbers_of_the_table(tmp_path):
    car, duck = (
        [measuring.Row(name, Scene(name, "red"), _measures(iou), None) for name in ("car", "duck")]
        for iou in (0.5, 0.75)
    )
    path = program.draw({"default": car, "other": duck}, tmp_path)
    assert path.is_file() and path.with_suffix(".pdf").is_file()
    numbers = json.loads(path.with_suffix(".json").read_text())
    assert numbers["changes"] == ["default", "other"]
    assert numbers["measures"]["silhouette IoU"] == {"car": [0.5, 0.75], "duck": [0.5, 0.75]}
    assert "| other | 0.750 |" in table_of({"default": car, "other": duck})


def _measures(iou):
    """Of an object that is right but for its overlap."""
    scene = Scene("car", "red")
    portrait = truth_portrait(scene, size=16)
    return dataclasses.replace(measure(scene, portrait), iou=iou)


@pytest.mark.parametrize("preset", program.CHANGES)
def test_every_change_is_one_to_the_preset(preset):
    config = program.CHANGED[preset].config
    for name, change in program.CHANGES[preset].items():
        assert (presets.changed(config, change) == config) == (name == "default")
    with pytest.raises(ValueError, match=r"no setting train\.distillation\.magic"):
        presets.changed(presets.TOYBOX, {"train.distillation.magic": 1})


def test_with_the_embedded_prior_fast_if_is_fast_sd():
    """What tells the two apart is their cameras and their guidance, and those are the prior's."""
    with_prior = [
        presets.changed(config, presets.SEEN_BY_SMALL_PRIOR)
        for config in (presets.FAST_SD, presets.FAST_IF, presets.PAPER)
    ]
    assert with_prior[0] == with_prior[1] != with_prior[2]


def test_unknown_changes_are_named(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        program.main(["--changes", "more magic", "--judge", "None", "--output", str(tmp_path)])
    assert stop.value.code == 2
    assert "more magic" in capsys.readouterr().err


class _Fixed(Judge):
    """Says the same of every picture: something red (`params` says which answer), its front."""

    def __call__(self, params, images):
        sizes = (len(self.config.answers), len(self.config.colours), 4)
        at = (params["answer"], self.config.colours.index("red"), 0)
        count = len(images)
        return Verdict(
            *(jax.nn.one_hot(jnp.full(count, i), n) for i, n in zip(at, sizes, strict=True))
        )


_ANSWERS = Judge().config.answers


def test_accuracy_counts_what_was_asked_for():
    car, cactus = Scene("car", "red"), Scene("cactus", "red")
    scenes, views = [car, car, Scene("car", "blue"), cactus], [0, 2, 0, 2]
    images = np.zeros((4, 8, 8, 3), np.float32)
    for said, category in (("car", 0.75), ("cactus", 0.25), ("something else", 0.0)):
        found = judge_samples.accuracy(
            _Fixed(), {"answer": _ANSWERS.index(said)}, images, scenes, views
        )
        # A cactus has no front, so that its view does not count.
        assert found == {"category": category, "colour": 0.75, "view": pytest.approx(2 / 3)}


def test_a_jury_counts_azimuths_and_knows_nothing_else():
    portrait = Portrait(np.ones((16, 8, 8, 3), np.float32), np.zeros((16, 8, 8), np.float32))
    for said, count in (("duck", 8), ("something else", 0)):
        found = measuring.make_jury(_Fixed(), {"answer": _ANSWERS.index(said)})(
            portrait, Scene("duck", "red")
        )
        assert found == measuring.Judgement(count, "red", 2)


def test_held_out_pairs_are_told_from_seen_ones():
    vocabulary = judge_samples.Vocabulary(("car", "duck"), ("red", "blue"), ())
    assert judge_samples.pairs_of(vocabulary, held_out=True) == [Scene("car", "red")]
    assert len(judge_samples.pairs_of(vocabulary, held_out=False)) == 3

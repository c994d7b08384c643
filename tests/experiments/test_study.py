"""The study of settings from end to end, and the judging of samples, at tiny sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamfusion_jax.evaluation import measuring
from dreamfusion_jax.evaluation.judge import Judge, Verdict
from dreamfusion_jax.evaluation.truth_metrics import Portrait
from dreamfusion_jax.priors.loading import load_prior
from dreamfusion_jax.toybox.world import Scene
from experiments import judge_samples, study

PROMPT = "a green car"
TINY = (
    *("--steps", "3", "--train.views", "1", "--scene.sampling.intervals", "8"),
    *("--output.size", "16", "--output.frames", "1", "--output.mesh-resolution", "16"),
    *("--train.distillation.guidance-weight", "0"),
)


def _arguments(output, *changes):
    return study.Arguments(changes=changes, prompts=(PROMPT,), seed=0, output=output, size=16)


def test_a_study_makes_and_measures_and_does_nothing_twice(tmp_path, monkeypatch):
    made = []

    def make(prompts, seeds, output, settings=()):
        oracle = load_prior("oracle", PROMPT)
        made.append(settings)
        return measuring.make_objects(prompts, seeds, output, settings, oracle)

    monkeypatch.setattr(study, "make_objects", make)
    monkeypatch.setattr(study, "CHANGES", {"default": TINY, "no light": (*TINY, "--seed", "0")})
    table = study.study(_arguments(tmp_path, "default", "no light"), measuring.no_jury)
    _, _, default, same = table.splitlines()
    assert default.split("|")[2:] == same.split("|")[2:]
    assert f"{PROMPT} 0." in default and made == [TINY, (*TINY, "--seed", "0")]

    monkeypatch.setattr(measuring.run, "start", lambda *_: pytest.fail("made again"))
    again = study.study(_arguments(tmp_path, "default"), measuring.no_jury)
    assert again.splitlines()[2] == default
    assert (tmp_path / "default/a-green-car-seed0.png").is_file()


def test_unknown_changes_are_named(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        study.main(["--changes", "more magic", "--judge", "None", "--output", str(tmp_path)])
    assert stop.value.code == 2
    assert "more magic" in capsys.readouterr().err


class _Fixed(Judge):
    """Says the same of every picture: something red (`params` says which answer), its front."""

    def __call__(self, params, images):
        sizes = (len(self.config.answers), len(self.config.colours), 4)
        at = (params, self.config.colours.index("red"), 0)
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
        found = judge_samples.accuracy(_Fixed(), _ANSWERS.index(said), images, scenes, views)
        # A cactus has no front, so that its view does not count.
        assert found == {"category": category, "colour": 0.75, "view": pytest.approx(2 / 3)}


def test_a_jury_counts_azimuths_and_knows_nothing_else():
    portrait = Portrait(np.ones((16, 8, 8, 3), np.float32), np.zeros((16, 8, 8), np.float32))
    for said, count in (("duck", 8), ("something else", 0)):
        found = measuring.make_jury(_Fixed(), _ANSWERS.index(said))(portrait, Scene("duck", "red"))
        assert found == measuring.Judgement(count, "red", 2)


def test_held_out_pairs_are_told_from_seen_ones():
    vocabulary = judge_samples.Vocabulary(("car", "duck"), ("red", "blue"), ())
    assert judge_samples.pairs_of(vocabulary, held_out=True) == [Scene("car", "red")]
    assert len(judge_samples.pairs_of(vocabulary, held_out=False)) == 3

"""What is asked of a prior's samples, and how answers are counted."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from dreamfusion_jax.evaluation.judge import Judge, JudgeConfig, Verdict
from dreamfusion_jax.looks.media import contact_sheet
from dreamfusion_jax.scene.views import VIEWS
from dreamfusion_jax.toybox.captions import WHOLE_WORLD, Vocabulary
from dreamfusion_jax.toybox.world import HELD_OUT, HELD_OUT_MODIFIED, MODIFIERS, Scene
from experiments import judge_samples
from experiments.judge_samples import PAPER, TODAY, Arguments, asked_of, groups_of, modified_scenes

CONFIG = JudgeConfig(modifiers=MODIFIERS)


class Fixed(Judge):
    """Says of every picture: a red car with a blue hat, from the side."""

    def __call__(self, params, images):
        answers = {
            "category": (self.config.answers, "car"),
            "colour": (self.config.colours, "red"),
            "view": (VIEWS, "side view"),
            "modifier": (("", *self.config.modifiers), MODIFIERS[1]),
            "modifier_colour": (self.config.colours, "blue"),
        }
        rows = {
            name: np.tile(np.eye(len(names), dtype=np.float32)[names.index(said)], (len(images), 1))
            for name, (names, said) in answers.items()
        }
        return Verdict(**{name: jax.numpy.asarray(row) for name, row in rows.items()})


@pytest.mark.parametrize("held_out", [False, True])
def test_every_category_and_modifier_is_asked_for(held_out):
    scenes = modified_scenes(WHOLE_WORLD, held_out=held_out)
    assert len({(s.category, s.modifier) for s in scenes}) == len(scenes) == 80
    for scene in scenes:
        triple = (scene.category, scene.modifier, scene.modifier_colour)
        assert (triple in HELD_OUT_MODIFIED) == held_out
        assert (scene.category, scene.colour) not in HELD_OUT
    assert len({s.colour for s in scenes}) == len({s.modifier_colour for s in scenes}) == 10
    assert modified_scenes(Vocabulary(modifiers=()), held_out=held_out) == []


def test_captions_name_the_view_and_how_near_it_is():
    scenes = [Scene("car", "red"), Scene("duck", "blue", MODIFIERS[0], "red")]
    for cameras, framings in ((TODAY, ["medium shot"] * 2), (PAPER, ["long shot", "close up"])):
        texts, shown, views = asked_of(scenes, WHOLE_WORLD, cameras)
        assert shown == [scenes[0]] * 4 + [scenes[1]] * 4 and views == [0, 1, 2, 3] * 2
        for text, scene, view, framing in zip(
            texts, shown, views, np.repeat(framings, 4), strict=True
        ):
            said = WHOLE_WORLD.read(text)
            assert (said.view, said.framing) == (VIEWS[view], framing)
            assert WHOLE_WORLD.scene(text) == scene
    texts, *_ = asked_of(scenes[:1], Vocabulary(), TODAY)
    assert texts[0] == "a red car, front view"


def test_a_modifier_counts_with_its_colour_where_there_is_one():
    car, hat = Scene("car", "red"), Scene("car", "red", MODIFIERS[1], "blue")
    scenes = [
        car,
        hat,
        Scene("car", "red", MODIFIERS[1], "red"),
        Scene("car", "red", MODIFIERS[0], "blue"),
    ]
    images = np.zeros((4, 8, 8, 3), np.float32)
    found = judge_samples.accuracy(Fixed(CONFIG), {}, images, scenes, [0, 1, 1, 1])
    assert found == {"category": 1, "colour": 1, "view": 0.75, "modifier": pytest.approx(1 / 3)}
    assert "modifier" not in judge_samples.accuracy(Fixed(CONFIG), {}, images[:1], [car], [0])


def test_the_table_has_a_row_for_each_group_and_kind_of_camera(monkeypatch, tmp_path):
    asked = []

    def draw(prior, params, texts, config):
        asked.extend(texts)
        return np.zeros((len(texts), 8, 8, 3), np.float32)

    prior = SimpleNamespace(vocabulary=WHOLE_WORLD)
    monkeypatch.setattr(judge_samples.toybox, "load", lambda folder: (prior, {}))
    monkeypatch.setattr(judge_samples, "load_judge", lambda folder: (Fixed(CONFIG), {}))
    monkeypatch.setattr(judge_samples, "draw", draw)
    sheets = []
    monkeypatch.setattr(
        judge_samples, "save_png", lambda path, image: sheets.append((path.name, image.shape))
    )
    monkeypatch.setattr(judge_samples, "contact_sheet", lambda *a: contact_sheet(*a))
    config = Arguments(rounds=1, output=tmp_path / "grid.png")
    rows = judge_samples.judge_samples(config).splitlines()[2:]
    titles = [tuple(cell.strip() for cell in row.split("|")[1:4]) for row in rows]
    counts = {"seen": 160, "held out": 160, "modified": 320, "modified, held out": 320}
    assert titles == [(t, c, str(n)) for c in (TODAY, PAPER) for t, n in counts.items()]
    assert len(asked) == 2 * sum(counts.values()) and len(sheets) == 8
    assert "grid-modified-held-out-the-papers.png" in {name for name, _ in sheets}
    groups = groups_of(WHOLE_WORLD, config)
    assert all((s.category, s.colour) not in HELD_OUT for s in groups["seen"])
    assert {(s.category, s.colour) for s in groups["held out"]} == HELD_OUT

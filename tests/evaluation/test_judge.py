"""The judge's plumbing: its pictures, its files, and a training that is stopped and resumed."""

import dataclasses
import json
import math
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.compiling import compile_well

from dreamfusion_jax.evaluation import judge_training
from dreamfusion_jax.evaluation import truth_metrics as metrics
from dreamfusion_jax.evaluation.judge import (
    Judge,
    JudgeConfig,
    Verdict,
    area_average,
    load_judge,
    save_judge,
)
from dreamfusion_jax.evaluation.judge_data import (
    JudgeTraining,
    Labels,
    add_nonsense,
    augment,
    codes_of,
    draw,
    true_of,
)
from dreamfusion_jax.evaluation.judge_exam import describe, examine, passes, rank_captions
from dreamfusion_jax.evaluation.judge_training import matching_loss, naming_loss, train
from dreamfusion_jax.toybox.bank import Bank, Kind
from dreamfusion_jax.toybox.captions import Description
from dreamfusion_jax.toybox.tokenizer import build_tokenizer
from dreamfusion_jax.toybox.world import MODIFIERS, Scene
from experiments import train_judge as program
from experiments.train_judge import main

TINY = JudgeConfig(
    ("apple", "car"),
    ("red", "green", "blue"),
    modifiers=MODIFIERS[1:],
    image_size=16,
    channels=(8, 16),
    hidden=32,
    meeting=16,
    text_width=16,
    words=len(build_tokenizer()),
)
SMALL_RUN = JudgeTraining(
    steps=200, batch_size=32, learning_rate=5e-3, report_every=100, nonsense=0.15, judge=TINY
)


@pytest.mark.parametrize("size", [32, 48, 64])
def test_area_average_is_the_integral_over_each_square(size: int) -> None:
    """Every old pixel cut into 32 x 32 equal pieces, each given to the square it lies in."""
    image = np.random.default_rng(0).random((1, size, size, 3)).astype(np.float32)
    fine = image.astype(np.float64).repeat(32, axis=1).repeat(32, axis=2)
    expected = fine.reshape(1, 32, size, 32, size, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(area_average(jnp.asarray(image), 32), expected, atol=1e-6)


def test_a_judge_comes_back_from_its_folder_within_half_precision(tmp_path: Path) -> None:
    judge = Judge(TINY)
    params = judge.init(jax.random.key(3))
    save_judge(tmp_path / "judge", judge, params)
    again, restored = load_judge(tmp_path / "judge")
    assert again == judge
    assert jax.tree.structure(restored) == jax.tree.structure(params)
    for old, new in zip(jax.tree.leaves(params), jax.tree.leaves(restored), strict=True):
        np.testing.assert_array_equal(np.asarray(old, np.float16), np.asarray(new))


def test_the_full_judge_fits_into_three_megabytes() -> None:
    shapes = jax.eval_shape(Judge(JudgeTraining().judge).init, jax.random.key(0))
    assert 2 * sum(leaf.size for leaf in jax.tree.leaves(shapes)) < 2.5e6


def test_missing_and_foreign_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"experiments\.train_judge"):
        load_judge(tmp_path)
    judge = Judge(TINY)
    save_judge(tmp_path, judge, judge.init(jax.random.key(0)))
    wider = dataclasses.asdict(dataclasses.replace(TINY, hidden=8))
    (tmp_path / "judge.json").write_text(json.dumps(wider))
    with pytest.raises(ValueError, match="Dense_0/kernel"):
        load_judge(tmp_path)


def test_the_loss_asks_only_what_can_be_told() -> None:
    """Two pictures: a thing with a front and a hat, and something else."""
    four = jnp.log(jnp.array([[0.5, 0.25, 0.125, 0.125]] * 2))
    zero, first = jnp.zeros(2, jnp.int32), jnp.array([True, False])
    labels = Labels(
        category=zero + 1,
        colour=zero + 2,
        view=zero,
        modifier=jnp.array([1, 2]),
        modifier_colour=zero + 3,
        real=first,
        has_front=first,
        captions=zero[:, None],
        true=jnp.zeros((2, 2), bool),
    )
    # Categories of both; of the first alone colour 1/8, view 1/2, modifier 1/4, its colour 1/8.
    expected = math.log(4) + 0.5 * (math.log(8) + math.log(2) + math.log(4) + math.log(8))
    verdict = Verdict(four, four, four, four, four)
    assert float(naming_loss(verdict, labels)) == pytest.approx(expected)


def test_matching_asks_every_pair_a_yes_or_no_question() -> None:
    odds, true = jnp.array([[0.0, 2.0, -1.0]]), jnp.array([[True, False, True]])
    answers = [1 / 2, 1 - 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(1))]
    expected = -sum(math.log(p) for p in answers)
    assert float(matching_loss(odds, true)) == pytest.approx(expected, rel=1e-6)


def test_captions_are_true_of_the_pictures_of_which_all_that_they_say_is_so() -> None:
    config = JudgeConfig(("apple", "car"), ("red", "green"), modifiers=MODIFIERS)
    things = [
        Description("car", "red", None, None, view="front view"),
        Description("car", "red", MODIFIERS[1], "green", view="side view"),
        Description("apple", "green", None, None, view="side view"),
    ]
    said = [
        Description("car", "red"),
        Description("car", "green"),
        Description("car", "red", MODIFIERS[1], "green"),
        Description("car", "red", MODIFIERS[0], "green"),
        Description("apple", "green", view="side view"),
        Description("car", None, view="side view"),
    ]
    found = true_of(codes_of(said, config), codes_of(things, config))
    expected = [[1, 0, 0, 0, 0, 0], [1, 0, 1, 0, 0, 1], [0, 0, 0, 0, 1, 0]]
    np.testing.assert_array_equal(found, np.array(expected, bool))


def test_augmentation_keeps_a_plain_picture_nearly_as_it_is() -> None:
    images = jnp.full((64, 16, 16, 3), 0.5)
    changed = np.asarray(augment(jax.random.key(0), images))
    assert changed.min() >= 0.0 and changed.max() <= 1.0
    # Gain and offset take the mean of a channel at most 0.05 + 0.05 away; noise averages out.
    means = changed.mean(axis=(1, 2))
    assert np.abs(means - 0.5).max() < 0.1 + 0.02
    assert means.std() > 0.02


class Signs(Bank):
    """In place of renders: discs for apples, bars for cars, whose height tells the view.

    A hat is a frame of the accent colour around the picture.
    """

    def __init__(self, modifiers: tuple[str, ...] = TINY.modifiers) -> None:
        self.kinds = tuple((c, m) for c in TINY.categories for m in (None, *modifiers))
        self.size = 16

    def count(self, kind: Kind) -> int:
        """As many of each."""
        return 60

    def view(self, kind: Kind, index: int) -> tuple[np.ndarray, np.ndarray]:
        """The sign, seen from the front, a side or behind."""
        rows, columns = np.mgrid[:16, :16] - 7.5
        view, dx = index % 3, index % 5 - 2
        disc = rows**2 + (columns - dx) ** 2 < 16
        bar = (abs(columns - dx) < 4) & (abs(rows - 4 * (view - 1)) < 2)
        main = disc if kind[0] == "apple" else bar
        frame = (np.maximum(abs(rows), abs(columns)) > 6) & (kind[1] is not None) & ~main
        layers = np.zeros((16, 16, 6), np.uint8)
        layers[..., 0], layers[..., 1], layers[..., 5] = (
            255 * main,
            255 * frame,
            255 * (main | frame),
        )
        facts = [view * np.pi / 2, 0.1, 0.9, 0, index % 4 == 0]
        return layers, np.array(facts, np.float32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("judge") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge_training, "open_bank", lambda *_, **__: Signs())
        step = compile_well(judge_training.train_step, static_argnames="training")
        patch.setattr(judge_training, "train_step", step)
        train(dataclasses.replace(SMALL_RUN, output=folder))
    return folder


@pytest.mark.slow
def test_a_tiny_judge_learns_to_name_and_to_compare(trained: Path) -> None:
    """Chance is 1/3 of categories, colours and views, 1/9 of modifiers, 1/6 of captions."""
    judge, params = load_judge(trained)
    found = examine(judge, params, Signs(), pictures=400)
    for cameras in ("today's cameras", "the paper's cameras"):
        shares = found[cameras]
        assert min(shares["category"], shares["none"]) >= 0.9
        assert min(shares["colour"], shares["view"], shares["modifier"]) >= 0.75
    assert found["something else"]["category"] >= 0.6
    # The signs are seen from 5.7 degrees.
    ranked = rank_captions(judge, params, Signs(), pictures=100, elevation=(0.0, 10.0))
    assert ranked >= 0.75
    assert "| today's cameras | " in describe(found) and not passes(found, 0.5)


def test_a_judge_is_examined_in_what_it_can_tell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that knows no modifiers and reads nothing."""
    config = dataclasses.replace(TINY, modifiers=(), meeting=0)
    judge = Judge(config)
    state = types.SimpleNamespace(ema=judge.init(jax.random.key(3)))
    monkeypatch.setattr(program, "train", lambda *_: state)
    monkeypatch.setattr(program, "open_bank", lambda *_, **__: Signs(modifiers=()))
    training = JudgeTraining(judge=config)
    monkeypatch.setattr(program.tyro, "cli", lambda *_, **__: training)
    program.main([])
    told = capsys.readouterr().out
    assert "| today's cameras | " in told and "caption first" not in told
    shares = examine(judge, state.ema, Signs(modifiers=()), pictures=100)["today's cameras"]
    assert set(shares) == {"category", "colour", "view"}
    right = {"today's cameras": {"category": 0.97, "colour": 0.96, "view": 0.9}}
    assert passes(right, None) and passes(right, 0.95) and not passes(right, 0.5)
    assert not passes({"today's cameras": right["today's cameras"] | {"view": 0.8}}, None)


@pytest.mark.slow
def test_a_stopped_training_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved after 10 steps and stopped after 15: steps 11 to 15 are taken twice."""
    straight, stopped = (
        dataclasses.replace(SMALL_RUN, steps=25, report_every=10, output=tmp_path / name)
        for name in ("straight", "stopped")
    )
    monkeypatch.setattr(judge_training, "open_bank", lambda *_, **__: Signs())
    train(straight)
    real, calls = judge_training.train_step, []

    def stop_after_15(*values, **named):
        calls.append(1)
        if len(calls) > 15:
            raise KeyboardInterrupt
        return real(*values, **named)

    monkeypatch.setattr(judge_training, "train_step", stop_after_15)
    with pytest.raises(KeyboardInterrupt):
        train(stopped)
    monkeypatch.setattr(judge_training, "train_step", real)
    train(stopped)
    for name in ("model.safetensors", "judge.json"):
        assert (stopped.output / name).read_bytes() == (straight.output / name).read_bytes()
    with pytest.raises(ValueError, match="other settings"):
        train(dataclasses.replace(stopped, steps=70))


def test_what_is_no_object_is_labelled_so_and_no_caption_is_true_of_it() -> None:
    arguments = dataclasses.replace(SMALL_RUN, nonsense=0.5, batch_size=200)
    ids_of = Judge(TINY).read
    paints, labels = draw(np.random.default_rng(0), Signs(), arguments, ids_of)
    real = np.asarray(labels.real)
    assert 60 < real.sum() < 140
    np.testing.assert_array_equal(np.asarray(labels.category) == 2, ~real)
    true = np.asarray(labels.true)
    assert not true[~real].any()
    # Of a real picture its own caption is true; the changed one seldom, the extra ones 1 in 6.
    own = true[:, :200][np.arange(200), np.arange(200)]
    np.testing.assert_array_equal(own, real)
    changed = true[:, 200:400][np.arange(200), np.arange(200)]
    assert changed[real].mean() < 0.6
    assert abs(true[real][:, 400:].mean() - 1 / 6) < 0.05
    empty = np.asarray(paints.layers)[~real].max(axis=(1, 2, 3)) == 0
    assert 0.15 < empty.mean() < 0.55
    again, kept = add_nonsense(np.random.default_rng(0), paints, np.ones(200, bool))
    np.testing.assert_array_equal(again.layers, paints.layers)
    assert kept.all()


@pytest.mark.slow
def test_the_shipped_judge_and_one_that_reads(trained: Path) -> None:
    judge, params = load_judge()
    scene = Scene("snowman", "white", MODIFIERS[1], "blue")
    pictures = metrics.truth_portrait(scene, size=64).colour[:8] - 0.15
    said = judge(params, jnp.clip(pictures, 0.0, 1.0))
    for logits, names, name in (
        (said.category, judge.config.answers, "snowman"),
        (said.colour, judge.config.colours, "white"),
        (said.modifier, ("", *judge.config.modifiers), MODIFIERS[1]),
        (said.modifier_colour, judge.config.colours, "blue"),
    ):
        assert logits is not None
        assert [names[i] for i in np.asarray(logits).argmax(axis=-1)].count(name) >= 7
    deaf = Judge(dataclasses.replace(judge.config, meeting=0))
    with pytest.raises(ValueError, match="not trained to read"):
        deaf.read(["a red car"])
    reader, values = load_judge(trained)
    verdict, vectors = reader.look(values, jnp.full((2, 64, 64, 3), 0.5))
    assert verdict.modifier is not None and verdict.modifier.shape == (2, 2)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1.0, atol=1e-5)
    odds = reader.compare(values, vectors, jnp.asarray(reader.read(["a red car", "a green apple"])))
    assert odds.shape == (2, 2)
    with pytest.raises(KeyError, match="unicorn"):
        reader.read(["a red unicorn"])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--steps", "0"], "--steps"),
        (["--bank", "/nowhere"], "experiments.draw_bank"),
        (["--judge.colours", "red", "mauve"], "mauve"),
    ],
)
def test_bad_input_is_named_in_one_line(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--output", str(tmp_path / "judge")])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and named in lines[0]

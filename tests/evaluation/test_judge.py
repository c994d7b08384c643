"""The judge's plumbing: its pictures, its files, and a training that is stopped and resumed."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamfusion_jax.evaluation.judge import (
    Judge,
    JudgeConfig,
    Verdict,
    area_average,
    load_judge,
    save_judge,
)
from experiments import train_judge
from experiments.judge_data import Arguments, Labels, augment
from experiments.train_judge import loss_of, main, train

TINY = JudgeConfig(("apple", "car"), ("red", "green", "blue"), 16, (8, 16), 16)
SMALL_RUN = Arguments(
    steps=160,
    batch_size=32,
    learning_rate=5e-3,
    views=40,
    unseen=10,
    other_views=2,
    report_every=20,
    modifiers=False,
    judge=TINY,
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


def test_the_full_judge_fits_into_five_megabytes() -> None:
    shapes = jax.eval_shape(Judge().init, jax.random.key(0))
    assert 2 * sum(leaf.size for leaf in jax.tree.leaves(shapes)) < 5e6


def test_missing_and_foreign_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"python -m experiments\.train_judge"):
        load_judge(tmp_path)
    judge = Judge(TINY)
    save_judge(tmp_path, judge, judge.init(jax.random.key(0)))
    wider = dataclasses.asdict(dataclasses.replace(TINY, hidden=8))
    (tmp_path / "judge.json").write_text(json.dumps(wider))
    with pytest.raises(ValueError, match=r"Dense_0\.kernel"):
        load_judge(tmp_path)


def test_the_loss_leaves_out_views_that_cannot_be_told() -> None:
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.125, 0.125]] * 2))
    zero = jnp.zeros(2, jnp.int32)
    labels = Labels(zero + 1, zero + 2, zero, jnp.array([True, False]))
    expected = math.log(4) + math.log(8) + 0.5 * math.log(2)
    assert float(loss_of(Verdict(logits, logits, logits), labels)) == pytest.approx(expected)


def test_augmentation_keeps_a_plain_picture_nearly_as_it_is() -> None:
    images = jnp.full((64, 16, 16, 3), 0.5)
    changed = np.asarray(augment(jax.random.key(0), images))
    assert changed.min() >= 0.0 and changed.max() <= 1.0
    # Gain and offset take the mean of a channel at most 0.05 + 0.05 away; noise averages out.
    means = changed.mean(axis=(1, 2))
    assert np.abs(means - 0.5).max() < 0.1 + 0.02
    assert means.std() > 0.02


def _write_views(folder: Path) -> None:
    """In place of renders: discs for apples, bars for cars, whose height tells the view.

    The other 38 categories, two views of each, are upright bars.
    """
    rows, columns = np.mgrid[:16, :16] - 7.5
    layers, views = [], []
    rng = np.random.default_rng(0)
    for row in range(80):
        view = row % 3
        size, dx = 3 + 2 * rng.random(), rng.integers(-2, 3)
        disc = rows**2 + (columns - dx) ** 2 < size**2
        bar = (abs(columns - dx) < size) & (abs(rows - 5 * (view - 1)) < 2)
        layers.append(255 * np.stack([disc if row < 40 else bar] * 6, axis=-1))
        layers[-1][..., 1:5] = 0
        views.append(view)
    _write_bank(folder, np.array(layers), np.repeat([0, 1], 40), np.array(views))
    upright = np.stack([abs(columns - x) < 2 for x in np.linspace(-5, 5, 76)])
    coded = 255 * np.stack([upright] * 6, axis=-1)
    coded[..., 1:5] = 0
    _write_bank(folder / "others", coded, np.repeat(np.arange(38), 2), np.zeros(76))


def _write_bank(folder: Path, layers: np.ndarray, category: np.ndarray, view: np.ndarray) -> None:
    folder.mkdir(parents=True)
    index = {"category": category, "modifier": 0 * view, "view": view, "octant": 0 * view}
    arrays: dict[str, Any] = {name: values.astype(np.int32) for name, values in index.items()}
    np.savez(folder / "bank.npz", layers=layers.astype(np.uint8), **arrays)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("judge") / "whole"
    _write_views(folder)
    return folder, train(dataclasses.replace(SMALL_RUN, output=folder))


def test_a_tiny_judge_learns_its_three_questions(trained: tuple[Path, dict[str, float]]) -> None:
    """Chance is 1/3 of categories, of colours and of views."""
    _, accuracy = trained
    assert accuracy["category"] >= 0.9
    assert accuracy["something else"] >= 0.9
    assert accuracy["colour"] >= 0.8
    assert accuracy["view"] >= 0.8


def test_a_stopped_training_ends_the_same(
    trained: tuple[Path, dict[str, float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = trained
    arguments = dataclasses.replace(SMALL_RUN, output=tmp_path / "stopped")
    _write_views(arguments.output)
    real, calls = train_judge.train_step, []

    def stop_after_30(*values, **named):
        calls.append(1)
        if len(calls) > 30:
            raise KeyboardInterrupt
        return real(*values, **named)

    monkeypatch.setattr(train_judge, "train_step", stop_after_30)
    with pytest.raises(KeyboardInterrupt):
        train(arguments)
    monkeypatch.setattr(train_judge, "train_step", real)
    train(arguments)
    for name in ("model.safetensors", "judge.json"):
        assert (arguments.output / name).read_bytes() == (folder / name).read_bytes()
    with pytest.raises(ValueError, match="other settings"):
        train(dataclasses.replace(arguments, steps=70))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--steps", "0"], "--steps"),
        (["--unseen", "0"], "--unseen"),
        (["--other-views", "0"], "--other-views"),
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

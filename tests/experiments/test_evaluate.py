"""The evaluation from end to end on a small run, and its arithmetic on made-up rows."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from helpers.programs import command
from helpers.torch_models import save_random_toybox
from PIL import Image

from dreamfusion_jax.evaluation.judge import Judge, JudgeConfig, save_judge
from dreamfusion_jax.evaluation.measuring import Judgement, Row
from dreamfusion_jax.evaluation.report import write_table
from dreamfusion_jax.evaluation.truth_metrics import Measures
from dreamfusion_jax.runs.run import run_folder
from dreamfusion_jax.toybox.architecture import MiniatureConfig, write_configs
from dreamfusion_jax.toybox.captions import Vocabulary
from dreamfusion_jax.toybox.tokenizer import build_tokenizer
from dreamfusion_jax.toybox.world import Scene
from experiments import run_one, run_options
from experiments.evaluate import main

SIZE = 24
RUN = [
    *("--prompt", "a green car", "--prior", "oracle", "--steps", "40", "--train.views", "1"),
    *("--scene.sampling.intervals", "16", "--train.distillation.guidance-weight", "0"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with its settings and last state, but no pictures."""
    argv = [*RUN, "--output", str(tmp_path_factory.mktemp("outputs"))]
    arguments = run_options.parse(argv)
    folder = run_folder(arguments.output, arguments.prompt, arguments.seed)
    with run_one.open_run(arguments, folder, print) as begun:
        begun.train()
    return begun.folder


def _numbers(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|\n ").split("|")]


@pytest.mark.slow
def test_a_small_run_is_measured_from_the_command_line(finished: Path, tmp_path: Path) -> None:
    judge = Judge(JudgeConfig(("car",), ("green",), 8, (8,), 8))
    params = judge.init(jax.random.key(0))
    params["category"]["bias"] = jnp.array([99.0, 0.0])  # Everything is a car.
    save_judge(tmp_path / "judge", judge, params)
    options = ["--output", tmp_path / "out", "--judge", tmp_path / "judge", "--size", SIZE]
    result = command("evaluate", "--runs", finished, *options)
    assert result.returncode == 0, result.stderr
    table = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert table in result.stdout
    rows = {cells[0]: cells for cells in map(_numbers, table.splitlines()) if len(cells) == 12}
    truth, empty = rows["green car: truth"], rows["green car: empty"]
    assert truth[1:4] == ["1.00", "inf", "green"] and truth[7:10] == ["0.00", "8/8", "green"]
    assert truth[4] == "1.00" and empty[4] == "0.00" and truth[11] == "-"
    assert empty[1] == "0.00" and empty[3] == "none" and float(empty[6]) == 0.0
    # The oracle's object after 40 steps is rough, but longer than it is high, and no sphere.
    mine, sphere = rows["a green car, seed 0"], rows["green car: sphere"]
    assert float(mine[1]) > float(sphere[1]) + 0.05 and mine[3] == "green"
    # The sign is the verdict; a rough surface adds the same error to both sides of it.
    assert float(mine[5]) > 0.0
    with Image.open(tmp_path / "out" / "a-green-car-seed0.png") as sheet:
        assert sheet.height == 5 * SIZE + 6 * 2
    with Image.open(tmp_path / "out" / "objects.png") as grid:
        assert grid.height == 128 + 2 * 2
    with Image.open(tmp_path / "out" / "prompts.png") as grid:
        assert grid.width == 2 * 128 + 2 * 4


def _row(colour: str, seed: int, iou: float, facing: float, category: int) -> Row:
    scene = Scene("car", colour)
    measures = Measures(iou, 20.0, facing, "red", 0.2, 0.1, None if seed else 0.25)
    judgement = Judgement(category, "red", 5, 6 if seed else 5)
    return Row(f"a {colour} car, seed {seed}", scene, measures, judgement)


def test_the_summary_counts() -> None:
    rows = [
        _row("red", 0, 0.80, 0.5, 6),
        _row("red", 1, 0.60, -0.1, 8),
        _row("blue", 0, 0.70, 0.1, 5),
    ]
    marks = {row.scene: [_row("red", 0, 0.65, 0.0, 0)] * 3 for row in rows}
    lines = write_table(rows, marks).split("## Summary")[1].strip().splitlines()
    assert lines == [
        "- mean silhouette IoU 0.700",
        "- mean PSNR 20.0 dB",
        "- opacity 0.20 at least, haze 0.10 at most",
        "- IoU at least 0.10 above the best sphere: 1 of 3",
        "- main colour right: 2 of 3",
        "- nearer to the truth than to its back: 2 of 3",
        "- small parts that are there: 0.25 of those of 2",
        "- judge names the category from 6 of 8 azimuths: 2 of 3",
        "- judge names the colour: 2 of 3",
        "- judge sees the modifier in its colour: 1 of 3",
        "- IoU between seeds differs by 0.200 on average, 0.200 at most",
    ]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--seeds", "-1", "--judge", "None"], "seed must not be negative"),
        (["--runs", "/nowhere", "--judge", "None"], "/nowhere"),
        (["--runs", "x", "--size", "2"], "--size"),
        (["--runs", "x", "--judge", "/nowhere"], "experiments.train_judge"),
        (["--weights", "/nowhere", "--judge", "None"], "/nowhere"),
    ],
)
def test_bad_input_is_named_in_one_line(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--output", str(tmp_path)])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and named in lines[0]
    assert not (tmp_path / "runs").exists()


def test_prompts_that_the_prior_cannot_read_are_refused_before_the_first(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder, words = tmp_path / "prior", Vocabulary(("chair", "mushroom"), ("orange",), ())
    tiny = MiniatureConfig(8, channels=(16,), attention=(False,), text_width=16, text_layers=1)
    write_configs(folder, tiny, words, build_tokenizer())
    save_random_toybox(folder)
    asked = ["--prompts", "world", "--weights", str(folder), "--judge", "None"]
    with pytest.raises(SystemExit):
        main([*asked, "--output", str(tmp_path / "out")])
    assert "'sofa'" in capsys.readouterr().err
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.slow
def test_an_unfinished_run_is_refused(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(finished, folder)
    for step in (folder / "checkpoints").iterdir():
        shutil.rmtree(step)
    with pytest.raises(SystemExit):
        main(["--runs", str(folder), "--judge", "None", "--output", str(tmp_path / "out")])
    assert "is at step 0 of 40" in capsys.readouterr().err

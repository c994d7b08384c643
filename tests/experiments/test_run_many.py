"""Many prompts and seeds by the real command: in shares, stopped, and asked for badly."""

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.programs import refused

from dreamfusion_jax.runs.metrics import read_table
from experiments import run_many
from experiments.run import main

SCRIPT = Path(__file__).parents[2] / "experiments" / "slurm_array.sh"
TINY = [
    *("--prior", "oracle", "--steps", "4", "--train.views", "1"),
    *("--scene.sampling.intervals", "8", "--output.size", "32", "--output.frames", "2"),
    *("--output.mesh-resolution", "16", "--output.mesh-texture", "32"),
    *("--output.preview-every", "4", "--output.checkpoint-every", "2"),
]
FILES = (
    *("config.json", "metrics.csv", "progress.csv", "symptoms.json", "held-out.json"),
    *("preview.png", "turntable.mp4", "mesh.glb", "scene.safetensors", "index.html"),
)


@pytest.fixture
def prompts(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("# Two of them.\na red mushroom\n\n  a blue house\n", encoding="utf-8")
    return file


def worker(prompts, task, *arguments, python=sys.executable, first=0):
    """A task of an array of two."""
    environment = {
        **os.environ,
        "SLURM_ARRAY_TASK_ID": str(task),
        "SLURM_ARRAY_TASK_MIN": str(first),
        "SLURM_ARRAY_TASK_COUNT": "2",
        "PYTHON": python,
    }
    return subprocess.Popen(
        ["bash", str(SCRIPT), str(prompts), *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_tasks_of_an_array_ask_for_their_shares(prompts):
    """With a program in Python's place that says what it was asked."""
    for first in (0, 1, 7):
        said = [
            worker(prompts, first + at, "--seeds", "0", "1", python="echo", first=first)
            for at in (0, 1)
        ]
        asked = [program.communicate(timeout=60)[0].split() for program in said]
        for at, words in enumerate(asked):
            assert words[:3] == ["-m", "experiments.run", "--prompts-file"]
            assert words[3:] == [str(prompts), "--shard", f"{at + 1}/2", "--seeds", "0", "1"]
    alone = subprocess.run(
        ["bash", str(SCRIPT), str(prompts)],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert alone.returncode != 0 and "--array" in alone.stderr


@pytest.mark.slow
def test_two_tasks_of_an_array_make_all_prompts_once(prompts, tmp_path, capsys):
    output = tmp_path / "outputs"
    arguments = [*TINY, "--seeds", "0", "1", "--output", str(output)]
    for task, name in enumerate(("a-red-mushroom", "a-blue-house")):
        program = worker(prompts, task, *arguments)
        said, errors = program.communicate(timeout=900)
        assert program.returncode == 0, errors
        assert "2 scenes, 0 of them finished" in said and "scenes at once: 2" in said
        assert "step 8 of 8" in said  # One display for both.
        assert f"best of 2: {output / name}-seed" in said
    folders = {folder.name for folder in output.iterdir()}
    assert folders == {f"a-{x}-seed{seed}" for x in ("red-mushroom", "blue-house") for seed in "01"}
    for folder in output.iterdir():
        assert all((folder / name).stat().st_size > 0 for name in FILES), folder
    page = (output / "a-blue-house-seed1" / "index.html").read_text(encoding="utf-8")
    assert "--prompt" in page and "a blue house" in page and "--seed 1" in page

    # All of it in one program: nothing is left to do, and what is best is the same.
    before = {file: file.stat().st_mtime_ns for file in output.rglob("*") if file.is_file()}
    main(["--prompts-file", str(prompts), *arguments])
    again = capsys.readouterr().out
    assert "4 scenes, 4 of them finished" in again and again.count("best of 2") == 2
    assert before == {file: file.stat().st_mtime_ns for file in before}


@pytest.mark.slow
def test_a_stopped_command_goes_on(tmp_path, capsys, monkeypatch):
    arguments = ["--prompt", "a red mushroom", *TINY, "--seeds", "0", "1", "--output"]
    stopped, straight = tmp_path / "stopped", tmp_path / "straight"

    class Impatient(run_many.Watcher):
        def __call__(self, moment):
            super().__call__(moment)
            if moment.step == 2 and self.run.settings.seed == 0:
                os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.setattr(run_many, "Watcher", Impatient)
        main([*arguments, str(stopped), "--batch", "2"])
    assert end.value.code == 128 + signal.SIGTERM
    assert "after step 3; go on with the same command" in capsys.readouterr().err
    main([*arguments, str(stopped), "--batch", "2"])
    assert "going on from step 3" in capsys.readouterr().out
    main([*arguments, str(straight), "--batch", "2"])
    for seed in "01":
        for name in ("metrics.csv", "progress.csv", "mesh.glb", "preview.png", "held-out.json"):
            one, other = (x / f"a-red-mushroom-seed{seed}" / name for x in (stopped, straight))
            assert one.read_bytes() == other.read_bytes(), name
    assert read_table(straight / "a-red-mushroom-seed0" / "metrics.csv")["step"] == [1, 2, 4]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--prompts-file", "/nowhere"], "/nowhere"),
        (["--prompts-file", "FILE", "--prompt", "a red car"], "--prompts-file"),
        (["--prompts-file", "FILE", "--shard", "3/2"], "--shard"),
        (["--prompts-file", "FILE", "--shard", "half"], "--shard"),
        (["--prompts-file", "FILE", "--batch", "0"], "--batch"),
        (["--prompts-file", "FILE", "--retries", "1"], "--retries"),
        (["--prompts-file", "FILE", "--seeds", "0", "-1"], "--seeds"),
        (["--prompts-file", "FILE", "--seeds", "0", "0"], "a-red-mushroom-seed0"),
        (["--prompts-file", "FILE", "--prior", "toybox"], "zebra"),
        (["--prompts-file", "EMPTY"], "no prompts"),
        (["--prompt", "a red car", "--shard", "1/2"], "--shard"),
        (["--prompt", "a red car", "--seeds", "0", "1", "--seed", "3"], "--seeds"),
    ],
)
def test_bad_input_is_named_in_one_line(arguments, named, prompts, tmp_path, capsys):
    with prompts.open("a") as file:
        file.write("a red zebra\n")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    places = {"FILE": str(prompts), "EMPTY": str(tmp_path / "empty.txt")}
    words = [places.get(word, word) for word in arguments]
    assert named in refused(main, capsys, *words, "--output", tmp_path / "outputs")
    assert not (tmp_path / "outputs").exists()


def test_shares_are_all_prompts_once(tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("".join(f"prompt {i}\n" for i in range(7)))
    shares = [run_many.read_prompts(file, f"{i}/3") for i in (1, 2, 3)]
    assert [len(share) for share in shares] == [3, 2, 2]
    assert sorted(itertools.chain(*shares)) == run_many.read_prompts(file)

"""The command line from end to end, and what it says of bad input."""

import csv
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import mediapy
import numpy as np
import pytest
import trimesh
from helpers.programs import command, refused
from PIL import Image

from experiments.run import main

# Everything is looked at in 32 x 32, as a run's watcher does: one program draws it.
TINY = [
    *("--prompt", "a red mushroom", "--prior", "oracle", "--steps", "6", "--train.views", "1"),
    *("--scene.sampling.intervals", "8", "--output.size", "32", "--output.frames", "3"),
    *("--output.mesh-resolution", "24", "--output.mesh-texture", "32"),
    *("--output.preview-every", "4", "--output.preview-size", "32"),
    *("--output.checkpoint-every", "3"),
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("outputs")
    result = command("run", *TINY, "--output", str(output), "--tensorboard")
    assert result.returncode == 0, result.stderr
    folder = output / "a-red-mushroom-seed0"
    assert result.stdout.endswith(f"done: {folder}\npage: {folder / 'index.html'}\n")
    return folder


def test_a_run_writes_every_file(finished: Path) -> None:
    with Image.open(finished / "preview.png") as preview:
        # 8 azimuths by 4 kinds, with white lines and the labels' margin.
        assert preview.height == 4 * 32 + 5 * 2
        assert preview.width > 8 * 32
    mediapy.set_ffmpeg(imageio_ffmpeg.get_ffmpeg_exe())
    video = mediapy.read_video(finished / "turntable.mp4")
    assert video.shape == (3, 32, 3 * 32, 3)
    mesh = trimesh.load(finished / "mesh.glb", force="mesh")
    assert isinstance(mesh, trimesh.Trimesh) and len(mesh.faces) > 0
    assert [p.name for p in (finished / "previews").iterdir()] == ["000004.png"]
    assert json.loads((finished / "config.json").read_text())["settings"]["prompt"]
    with (finished / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(float(row["step"])) for row in rows] == [1, 3, 6]
    assert all(np.isfinite(float(value)) for row in rows for value in row.values())
    with (finished / "progress.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "4", "6"]
    assert len([*(finished / "shown").glob("*.png")]) == 3
    assert len([*(finished / "tensorboard").glob("events.*")]) == 1
    page = (finished / "index.html").read_text(encoding="utf-8")
    assert "experiments.run --prompt" in page and "--steps 6" in page


@pytest.mark.slow
def test_resuming_a_killed_run_ends_the_same(finished: Path, tmp_path: Path) -> None:
    """A run that loses its last checkpoint (killed after step 3) repeats steps 4 to 6."""
    folder = tmp_path / "killed"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "checkpoints" / "6")
    for name in ("preview.png", "turntable.mp4", "mesh.glb"):
        (folder / name).unlink()
    main(["--resume", str(folder), "--tensorboard"])
    for name in ("preview.png", "mesh.glb", "metrics.csv", "progress.csv", "index.html"):
        assert (folder / name).read_bytes() == (finished / name).read_bytes(), name


def test_an_existing_run_is_not_overwritten(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "config.json").read_bytes()
    line = refused(main, capsys, *TINY, "--output", str(finished.parent))
    assert "--resume" in line
    assert (finished / "config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--prompt", " "], "prompt is empty"),
        (["--prompt", "a red zebra"], "zebra"),
        (["--prompt", "a red zebra", "--prior", "oracle"], "zebra"),
        (["--prompt", "a red mushroom", "--steps", "0"], "--steps"),
        (["--prompt", "a red mushroom", "--steps", "-3"], "--steps"),
        (["--prompt", "a red mushroom", "--seed", "-1"], "--seed"),
        (["--prompt", "a red mushroom", "--preset", "fast"], "--preset"),
        (["--prompt", "a red mushroom", "--field", "voxels"], "--field"),
        (["--prompt", "a red mushroom", "--wings", "2"], "--wings"),
        (["--prompt", "a red mushroom", "--weights", "/nowhere"], "/nowhere"),
        (["--resume", "/nowhere"], "/nowhere"),
        (["--resume", "/nowhere", "--seed", "1"], "--resume"),
        (["--resume", "/nowhere", "--viewer", "--port", "0"], "/nowhere"),
        (["--prompt", "a red mushroom", "--viewer", "--port", "70000"], "port 70000"),
        (["--prompt", "a red mushroom", "--split.view", "3"], "takes 3 devices"),
        (["--prompt", "a red mushroom", "--split.scene", "0"], "scene"),
    ],
)
def test_bad_input_is_named_in_one_line(
    arguments: list[str],
    named: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert named in refused(main, capsys, *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("extra", ["viewer", "tensorboard"])
def test_an_observer_without_its_library_names_the_extra(
    extra: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, absent = importlib.util.find_spec, ("viser", "tensorboardX")
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name in absent else find(name, *rest),
    )
    line = refused(main, capsys, *TINY, "--output", str(tmp_path), f"--{extra}")
    assert line.endswith(f"pip install 'dreamfusion_jax[{extra}]'")
    assert not list(tmp_path.iterdir())


def test_resuming_a_foreign_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text('{"name": "something else"}')
    assert "not the folder of a run" in refused(main, capsys, "--resume", str(tmp_path))


def test_an_unwritable_output_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    line = refused(main, capsys, *TINY, "--output", str(tmp_path / "file"))
    assert "cannot write" in line


def test_help_is_readable() -> None:
    result = command("run", "--help")
    assert result.returncode == 0
    assert "--prompt" in result.stdout and "--train.distillation.guidance-weight" in result.stdout
    assert not result.stderr


def test_a_reader_that_leaves_is_no_error() -> None:
    program = subprocess.Popen(
        [sys.executable, "-m", "experiments.run", "--help"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None and program.stderr is not None
    program.stdout.close()
    assert program.stderr.read() == ""
    assert program.wait() in (0, 141)  # Help may fit into what was read ahead.

"""A run that cannot be lost: killed, stopped, damaged, shut out of its disk, and resumed."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.programs import Program
from helpers.tiny_run import PRIOR, SETTINGS

from dreamfusion_jax.runs.checkpoint import CheckpointError
from dreamfusion_jax.runs.files import locked
from dreamfusion_jax.runs.run import Run, RunExistsError, is_finished
from dreamfusion_jax.runs.trained_scene import TrainedScene

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "helpers.tiny_run"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
FILES = (
    *("metrics.csv", "progress.csv"),
    *("preview.png", "turntable.mp4", "mesh.glb", "scene.safetensors"),
)


def begin(folder):
    return Program("helpers.tiny_run", folder)


def finish(folder):
    program = begin(folder)
    said, errors = program.communicate(timeout=600)
    assert program.returncode == 0, errors
    return said


def wait_for(condition, program):
    """Waits until something has happened, while a program runs."""
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        assert program.poll() is None, program.communicate()
        time.sleep(0.01)


def last_step(folder):
    steps = [int(p.name) for p in (folder / "checkpoints").glob("[0-9]*") if p.name.isdigit()]
    return max(steps, default=0)


def assert_same_run(folder, other):
    for name in FILES:
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name
    for name in ("previews", "shown"):
        pictures, others = (sorted((x / name).iterdir()) for x in (folder, other))
        assert [p.name for p in pictures] == [p.name for p in others]
        assert all(a.read_bytes() == b.read_bytes() for a, b in zip(pictures, others, strict=True))
    scenes = [jax.tree.leaves(TrainedScene.load(x).params) for x in (folder, other)]
    for a, b in zip(*scenes, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    finish(folder)
    return folder


def soak(folder, straight, kills, seed):
    """Kills one run (SIGKILL) at random moments between its start and its last file."""
    generator = random.Random(seed)
    begun = time.monotonic()
    finish(folder)
    whole = time.monotonic() - begun
    shutil.rmtree(folder)
    for _ in range(kills):
        if is_finished(folder):
            assert_same_run(folder, straight)
            shutil.rmtree(folder)
        program = begin(folder)
        time.sleep(generator.uniform(0.0, whole))
        program.send_signal(signal.SIGKILL)
        program.communicate()
    finish(folder)
    assert_same_run(folder, straight)


def test_a_killed_run_ends_the_same(straight, tmp_path):
    soak(tmp_path / "run", straight, kills=2, seed=1)


@pytest.mark.slow
def test_a_run_that_is_killed_twenty_times_ends_the_same(straight, tmp_path):
    soak(tmp_path / "run", straight, kills=20, seed=2)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_stopped_run_is_saved_where_it_stands(straight, tmp_path, number):
    folder = tmp_path / "run"
    program = begin(folder)
    wait_for(lambda: last_step(folder) >= 5, program)
    program.send_signal(number)
    said, errors = program.communicate(timeout=300)
    assert program.returncode == 128 + number, errors
    stopped = re.search(r"stopped after step (\d+)", said)
    assert stopped is not None and last_step(folder) == int(stopped[1])
    assert f"going on from step {stopped[1]}" in finish(folder)
    assert_same_run(folder, straight)


def test_a_damaged_checkpoint_is_put_aside_for_the_one_before(straight, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    for file in (folder / "checkpoints" / "40").rglob("d/*"):
        file.write_bytes(b"")
    (folder / "mesh.glb").unlink()
    said = finish(folder)
    assert "checkpoint 40" in said and "cannot be read" in said
    assert "going on from step 35" in said
    assert (folder / "damaged-checkpoint-40").is_dir()
    assert_same_run(folder, straight)


def test_a_run_without_one_good_checkpoint_is_refused(straight, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    for file in (folder / "checkpoints").rglob("d/*"):
        file.write_bytes(b"")
    program = begin(folder)
    _, errors = program.communicate(timeout=300)
    assert program.returncode == 2
    assert len(errors.strip().splitlines()) == 1 and "cannot be read" in errors


def test_two_programs_do_not_share_a_folder(straight, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(straight, folder)
    with locked(folder):
        with pytest.raises(CheckpointError, match="another program is writing"):
            Run.resume(folder, PRIOR)
        with pytest.raises(RunExistsError):
            Run.start(folder, SETTINGS, PRIOR)
    with Run.resume(folder, PRIOR):
        pass


def test_a_folder_that_vanishes_is_said_in_one_line(tmp_path):
    folder = tmp_path / "run"
    program = begin(folder)
    wait_for(lambda: last_step(folder) >= 5, program)
    folder.rename(tmp_path / "elsewhere")
    _, errors = program.communicate(timeout=300)
    assert program.returncode == 2, errors
    assert len(errors.strip().splitlines()) == 1 and str(folder) in errors


def in_namespace(script, folder):
    """Runs a shell script that may mount; skips nothing: where it cannot, the test fails."""
    variables = {"RUN": " ".join([*COMMAND, str(folder / "run")]), "DISK": str(folder)}
    return subprocess.run(
        ["unshare", "-rm", "bash", "-c", script],
        capture_output=True,
        text=True,
        env={**ENVIRONMENT, **variables},
        timeout=600,
        check=False,
    )


can_mount = pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "-rm", "true"], check=False, capture_output=True).returncode != 0,
    reason="needs user namespaces (Linux)",
)


@can_mount
def test_a_full_disk_costs_no_checkpoint(straight, tmp_path):
    script = """
        mount -t tmpfs -o size=4m none $DISK || exit 90
        mkdir $DISK/run && $RUN & program=$!
        until ls $DISK/run/checkpoints/10 >/dev/null 2>&1; do sleep 0.01; done
        head -c 4m /dev/zero > $DISK/filler 2>/dev/null
        wait $program; echo "first $?"
        rm $DISK/filler
        $RUN || exit 91
        cp -r $DISK/run/. $OUT
    """
    out, disk = tmp_path / "out", tmp_path / "disk"
    out.mkdir(), disk.mkdir()
    result = in_namespace(script.replace("$OUT", str(out)), disk)
    assert result.returncode == 0, result.stderr
    assert "first 2" in result.stdout
    assert [line[:6] for line in result.stderr.strip().splitlines()] == ["error:"]
    assert "full" in result.stderr or "No space left" in result.stderr
    resumed = re.search(r"going on from step (\d+)", result.stdout)
    assert resumed is not None and int(resumed[1]) >= 10
    assert_same_run(out, straight)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions are POSIX's")
def test_a_folder_that_becomes_read_only_is_said_in_one_line(tmp_path):
    folder = tmp_path / "run"
    # Root may write everywhere, but for this.
    obey = ["setpriv", "--bounding-set", "-dac_override"] if os.geteuid() == 0 else []
    program = subprocess.Popen(
        [*obey, *COMMAND, str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )
    wait_for(lambda: last_step(folder) >= 5, program)
    (folder / "checkpoints").chmod(0o555), folder.chmod(0o555)
    _, errors = program.communicate(timeout=300)
    (folder / "checkpoints").chmod(0o755), folder.chmod(0o755)
    assert program.returncode == 2, errors
    assert len(errors.strip().splitlines()) == 1
    assert "read-only" in errors or "Permission denied" in errors
    assert "going on from step" in finish(folder)

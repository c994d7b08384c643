"""One run on two hosts, which are two programs here: both train it, one of them writes."""

import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
from helpers.programs import refused

from dreamfusion_jax.runs.metrics import read_table
from experiments.run import main

TINY = [
    *("--prompt", "a red mushroom", "--prior", "oracle", "--steps", "6", "--train.views", "2"),
    *("--scene.sampling.intervals", "8", "--output.size", "32", "--output.frames", "2"),
    *("--output.mesh-resolution", "16", "--output.mesh-texture", "32"),
    *("--output.preview-every", "4", "--output.checkpoint-every", "3"),
]
NAME = "a-red-mushroom-seed0"


def on_two_hosts(*arguments):
    """What both hosts said."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "experiments.run", *arguments, "--hosts", address, "2"]
    hosts = [
        subprocess.Popen(
            [*command, str(host)],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for host in range(2)
    ]
    said = [host.communicate(timeout=900) for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], said
    return [output for output, _ in said]


@pytest.mark.slow
def test_two_hosts_train_one_run_and_one_writes(tmp_path):
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    first, second = on_two_hosts(*TINY, "--output", str(shared))
    assert "2 of 2 devices" in first and "views over 2" in first and f"done: {shared}" in first
    assert "done" not in second
    main([*TINY, "--output", str(alone)])
    files = [
        sorted(file.relative_to(output) for file in output.rglob("*.*") if file.is_file())
        for output in (shared / NAME, alone / NAME)
    ]
    assert [x for x in files[0] if "checkpoints" not in x.parts] == [
        x for x in files[1] if "checkpoints" not in x.parts
    ]
    for name in ("metrics.csv", "progress.csv"):
        one, other = (read_table(output / NAME / name) for output in (shared, alone))
        assert [*one] == [*other] and one["step"] == other["step"]
        for column in one:
            np.testing.assert_allclose(one[column], other[column], rtol=2e-3, atol=2e-3)

    # They go on together from the checkpoint before the last, and so does one of them alone.
    for output, resume in ((shared, on_two_hosts), (alone, lambda *words: main([*words]))):
        shutil.rmtree(output / NAME / "checkpoints" / "6")
        (output / NAME / "mesh.glb").unlink()
        resume("--resume", str(output / NAME))
        assert (output / NAME / "mesh.glb").exists()
        assert (output / NAME / "checkpoints" / "6").is_dir()
        assert read_table(output / NAME / "metrics.csv")["step"] == [1, 3, 6]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--hosts", "somewhere"],
        ["--hosts", "here:1", "two", "0"],
        ["--seeds", "1", "--hosts", "auto"],
    ],
)
def test_hosts_that_make_no_sense_are_refused(arguments, tmp_path, capsys):
    line = refused(main, capsys, *TINY, "--output", tmp_path / "x", *arguments)
    assert "hosts" in line and not (tmp_path / "x").exists()

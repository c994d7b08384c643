"""The cores of a CPU as devices: how many, and that a whole run is shared by them."""

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from dreamfusion_jax import cores
from dreamfusion_jax.runs.metrics import read_table
from dreamfusion_jax.runs.trained_scene import TrainedScene
from experiments.run import main


@pytest.mark.parametrize(
    ("views", "usable", "parts"),
    [(4, 1, 1), (4, 2, 2), (4, 3, 2), (4, 64, 4), (6, 4, 3), (5, 4, 1), (1, 8, 1)],
)
def test_there_are_as_many_as_there_are_cores_and_as_divide_the_views(
    views, usable, parts, monkeypatch
):
    found = asked(monkeypatch, usable=usable)
    cores.split_cores(views)
    assert found == [("jax_num_cpu_devices", parts)]


def asked(monkeypatch, *, usable=4, flags="", given=-1):
    """What JAX is then told, as it comes."""
    told = []
    config = SimpleNamespace(
        jax_num_cpu_devices=given, update=lambda name, value: told.append((name, value))
    )
    monkeypatch.setattr(cores, "jax", SimpleNamespace(config=config))
    monkeypatch.setattr(cores, "usable_cores", lambda: usable)
    monkeypatch.setenv("XLA_FLAGS", flags)
    return told


@pytest.mark.parametrize(
    "setting",
    [
        {"flags": "--xla_force_host_platform_device_count=8"},
        {"flags": "--xla_dump_to=x --xla_cpu_multi_thread_eigen=false"},
        {"given": 1},
    ],
)
def test_what_someone_has_set_stays(setting, monkeypatch):
    told = asked(monkeypatch, **setting)
    cores.split_cores(4)
    assert told == []


def test_after_jax_has_looked_for_devices_nothing_changes():
    np.asarray(cores.jax.numpy.zeros(1))
    cores.jax.config.update("jax_num_cpu_devices", -1)
    count = cores.jax.device_count()
    cores.split_cores(4)
    assert cores.jax.device_count() == count


TINY = [
    *("--prompt", "a red mushroom", "--prior", "oracle", "--steps", "4", "--train.views", "2"),
    *("--scene.sampling.intervals", "8", "--output.size", "16", "--output.frames", "2"),
    *("--output.mesh-resolution", "16", "--output.mesh-texture", "16"),
    *("--output.preview-every", "4", "--output.checkpoint-every", "2"),
]


@pytest.mark.skipif(cores.usable_cores() < 2, reason="there is one core")
def test_the_cores_share_a_run_and_one_of_them_can_go_on_with_it(tmp_path):
    flags = os.environ["XLA_FLAGS"].replace("--xla_cpu_multi_thread_eigen=false", "")
    said = subprocess.run(
        [sys.executable, "-m", "experiments.run", *TINY, "--output", str(tmp_path)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert said.returncode == 0, said.stderr
    assert "views over 2" in said.stdout and "2 x" not in said.stdout
    (run,) = tmp_path.iterdir()
    shared = everything(run)
    shutil.rmtree(run / "checkpoints" / "4")
    (run / "mesh.glb").unlink()
    main(["--resume", str(run)])
    for ours, theirs in zip(everything(run), shared, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-3)


def everything(run):
    """What is in the tables of a run, and its parameters."""
    assert (run / "mesh.glb").exists()
    tables = [read_table(run / name) for name in ("metrics.csv", "progress.csv")]
    columns = [column for table in tables for column in table.values()]
    return [*columns, *cores.jax.tree.leaves(TrainedScene.load(run).params)]

"""The cores of a CPU as devices: how many, and that a whole run is shared by them."""

import dataclasses
import os
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.programs import command

from dreamfusion_jax import cores
from dreamfusion_jax.presets import TOYBOX, changed
from dreamfusion_jax.runs.checkpoint import CheckpointError, save_config
from dreamfusion_jax.runs.settings import describe_run
from dreamfusion_jax.runs.trained_scene import TrainedScene
from experiments.run_options import Arguments, SplitOptions, settings_of
from experiments.splitting import views_for_cores


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


def test_after_jax_has_looked_for_devices_nothing_changes(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr(cores, "usable_cores", lambda: 4)
    jnp.zeros(1).block_until_ready()
    count = jax.device_count()
    cores.split_cores(4)
    assert jax.device_count() == count < 4


TINY = [
    *("--prompt", "a red mushroom", "--prior", "oracle", "--steps", "4", "--train.views", "2"),
    *("--scene.sampling.intervals", "8", "--output.size", "16", "--output.frames", "2"),
    *("--output.mesh-resolution", "16", "--output.mesh-texture", "16"),
    *("--output.preview-every", "4", "--output.checkpoint-every", "2"),
]


@pytest.mark.skipif(cores.usable_cores() < 2, reason="there is one core")
def test_the_cores_share_a_run_that_one_device_can_read(tmp_path):
    flags = os.environ["XLA_FLAGS"].replace("--xla_cpu_multi_thread_eigen=false", "")
    said = command("run", *TINY, "--output", tmp_path, XLA_FLAGS=flags, JAX_PLATFORMS="cpu")
    assert said.returncode == 0, said.stderr
    assert "views over 2" in said.stdout and "2 x" not in said.stdout
    (run,) = tmp_path.iterdir()
    assert (run / "mesh.glb").exists()
    saved = TrainedScene.load(run / "scene.safetensors").params
    state = TrainedScene.load(run).params
    for ours, theirs in zip(*map(jax.tree.leaves, (state, saved)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert len(ours.devices()) == 1


def test_who_shares_the_views_of_a_run(tmp_path):
    config = changed(TOYBOX, {"train.views": 6})
    usual = Arguments(prompt="a red car", config=config)
    assert views_for_cores(usual) == 6
    for alone in (
        {"prior": "stable-diffusion"},
        {"seeds": (0, 1)},
        {"hosts": ("auto",)},
        {"split": SplitOptions(view=1)},
    ):
        assert views_for_cores(dataclasses.replace(usual, **alone)) == 1
    save_config(tmp_path, describe_run(settings_of(usual)))
    assert views_for_cores(Arguments(resume=tmp_path)) == 6
    with pytest.raises(CheckpointError, match="nowhere"):
        views_for_cores(Arguments(resume=tmp_path / "nowhere"))

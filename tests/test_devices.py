import os
import pathlib
import socket
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import SCHEDULE

from dreamfusion_jax import devices
from dreamfusion_jax.distillation.adam import AdamConfig
from dreamfusion_jax.distillation.train import (
    Model,
    TrainConfig,
    init_state,
    train_step,
)
from dreamfusion_jax.priors.prior import GaussianPrior
from dreamfusion_jax.priors.prompts import Text
from dreamfusion_jax.scene.fields.mlp import MlpField
from dreamfusion_jax.scene.render import SamplingConfig, SceneModel

SCENE = SceneModel(
    MlpField(width=16, blocks=1, frequencies=2),
    SamplingConfig(radius=0.62, proposals=(), intervals=6),
    background=None,
)
# Not Adam's usual tiny epsilon, with which the sign of a rounding error would matter.
CONFIG = TrainConfig(steps=20, views=4, optimizer=AdamConfig(0.01, warm_up=0.0, eps=1e-4))
STEPS = 3


def make_model():
    return Model(SCENE, GaussianPrior(SCHEDULE, 0.5, image_size=8))


def make_text():
    return Text(jnp.linspace(-0.5, 0.5, 4)[:, None, None], jnp.zeros((1, 1)), jnp.zeros((1, 1)))


def train(mesh, steps=STEPS):
    """Parameters after a few steps, losses, and the work of a step on each device."""
    model, state, text = make_model(), init_state(make_model(), CONFIG, 0), make_text()
    if mesh is not None:
        state, text = devices.replicate((state, text), mesh)
    program = train_step.lower(state, None, text, model=model, config=CONFIG, mesh=mesh).compile()
    residuals = []
    for _ in range(steps):
        state, metrics = train_step(state, None, text, model=model, config=CONFIG, mesh=mesh)
        residuals.append(float(metrics["residual"]))
    assert train_step._cache_size() == 1
    train_step.clear_cache()
    leaves = jax.tree.leaves(state.params)
    assert mesh is None or all(leaf.sharding.is_fully_replicated for leaf in leaves)
    return [np.asarray(leaf) for leaf in leaves], residuals, program.cost_analysis()["flops"]


def compare_four_devices_with_one():
    assert jax.device_count() == 4
    single, residuals, work = train(None)
    mesh = devices.make_mesh()
    assert mesh.shape == {"view": 4}
    spread, residuals_spread, work_spread = train(mesh)
    np.testing.assert_allclose(residuals_spread, residuals, rtol=1e-5)
    for a, b in zip(spread, single, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    fresh = jax.tree.leaves(init_state(make_model(), CONFIG, 0).params)
    moved = max(np.abs(a - b).max() for a, b in zip(single, fresh, strict=True))
    assert moved > 0.01
    assert work_spread < 0.35 * work


def train_on_two_hosts(output):
    assert jax.device_count() == 4 and jax.local_device_count() == 2
    params, residuals, _ = train(devices.make_mesh())
    np.savez(output, *params, residuals=residuals)


def start(function, *arguments, device_count, first=""):
    """Starts a program that calls a function of this file on so many devices."""
    program = f"import runpy\n{first}\nrunpy.run_path({__file__!r})[{function!r}](*{arguments!r})"
    flags = os.environ["XLA_FLAGS"]
    flags += f" --xla_force_host_platform_device_count={device_count}"
    tests = pathlib.Path(__file__).parent
    path = os.pathsep.join([str(tests), str(tests.parent)])
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_four_devices_make_the_same_scene_as_one_with_a_quarter_of_the_work_each():
    program = start("compare_four_devices_with_one", device_count=4)
    output, _ = program.communicate(timeout=600)
    assert program.returncode == 0, output


@pytest.mark.slow
def test_two_hosts_make_the_same_scene(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    outputs = [str(tmp_path / f"{host}.npz") for host in range(2)]
    # Hosts can only be joined if nothing that was imported before has used JAX already.
    first = """
from dreamfusion_jax import devices, presets, priors
devices.initialize_hosts("127.0.0.1:{}", num_hosts=2, host={})
"""
    hosts = [
        start("train_on_two_hosts", output, device_count=2, first=first.format(port, host))
        for host, output in enumerate(outputs)
    ]
    for host in hosts:
        said, _ = host.communicate(timeout=600)
        assert host.returncode == 0, said
    params, residuals, _ = train(None)
    for file in outputs:
        with np.load(file) as saved:
            np.testing.assert_allclose(saved["residuals"], residuals, rtol=1e-5)
            for i, leaf in enumerate(params):
                np.testing.assert_allclose(saved[f"arr_{i}"], leaf, rtol=1e-4, atol=1e-6)


def device(kind, platform="gpu", capability=None, memory=None):
    stats = None if memory is None else {"bytes_limit": memory}
    return SimpleNamespace(
        device_kind=kind,
        platform=platform,
        compute_capability=capability,
        memory_stats=lambda: stats,
    )


@pytest.mark.parametrize(
    ("at_hand", "dtype", "said"),
    [
        (device("NVIDIA H100 80GB HBM3", capability="9.0", memory=79 * 2**30), "bfloat16", "79.0"),
        (device("Tesla T4", capability="7.5", memory=15 * 2**30), "float16", "Tesla T4, 15.0 GiB"),
        (device("NVIDIA TITAN V", capability="7.0"), "float16", "NVIDIA TITAN V; pretrained"),
        (device("TPU v4", platform="tpu", memory=32 * 2**30), "bfloat16", "TPU v4, 32.0 GiB"),
        (device("cpu", platform="cpu"), "float32", "CPU with"),
    ],
)
def test_devices_are_described_and_choose_the_type(at_hand, dtype, said, monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [at_hand])
    line = devices.describe_devices()
    assert said in line and line.endswith(f"compute in {dtype}") and "\n" not in line
    monkeypatch.setattr(jax, "devices", lambda: 4 * [at_hand])
    assert devices.describe_devices().startswith("4 x ")


def test_an_accelerator_that_is_not_used_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(devices.shutil, "which", lambda _: None)
    assert devices.unused_accelerator(tmp_path) is None
    (tmp_path / "accel0").touch()
    assert "jax[tpu]" in (devices.unused_accelerator(tmp_path) or "")
    (tmp_path / "nvidia0").touch()
    line = devices.unused_accelerator(tmp_path) or ""
    assert "jax[cuda13]" in line and "580" in line and "jax[cuda12]" in line and "525" in line
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert devices.unused_accelerator(tmp_path) is None


def test_a_mesh_of_chosen_devices():
    mesh = devices.make_mesh(jax.devices()[:1])
    assert mesh.axis_names == ("view",) and mesh.size == 1
    tree = devices.replicate({"a": jnp.ones(3)}, mesh)
    assert tree["a"].sharding.mesh == mesh


def message_of(error, function):
    with pytest.raises(error) as caught, devices.device_errors("the UNet of x/y in float32"):
        jax.block_until_ready(function())
    message = str(caught.value)
    assert "\n" not in message and "the UNet of x/y in float32" in message
    return message


def test_running_out_of_memory_is_one_line():
    message = message_of(devices.OutOfMemoryError, lambda: jnp.zeros(1 << 44, jnp.int8))
    assert message.startswith("cpu: no memory for") and "16384.00 GiB" in message
    message = message_of(devices.OutOfMemoryError, lambda: np.zeros(1 << 60, np.int8))
    assert message.startswith("the host's memory does not suffice")
    # What an inner part says is kept.
    with (
        pytest.raises(devices.OutOfMemoryError, match="inner"),
        devices.device_errors("the outer"),
        devices.device_errors("the inner"),
    ):
        np.zeros(1 << 60, np.int8)


def test_the_words_of_a_gpu_are_understood():
    """As XLA's allocator has them; there is no GPU here to exhaust."""

    def fail():
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8589934592 bytes.\nmore"
        )

    assert "(the part that failed: 8.00 GiB)" in message_of(devices.OutOfMemoryError, fail)


def test_devices_that_cannot_be_had_are_one_line(monkeypatch):
    def devices_of():
        raise RuntimeError("Unable to initialize backend 'cuda': no CUDA\nmore")

    monkeypatch.setattr(jax, "devices", devices_of)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(devices.DeviceError, match=r"backend 'cuda'.*JAX_PLATFORMS=cuda") as caught:
        devices.describe_devices()
    assert "\n" not in str(caught.value)


def test_free_memory_is_what_others_have_left():
    free = devices.free_memory() or 0
    assert 0 < free <= (devices.device_memory() or 0)
    at_hand = device("NVIDIA H100", memory=80)
    at_hand.memory_stats = lambda: {"bytes_limit": 80, "bytes_in_use": 30}
    assert devices.free_memory(at_hand) == 50
    assert devices.free_memory(device("NVIDIA H100")) is None
    devices.require_memory(free // 2, "a half")
    with pytest.raises(devices.OutOfMemoryError, match=r"cpu: twice takes .*free: ask for less"):
        devices.require_memory(2 * free, "twice", "ask for less")


def test_cudnn_that_refuses_is_one_line():
    x = jnp.zeros((1, 8, 2, 64), jnp.bfloat16)

    def attend():
        return jax.nn.dot_product_attention(x, x, x, implementation="cudnn")

    message = message_of(devices.DeviceError, attend)
    assert message.startswith("cuDNN refuses")


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match=r"^another$"), devices.device_errors("it"):
        raise RuntimeError("another")


def test_the_host_is_a_cpu_if_there_is_one(monkeypatch):
    assert devices.host_device().platform == "cpu"

    def local_devices(backend=None):
        if backend == "cpu":
            raise RuntimeError("Unknown backend cpu")
        return ["the default"]

    monkeypatch.setattr(jax, "local_devices", local_devices)
    assert devices.host_device() == "the default"

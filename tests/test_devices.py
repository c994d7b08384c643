import dataclasses
import functools
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
from jax.sharding import NamedSharding, PartitionSpec

from dreamfusion_jax import devices, kept
from dreamfusion_jax.checks import SettingError
from dreamfusion_jax.devices import Split
from dreamfusion_jax.distillation.adam import AdamConfig
from dreamfusion_jax.distillation.train import (
    Model,
    TrainConfig,
    init_state,
    train_scenes,
    train_step,
)
from dreamfusion_jax.priors.prior import GaussianPrior
from dreamfusion_jax.priors.prompts import Text
from dreamfusion_jax.runs.checkpoint import Checkpointer
from dreamfusion_jax.scene.fields.mlp import MlpField
from dreamfusion_jax.scene.render import SamplingConfig, SceneModel


@dataclasses.dataclass(frozen=True)
class WholeMlp(MlpField):
    """Asked about all points at once, as on accelerators: XLA counts the body of a loop once."""

    @property
    def piece(self):
        return None


SCENE = SceneModel(
    WholeMlp(width=16, blocks=1, frequencies=2),
    SamplingConfig(radius=0.62, proposals=(), intervals=6),
    background=None,
)
# Not Adam's usual tiny epsilon, with which the sign of a rounding error would matter.
CONFIG = TrainConfig(steps=20, views=8, optimizer=AdamConfig(0.01, warm_up=0.0, eps=1e-4))
STEPS = 20
SIZE = 8


@dataclasses.dataclass(frozen=True, eq=False)
class MatrixPrior(GaussianPrior):
    """A prior with weights that are worth cutting up."""

    def predict_eps(self, params, z, t, embedding):
        mixed = jnp.tanh(z.reshape(len(z), -1) @ params["kernel"] + params["bias"][None])
        return super().predict_eps(None, z, t, embedding) + 0.1 * mixed.reshape(z.shape)

    @staticmethod
    def params():
        width = 3 * SIZE**2
        draw = np.random.default_rng(0).normal(size=(width, width)).astype(np.float32)
        return {"kernel": jnp.asarray(draw / width**0.5), "bias": jnp.ones(width)}


MODEL = Model(SCENE, MatrixPrior(SCHEDULE, 0.5, image_size=SIZE))
PRIOR_PARAMS = MatrixPrior.params()


def make_text():
    return Text(jnp.linspace(-0.5, 0.5, 4)[:, None, None], jnp.zeros((1, 1)), jnp.zeros((1, 1)))


def train(mesh):
    """Parameters after some steps, residuals, and the work of a step on each device."""
    state, text, weights = init_state(MODEL, CONFIG, 0), make_text(), PRIOR_PARAMS
    if mesh is not None:
        state, text = devices.replicate((state, text), mesh)
        weights = devices.spread_weights(weights, mesh)
        part = weights["kernel"].addressable_shards[0].data.size
        assert part * mesh.shape["model"] == weights["kernel"].size
    step = functools.partial(
        train_step, prior_params=weights, text=text, model=MODEL, config=CONFIG, mesh=mesh
    )
    work = train_step.lower(state, weights, text, model=MODEL, config=CONFIG, mesh=mesh)
    work = work.compile().cost_analysis()["flops"]
    train_step.jitted.clear_cache()
    residuals = []
    for _ in range(STEPS):
        state, metrics = step(state)
        residuals.append(float(metrics["residual"]))
    assert train_step.jitted._cache_size() == 1
    leaves = jax.tree.leaves(state.params)
    assert mesh is None or all(leaf.sharding.is_fully_replicated for leaf in leaves)
    return [np.asarray(leaf) for leaf in leaves], residuals, work


def train_many(mesh, scenes=8):
    """Parameters of several scenes after some steps."""
    stack = functools.partial(jax.tree.map, lambda *leaves: jnp.stack(leaves))
    states = stack(*(init_state(MODEL, CONFIG, seed) for seed in range(scenes)))
    texts = stack(*([make_text()] * scenes))
    states, texts = jax.device_put((states, texts), NamedSharding(mesh, PartitionSpec("scene")))
    weights = devices.spread_weights(PRIOR_PARAMS, mesh)
    for _ in range(STEPS):
        states, _ = train_scenes(states, weights, texts, model=MODEL, config=CONFIG, mesh=mesh)
    leaves = jax.tree.leaves(states.params)
    own = scenes // mesh.shape["scene"]
    assert all(leaf.addressable_shards[0].data.shape[0] == own for leaf in leaves)
    return [np.asarray(leaf) for leaf in leaves]


def assert_near(leaves, others):
    for a, b in zip(leaves, others, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def compare_eight_devices_with_one(folder):
    assert jax.device_count() == 8
    look_at_what_is_spread(pathlib.Path(folder))
    single, residuals, work = train(None)
    fresh = jax.tree.leaves(init_state(MODEL, CONFIG, 0).params)
    moved = max(np.abs(a - b).max() for a, b in zip(single, fresh, strict=True))
    assert moved > 0.01
    for split, most in ((Split(view=8), 1.4 / 8), (Split(model=8), 1.0)):
        spread, residuals_spread, work_spread = train(devices.make_mesh(split=split))
        np.testing.assert_allclose(residuals_spread, residuals, rtol=1e-4)
        assert_near(spread, single)
        assert work_spread < most * work, (split, work_spread / work)
    scenes = train_many(devices.make_mesh(split=Split(scene=8)))
    assert_near([leaf[0] for leaf in scenes], single)
    assert_near(train_many(devices.make_mesh(split=Split(2, 2, 2))), scenes)


def look_at_what_is_spread(folder):
    """Copies are at hand, what is cut up stays; a checkpoint holds both."""
    whole, cut = (devices.make_mesh(split=split) for split in (Split(view=8), Split(model=8)))
    copies = devices.replicate({"a": jnp.arange(8.0)}, whole)
    parts = devices.spread_weights(PRIOR_PARAMS, cut)
    (own,) = jax.tree.leaves(devices.at_hand((copies, np.ones(2), None))[0])
    assert own.devices() == {jax.devices()[0]}
    np.testing.assert_array_equal(own, np.arange(8.0))
    for before, after in zip(parts.values(), devices.at_hand(parts).values(), strict=True):
        assert before is after
    with Checkpointer(folder / "saved") as checkpoints:
        checkpoints.save(1, {"params": copies, "kernel": parts["kernel"]})
    keep_for_several_devices(folder / "whole", whole)


def keep_for_several_devices(folder, mesh):
    """The trace of a function that devices share is found by another program."""
    kept._folder = lambda: folder
    traced = []

    def add(total, x, *, mesh):
        traced.append(mesh)
        x = jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec("view")))
        total = total + jnp.sum(x**2)
        return jax.lax.with_sharding_constraint(total, NamedSharding(mesh, PartitionSpec()))

    add.__module__, add.__qualname__ = "dreamfusion_jax.tests", "add"
    x = np.arange(16.0, dtype=np.float32)
    for _ in range(2):
        function = kept.kept("mesh", donate="total")(add)
        total = devices.replicate(jnp.float32(1.0), mesh)
        for _ in range(3):
            total = function(total, devices.replicate(x, mesh), mesh=mesh)
        assert len(total.devices()) == 8
        np.testing.assert_allclose(total, 1.0 + 3 * np.sum(x**2))
    assert len(traced) == 1
    # Of which devices, the arrays do not tell: it is as JAX has it.
    total = kept.kept("mesh", donate="total")(add)(jnp.float32(1.0), x, mesh=mesh)
    assert len(total.devices()) == 8 and len(list(folder.iterdir())) == 1


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


def test_eight_devices_make_the_same_scenes_as_one_along_every_axis(tmp_path):
    program = start("compare_eight_devices_with_one", str(tmp_path), device_count=8)
    output, _ = program.communicate(timeout=600)
    assert program.returncode == 0, output
    # What many devices have saved, one can read.
    with Checkpointer(tmp_path / "saved") as checkpoints:
        shapes = jax.eval_shape(
            lambda: {"params": {"a": jnp.zeros(8)}, "kernel": PRIOR_PARAMS["kernel"]}
        )
        whole = checkpoints.restore(shapes)
        part = checkpoints.restore_part(shapes["params"], "['params']")
    np.testing.assert_array_equal(whole["kernel"], PRIOR_PARAMS["kernel"])
    np.testing.assert_array_equal(part["a"], np.arange(8.0))


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
    # The devices of a CPU are the same cores.
    four = line if at_hand.platform == "cpu" else f"4 x {line}"
    assert devices.describe_devices() == four


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
    assert mesh.shape == {"scene": 1, "view": 1, "model": 1}
    tree = devices.replicate({"a": jnp.ones(3)}, mesh)
    assert tree["a"].sharding.mesh == mesh


@pytest.mark.parametrize(
    ("number", "asked", "split"),
    [
        (1, {"views": 4}, Split()),
        (4, {"views": 4}, Split(view=4)),
        (8, {"views": 4}, Split(view=4)),  # More would have nothing to do.
        (8, {"views": 1}, Split()),
        (8, {"views": 4, "scenes": 16}, Split(scene=8)),
        (8, {"views": 4, "scenes": 2}, Split(scene=2, view=4)),
        (6, {"views": 4, "scenes": 9}, Split(scene=3, view=2)),
        (8, {"views": 4, "weights": 4, "memory": 10}, Split(view=4)),
        (8, {"views": 4, "weights": 6, "memory": 10}, Split(view=4, model=2)),
        (8, {"views": 4, "weights": 60, "memory": 10}, Split(model=8)),
    ],
)
def test_the_split_is_chosen_from_what_there_is(number, asked, split):
    assert devices.choose_split(number, **asked) == split


def test_a_split_needs_its_devices():
    with pytest.raises(ValueError, match="takes 3 devices, there are 1"):
        devices.make_mesh(jax.devices()[:1], Split(scene=3))
    with pytest.raises(SettingError, match="view"):
        Split(view=0)


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

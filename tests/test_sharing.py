"""How devices and hosts share the work: to the same result, wherever it is done."""

import dataclasses
import functools
import os
import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import SCHEDULE
from jax.sharding import NamedSharding, PartitionSpec

from dreamfusion_jax import kept, sharing
from dreamfusion_jax.checks import SettingError
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
from dreamfusion_jax.sharing import Split


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
        state, text = sharing.replicate((state, text), mesh)
        weights = sharing.spread_weights(weights, mesh)
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
    weights = sharing.spread_weights(PRIOR_PARAMS, mesh)
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
        spread, residuals_spread, work_spread = train(sharing.make_mesh(split=split))
        np.testing.assert_allclose(residuals_spread, residuals, rtol=1e-4)
        assert_near(spread, single)
        assert work_spread < most * work, (split, work_spread / work)
    scenes = train_many(sharing.make_mesh(split=Split(scene=8)))
    assert_near([leaf[0] for leaf in scenes], single)
    assert_near(train_many(sharing.make_mesh(split=Split(2, 2, 2))), scenes)


def look_at_what_is_spread(folder):
    """Copies are at hand, what is cut up stays; a checkpoint holds both."""
    whole, cut = (sharing.make_mesh(split=split) for split in (Split(view=8), Split(model=8)))
    copies = sharing.replicate({"a": jnp.arange(8.0)}, whole)
    parts = sharing.spread_weights(PRIOR_PARAMS, cut)
    (own,) = jax.tree.leaves(sharing.at_hand((copies, np.ones(2), None))[0])
    assert own.devices() == {jax.devices()[0]}
    np.testing.assert_array_equal(own, np.arange(8.0))
    for before, after in zip(parts.values(), sharing.at_hand(parts).values(), strict=True):
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
        total = sharing.replicate(jnp.float32(1.0), mesh)
        for _ in range(3):
            total = function(total, sharing.replicate(x, mesh), mesh=mesh)
        assert len(total.devices()) == 8
        np.testing.assert_allclose(total, 1.0 + 3 * np.sum(x**2))
    assert len(traced) == 1
    # Of which devices, the arrays do not tell: it is as JAX has it.
    total = kept.kept("mesh", donate="total")(add)(jnp.float32(1.0), x, mesh=mesh)
    assert len(total.devices()) == 8 and len(list(folder.iterdir())) == 1


def train_on_two_hosts(output):
    assert jax.device_count() == 4 and jax.local_device_count() == 2
    params, residuals, _ = train(sharing.make_mesh())
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
from dreamfusion_jax import presets, priors, sharing
sharing.initialize_hosts("127.0.0.1:{}", num_hosts=2, host={})
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


def test_a_mesh_of_chosen_devices():
    mesh = sharing.make_mesh(jax.devices()[:1])
    assert mesh.shape == {"scene": 1, "view": 1, "model": 1}
    tree = sharing.replicate({"a": jnp.ones(3)}, mesh)
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
    assert sharing.choose_split(number, **asked) == split


def test_a_split_needs_its_devices():
    with pytest.raises(ValueError, match="takes 3 devices, there are 1"):
        sharing.make_mesh(jax.devices()[:1], Split(scene=3))
    with pytest.raises(SettingError, match="view"):
        Split(view=0)

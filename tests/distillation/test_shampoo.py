import itertools
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreamfusion_jax.distillation.shampoo import ShampooConfig, shampoo

PAPER = ShampooConfig()
SMALL_BLOCKS = ShampooConfig(block_size=16, max_merged_size=100, max_dimension=300)


class Reference:
    """Distributed Shampoo of one tensor, in float64, by the definition."""

    def __init__(self, shape: tuple[int, ...], config: ShampooConfig):
        self.config = config
        self.skip = len(shape) == 0 or max(shape) > config.max_dimension
        self.merged: list[int] = []
        for size in shape:
            if self.merged and self.merged[-1] * size <= config.max_merged_size:
                self.merged[-1] *= size
            else:
                self.merged.append(size)
        self.moments: dict = {}
        self.momentum, self.sign_momentum = np.zeros(shape), np.zeros(shape)
        self.step = 0

    def precondition(self, gradient: np.ndarray) -> np.ndarray:
        config = self.config
        merged = gradient.reshape(self.merged)
        result = np.zeros_like(merged)
        starts = [range(0, size, config.block_size) for size in self.merged]
        for corner in itertools.product(*starts):
            place = tuple(slice(first, first + config.block_size) for first in corner)
            block = merged[place]
            new = block
            for axis, size in enumerate(block.shape):
                others = [a for a in range(block.ndim) if a != axis]
                square = np.tensordot(block, block, axes=(others, others))
                old = self.moments.get((corner, axis), config.epsilon * np.eye(size))
                moment = config.beta2 * old + (1 - config.beta2) * square
                self.moments[corner, axis] = moment
                ridge = config.epsilon * np.linalg.norm(moment, 2) * np.eye(size)
                vectors, values, _ = np.linalg.svd(moment + ridge)
                root = vectors @ np.diag(values ** (-1 / config.exponent)) @ vectors.T
                new = np.moveaxis(np.tensordot(root, new, axes=(1, axis)), 0, axis)
            result[place] = new
        return result.reshape(gradient.shape)

    def update(self, gradient: np.ndarray, learning_rate: float) -> np.ndarray:
        beta1, sign = self.config.beta1, np.sign(gradient)
        u = sign
        if not self.skip:
            u = self.precondition(gradient)
            u = u * np.linalg.norm(sign) / max(np.linalg.norm(u), 1e-30)
        self.momentum = beta1 * self.momentum + u
        self.sign_momentum = beta1 * self.sign_momentum + sign
        if self.step < self.config.start_preconditioning_step:
            u, momentum = sign, self.sign_momentum
        else:
            momentum = self.momentum
        self.step += 1
        return -learning_rate * (u + beta1 * momentum)


def gradients_of(shapes: dict, steps: int) -> list[dict]:
    """Correlated gradients of very different sizes, with some exact zeros."""
    rng = np.random.default_rng(0)
    mean = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    scale = {name: 10.0**-n for n, name in enumerate(shapes)}
    noise = [{n: rng.normal(size=s) for n, s in shapes.items()} for _ in range(steps)]
    values = [{n: scale[n] * (mean[n] + e[n]) for n in shapes} for e in noise]
    clipped = [
        {n: np.where(np.abs(v) < 0.1 * scale[n], 0, v) for n, v in g.items()} for g in values
    ]
    return [{n: np.asarray(v, np.float32) for n, v in g.items()} for g in clipped]


@pytest.mark.parametrize(
    "config, shapes",
    [
        (PAPER, {"matrix": (80, 60), "merged": (3, 3, 8, 4), "vector": (30,), "scalar": ()}),
        (PAPER, {"skipped": (4097, 2), "one": (1, 1), "column": (20, 1)}),
        (SMALL_BLOCKS, {"matrix": (40, 26), "merged": (3, 2, 9, 21), "vector": (200,)}),
    ],
)
def test_twenty_steps_match_a_float64_reference(config, shapes):
    references = {name: Reference(shape, config) for name, shape in shapes.items()}

    def schedule(step):
        return 1e-3 * (jnp.asarray(step, jnp.float32) + 1.0)

    optimiser: Any = shampoo(schedule, config)
    state = optimiser.init({name: jnp.zeros(shape) for name, shape in shapes.items()})
    update = jax.jit(optimiser.update, donate_argnums=1)
    for step, gradients in enumerate(gradients_of(shapes, 20)):
        updates, state = update(jax.tree.map(jnp.array, gradients), state)
        for name, reference in references.items():
            expected = reference.update(gradients[name].astype(np.float64), 1e-3 * (step + 1))
            error = np.linalg.norm(updates[name] - expected) / np.linalg.norm(expected)
            # Rounding adds 6e-8 lambda_max to eigenvalues as small as the ridge, 1e-6 lambda_max:
            # a few per cent in the most amplified directions, where little of the gradient lies.
            bound = 1e-6 if step < config.start_preconditioning_step else 1e-3
            assert error < bound, (name, step, error)


def test_blocks_of_equal_shape_share_their_arrays():
    params = {"a": jnp.zeros((200, 130)), "b": jnp.zeros((128, 130)), "c": jnp.zeros((130,))}
    optimiser: Any = shampoo(1.0)
    state = optimiser.init(params)
    shapes = {name: [m.shape for m in moments] for name, moments in state.moments.items()}
    assert shapes == {
        "128x128": [(2, 128, 128), (2, 128, 128)],
        "128x2": [(2, 128, 128), (2, 2, 2)],
        "72x128": [(1, 72, 72), (1, 128, 128)],
        "72x2": [(1, 72, 72), (1, 2, 2)],
        "128": [(1, 128, 128)],
        "2": [(1, 2, 2)],
    }
    assert jax.tree.structure(state.roots) == jax.tree.structure(state.moments)


def test_a_failed_root_keeps_the_one_before():
    optimiser: Any = shampoo(1.0, ShampooConfig(start_preconditioning_step=0))
    params = {"w": jnp.zeros((70, 60))}
    state = optimiser.init(params)
    roots = jax.tree.map(lambda root: 3.0 * root, state.roots)
    # After many steps without a gradient the moments underflow to zero, which has no inverse root.
    state = state._replace(moments=jax.tree.map(jnp.zeros_like, state.moments), roots=roots)
    update = jax.jit(optimiser.update)
    updates, after = update(params, state)
    np.testing.assert_array_equal(updates["w"], np.zeros((70, 60)))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), roots, after.roots))
    updates, after = update({"w": jnp.ones((70, 60))}, after)
    assert np.all(np.isfinite(updates["w"])) and np.all(np.asarray(updates["w"]) < 0)


def test_updates_keep_the_type_of_the_gradient_and_the_state_is_float32():
    params = {"w": jnp.zeros((4, 3), jnp.bfloat16)}
    optimiser: Any = shampoo(0.1)
    updates, state = jax.jit(optimiser.update)(params, optimiser.init(params))
    assert updates["w"].dtype == jnp.bfloat16
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} == {"float32", "int32"}


def test_badly_conditioned_quadratic_converges_where_sign_and_sgd_do_not():
    rng, steps = np.random.default_rng(0), 300

    def half_hessian(size):
        basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
        return jnp.array(basis * np.logspace(0, -2, size) @ basis.T, jnp.float32)

    left, right, target = half_hessian(12), half_hessian(10), jnp.array(rng.normal(size=(12, 10)))

    def loss(w):  # Condition number 1e8.
        return 0.5 * jnp.sum((left @ (w - target) @ right) ** 2)

    def final_loss(make, peak):
        optimiser = make(lambda count: peak * (1.0 - count / steps))

        def step(carry, _):
            w, state = carry
            updates, state = optimiser.update(jax.grad(loss)(w), state, w)
            return (w + updates, state), None

        start = jnp.zeros((12, 10))
        (w, _), _ = jax.lax.scan(step, (start, optimiser.init(start)), length=steps)
        return loss(w)

    def best(make, peaks):
        return jnp.min(jax.jit(jax.vmap(lambda peak: final_loss(make, peak)))(jnp.array(peaks)))

    peaks = [1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0]
    never = ShampooConfig(start_preconditioning_step=steps)
    sign = best(lambda rate: shampoo(rate, never), peaks)
    sgd = best(lambda rate: optax.sgd(rate, momentum=0.9, nesterov=True), peaks)
    matrix = best(lambda rate: shampoo(rate, ShampooConfig(max_merged_size=12)), [3e-2, 1e-1])
    assert matrix < 1e-5 * min(sign, sgd), (matrix, sign, sgd)


def test_learning_rate_of_the_paper():
    rate = ShampooConfig().schedule(15_000)
    steps = jnp.array([0, 1_500, 3_000, 9_000, 15_000, 20_000])
    middle = 0.5 * (1e-4 + 1e-6)
    expected = [1e-9, 0.5 * (1e-9 + 1e-4), 1e-4, middle, 1e-6, 1e-6]
    # The start is a difference of float32 numbers near the peak.
    np.testing.assert_allclose(jax.vmap(rate)(steps), expected, rtol=1e-5, atol=1e-7 * 1e-4)


UPDATE = """
import os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
import jax, jax.numpy as jnp
from dreamfusion_jax.distillation.shampoo import ShampooConfig, shampoo
from dreamfusion_jax.presets import PAPER
from dreamfusion_jax.sharing import Split, make_mesh, replicate

devices = int(sys.argv[1])
jax.config.update("jax_num_cpu_devices", devices)
optimizer = shampoo(1e-3, ShampooConfig())
shapes = jax.eval_shape(PAPER.scene.init, jax.random.key(0))
params = jax.tree.map(lambda x: jnp.full(x.shape, 0.01), shapes)
mesh = make_mesh(split=Split(view=devices))
params, state = replicate((params, jax.jit(optimizer.init)(params)), mesh)
jax.block_until_ready(jax.jit(optimizer.update)(params, state))
"""


@pytest.mark.parametrize("devices", [1, 2])
def test_an_update_of_the_papers_scene_comes_to_its_end_on_two_cores(devices):
    """Decompositions waited for each other for ever: in a program that can be ended."""
    subprocess.run([sys.executable, "-c", UPDATE, str(devices)], check=True, timeout=240)

import functools
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.runs.checkpoint import Checkpointer, CheckpointError, load_config, save_config

OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2, mu_dtype=jnp.bfloat16))


@pytree
class State:
    step: jax.Array
    params: dict
    optimizer: optax.OptState


def init_state(width=4):
    key = jax.random.key(0)
    params = {
        "field": {"kernel": jax.random.normal(key, (3, width)), "bias": jnp.zeros(width)},
        "half": [jax.random.normal(key, (5,), jnp.bfloat16), (jnp.zeros((0, 3)),)],
    }
    return State(jnp.zeros((), jnp.int32), params, OPTIMIZER.init(params))


@functools.partial(jax.jit, donate_argnums=0)
def train_step(state):
    def loss(params):
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(1), state.step), ())
        leaves = [leaf.astype(jnp.float32) for leaf in jax.tree.leaves(params)]
        return sum((jnp.sin(leaf + noise) ** 2).sum() for leaf in leaves)

    gradient = jax.grad(loss)(state.params)
    with jax.numpy_dtype_promotion("standard"):
        updates, optimizer = OPTIMIZER.update(gradient, state.optimizer, state.params)
    return State(state.step + 1, optax.apply_updates(state.params, updates), optimizer)


def train(state, steps):
    for _ in range(steps):
        state = train_step(state)
    return state


def assert_identical(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_a_resumed_run_is_bit_identical(tmp_path):
    straight = train(init_state(), 7)
    with Checkpointer(tmp_path / "run") as checkpointer:
        assert checkpointer.latest_step() is None
        state = train(init_state(), 4)
        checkpointer.save(4, state)
        assert_identical(checkpointer.restore(init_state()), state)
    with Checkpointer(tmp_path / "run") as checkpointer:
        assert checkpointer.latest_step() == 4
        shapes = jax.eval_shape(init_state)
        assert_identical(train(checkpointer.restore(shapes), 3), straight)


def test_only_the_last_checkpoints_are_kept(tmp_path):
    state = init_state()
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        for step in (1, 5, 10):
            checkpointer.save(step, train(init_state(), step))
        assert checkpointer.latest_step() == 10
        assert_identical(checkpointer.restore(state, step=5), train(init_state(), 5))
        with pytest.raises(CheckpointError, match=r"no checkpoint of step 1, only \[5, 10\]"):
            checkpointer.restore(state, step=1)
        for step in (7, 10):
            with pytest.raises(CheckpointError, match="already has a checkpoint of step 10"):
                checkpointer.save(step, state)


def test_a_killed_save_leaves_the_checkpoint_before(tmp_path):
    script = f"""
        import os, jax.numpy as jnp
        from dreamfusion_jax.runs.checkpoint import Checkpointer
        checkpointer = Checkpointer({str(tmp_path)!r})
        checkpointer.save(1, {{"x": jnp.arange(1000.0)}})
        os.rename = lambda *_: os._exit(9)  # Dies with everything written but the name.
        checkpointer.save(2, {{"x": jnp.zeros(1000)}})
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert killed.returncode == 9
    files = tmp_path / "checkpoints"
    assert sorted(path.name for path in files.iterdir()) == ["1", "2.orbax-checkpoint-tmp"]
    template = {"x": jnp.zeros(1000)}
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest_step() == 1
        assert_identical(checkpointer.restore(template), {"x": jnp.arange(1000.0)})
        checkpointer.save(2, template)
        assert_identical(checkpointer.restore(template), template)
    assert sorted(path.name for path in files.iterdir()) == ["1", "2"]


def test_what_is_wrong_with_a_folder_is_said_in_one_line(tmp_path):
    def message(function, *args):
        with pytest.raises(CheckpointError) as caught:
            function(*args)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    state = init_state()
    missing = tmp_path / "missing"
    assert "there is no folder" in message(load_config, missing)
    assert "there is no folder" in message(Checkpointer(missing).restore, state)
    assert not missing.exists()

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    assert "no config.json" in message(load_config, foreign)
    assert "no checkpoints" in message(Checkpointer(foreign).restore, state)
    assert list(foreign.iterdir()) == []
    (foreign / "config.json").write_text("{oops")
    assert "not JSON" in message(load_config, foreign)
    (foreign / "config.json").write_text("[1]")
    assert "no JSON object" in message(load_config, foreign)
    (foreign / "checkpoints").mkdir()
    (foreign / "checkpoints" / "notes.txt").write_text("hello")
    assert "no checkpoints" in message(Checkpointer(foreign).restore, state)

    with Checkpointer(tmp_path / "run") as checkpointer:
        checkpointer.save(3, state)
        wider = message(checkpointer.restore, init_state(width=8))
        assert ".params['field']['bias'] is float32 [4] there and float32 [8] here" in wider
        other = message(checkpointer.restore, {"x": jnp.zeros(3)})
        assert "another configuration" in other and "absent" in other
        for path in (tmp_path / "run" / "checkpoints" / "3").rglob("*"):
            if path.is_file() and path.parent.name == "d":
                path.write_bytes(b"")
    with Checkpointer(tmp_path / "run") as checkpointer:
        assert "checkpoint 3" in message(checkpointer.restore, state)


def test_config_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = tmp_path / "outputs" / "run"
    config = {"prompt": "a réd mushroom", "steps": 3, "camera": {"focal": [0.7, 1.35]}}
    save_config(folder, config)
    assert load_config(folder) == config
    with pytest.raises(TypeError):
        save_config(folder, {"bad": object()})

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", die)
    with pytest.raises(KeyboardInterrupt):
        save_config(folder, {"steps": 4})
    assert load_config(folder) == config

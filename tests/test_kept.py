"""What is kept on disk, by what it is found, and that nothing depends on it."""

import copy
import dataclasses
import enum
import functools
import os
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.prior_steps import CONFIG, make_model
from helpers.tiny import SCHEDULE

from dreamfusion_jax import kept
from dreamfusion_jax.described import NotDescribedError, described
from dreamfusion_jax.distillation import train
from dreamfusion_jax.distillation.train import TrainConfig, init_state, train_step
from dreamfusion_jax.kept import remembered
from dreamfusion_jax.presets import PRESETS
from dreamfusion_jax.priors import toybox
from dreamfusion_jax.priors.prior import GaussianPrior, encode_prompts
from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.scene.camera import CameraConfig

traces = []


@pytree
class Seen:
    """A result that is no plain container."""

    y: jax.Array


def bend(x, parts, *, power=2, shift=None):
    """Notes that it is traced."""
    traces.append(power)
    y = x**power + parts["a"] * parts["b"]
    folded = jax.random.fold_in(parts["key"], 1) if "key" in parts else None
    return {"sum": y, "shift": shift, "key": folded}, Seen(y)


def fresh(function=bend, **how):
    """The function as another program has it: no trace of it is in memory."""
    other = types.FunctionType(function.__code__, globals(), function.__name__)
    other.__kwdefaults__, other.__module__ = function.__kwdefaults__, "dreamfusion_jax.tests"
    other.__qualname__ = function.__qualname__
    return kept.kept("power", **how)(other)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    traces.clear()
    where = tmp_path / "whole"
    monkeypatch.setattr(kept, "_folder", lambda: where)
    return where


X = np.linspace(0.5, 2.0, 6, dtype=np.float32)
PARTS = {"a": jnp.arange(6.0), "b": 0.5, "key": jax.random.key(1)}


def same(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for ours, theirs in leaves:
        assert ours.dtype == theirs.dtype
        if jnp.issubdtype(ours.dtype, jax.dtypes.prng_key):
            ours, theirs = jax.random.key_data(ours), jax.random.key_data(theirs)
        np.testing.assert_array_equal(ours, theirs)


def test_another_program_finds_the_trace_and_gives_the_same(folder):
    expected = jax.jit(bend, static_argnames="power")(X, PARTS, power=3)
    first = fresh()
    for _ in range(2):
        same(first(X, PARTS, power=3), expected)
    assert traces == [3, 3]  # One is plain JAX's.
    same(fresh()(X, power=3, parts=PARTS), expected)
    same(fresh(compiler_options={"xla_backend_optimization_level": 0})(X, PARTS, power=3), expected)
    assert traces == [3, 3]
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"power": 4},
        {"x": X[:3], "parts": {**PARTS, "a": jnp.arange(3.0)}},
        {"x": X.astype(np.float16)},
        {"parts": {"a": jnp.arange(6.0), "b": 0.5}},
        {"shift": 1.0},
        {"parts": {**PARTS, "b": jnp.asarray(0.5)}},
    ],
)
def test_other_settings_shapes_types_or_structures_are_traced(change):
    given = {"x": X, "parts": PARTS, "power": 3}
    fresh()(**given)
    before = len(traces)
    with jax.numpy_dtype_promotion("standard"):
        same(fresh()(**given | change), jax.jit(bend, static_argnames="power")(**given | change))
    assert len(traces) == before + 2


@pytest.mark.parametrize("what", ["_code", "_machine"])
def test_other_code_and_other_versions_are_traced(what, monkeypatch):
    fresh()(X, PARTS)
    monkeypatch.setattr(kept, what, lambda: "other")
    fresh()(X, PARTS)
    assert len(traces) == 2


def test_ways_of_jax_and_of_the_compiler_are_told_apart(folder, monkeypatch):
    function = fresh()
    function(X, PARTS)
    with jax.default_matmul_precision("highest"):
        function(X, PARTS)
    assert len(traces) == 2
    monkeypatch.setenv("XLA_FLAGS", f"{os.environ['XLA_FLAGS']} --xla_cpu_enable_fast_math=false")
    function(X, PARTS)
    assert len(list(folder.iterdir())) == 3


def test_damaged_files_are_made_again(folder):
    fresh()(X, PARTS)
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    for damaged in (b"", whole[:100], whole[:-1], b"nonsense"):
        file.write_bytes(damaged)
        traces.clear()
        fresh()(X, PARTS)
        fresh()(X, PARTS)
        assert len(traces) == 1


def test_a_folder_that_cannot_be_written_costs_nothing_else(folder):
    folder.write_text("in the way")
    expected = jax.jit(bend)(X, PARTS)
    same(fresh()(X, PARTS), expected)


def test_without_a_folder_or_within_other_functions_it_is_as_jit_has_it(folder, monkeypatch):
    function = fresh()
    parts = PARTS | {"b": jnp.float32(0.5)}

    def total(x):
        return jnp.sum(function(x, parts)[0]["sum"])

    slope = jax.jit(jax.grad(total))(X)
    np.testing.assert_allclose(slope, 2 * X, rtol=1e-6)
    several = jax.vmap(lambda x: function(x, parts)[0]["sum"])(jnp.stack([X, 2 * X]))
    monkeypatch.setattr(kept, "_folder", lambda: None)
    np.testing.assert_allclose(several[0], function(X, parts)[0]["sum"], rtol=1e-6)
    assert not folder.exists()


def test_memory_that_is_given_away_is_taken():
    not_kept = lambda x, *, power: x * power  # noqa: E731
    for function in (fresh(_times, donate="x"), fresh(not_kept, donate="x")):
        for _ in range(2):
            x = jnp.arange(4.0)
            np.testing.assert_array_equal(function(x, power=2), [0.0, 2.0, 4.0, 6.0])
            assert x.is_deleted()


def _times(x, *, power):
    return x * power


class Colour(enum.Enum):
    RED = 1


@dataclasses.dataclass(frozen=True)
class Mine:
    """A class of someone who uses this package."""

    size: int = 1


def test_what_a_program_cannot_know_the_code_of_is_traced_as_usual(folder):
    for value in (Mine(), Colour.RED, bend, lambda: 1, functools.partial(bend, 1), object()):
        with pytest.raises(NotDescribedError):
            described(value)
    function = fresh(lambda x, power: x * power.size)
    for _ in range(2):
        np.testing.assert_array_equal(function(X, power=Mine(3)), 3 * X)
    assert not folder.exists()


def _by_python(x, *, power):
    return jax.pure_callback(lambda x: x**power, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def test_operations_that_cannot_be_kept_are_traced_as_usual(folder):
    function = fresh(_by_python)
    for _ in range(2):
        np.testing.assert_allclose(function(X, power=3), X**3, rtol=1e-6)
    assert not folder.exists()


def test_descriptions_tell_values_apart():
    values = [
        *(1, 1.0, "1", True, None, (1,), [1], {"a": 1}, {"b": 1}, frozenset({1}), b"1"),
        *(np.float32(1), np.arange(2000), np.arange(2000) + (np.arange(2000) == 1000)),
        *(np.arange(4), np.arange(4.0), np.arange(4).reshape(2, 2), jnp.float32, jnp.bfloat16),
        *(CameraConfig(), CameraConfig(look_at_std=0.0), GaussianPrior(SCHEDULE, image_size=8)),
        GaussianPrior(SCHEDULE, image_size=16),
        *(preset.config for preset in PRESETS if preset.name != "paper-if"),
    ]
    texts = [described(value) for value in values]
    assert len(set(texts)) == len(texts)
    assert texts == [described(value) for value in values]
    sets = [frozenset("abcdefgh"), frozenset("hgfedcba")]
    assert described(sets[0]) == described(sets[1])


def test_the_embedded_prior_can_be_described(monkeypatch):
    monkeypatch.undo()
    prior, _ = toybox.load()
    assert described(prior) == described(copy.deepcopy(prior))
    assert described(prior) != described(dataclasses.replace(prior, block=prior.block + 1))


def test_a_training_step_is_not_traced_again_and_trains_the_same(monkeypatch):
    prior = GaussianPrior(SCHEDULE, image_size=8)
    text = encode_prompts(prior, None, "x", CONFIG.prompts)

    def run(step):
        state = init_state(make_model(prior), CONFIG, 0)
        for _ in range(3):
            state, metrics = step(state, None, text, model=make_model(prior), config=CONFIG)
        return state, metrics

    def again():
        step = train_step.__wrapped__
        return kept.kept("model", "config", "mesh", donate="state")(step)

    usual = jax.jit(train_step.__wrapped__, static_argnames=("model", "config", "mesh"))
    expected = run(usual)
    same(run(again()), expected)
    monkeypatch.setattr(train, "render_view", None)
    last, metrics = run(again())
    same((last, metrics), expected)
    with pytest.raises(TypeError):
        other = dataclasses.replace(CONFIG, steps=21)
        again()(last, None, text, model=make_model(prior), config=other)


def test_errors_of_the_function_are_its_own():
    def refuse(x, *, power):
        raise ValueError("no such power")

    refuse.__module__, refuse.__qualname__ = "dreamfusion_jax.x", "refuse"
    with pytest.raises(ValueError, match="no such power"):
        fresh(refuse)(X, power=2)


def test_what_is_remembered_is_asked_once(folder):
    asked = []

    def find():
        asked.append(1)
        return {"found": None, "of": (1, 2.5)}

    for _ in range(2):
        assert remembered("number", TrainConfig(), find) == {"found": None, "of": (1, 2.5)}
    assert len(asked) == 1
    remembered("number", TrainConfig(steps=7), find)
    remembered("other", TrainConfig(), find)
    assert len(asked) == 3 == len(list(folder.iterdir()))
    remembered("number", Mine(), find)
    remembered("number", Mine(), find)
    assert len(asked) == 5


def test_what_was_used_longest_ago_goes_first(folder, monkeypatch):
    monkeypatch.setattr(kept, "MAX_BYTES", 3500)
    for at in range(4):
        remembered("number", at, lambda: b"x" * 1000)
        for old, file in enumerate(sorted(folder.iterdir(), key=lambda f: f.stat().st_mtime)):
            os.utime(file, (old, old))
        remembered("number", 0, lambda: pytest.fail("it was used all the time"))
    assert len(list(folder.iterdir())) == 3
    asked = []
    for at in (1, 3):
        remembered("number", at, lambda at=at: asked.append(at))
    assert asked == [1]


def test_the_folder_is_beside_jaxs_own(monkeypatch):
    monkeypatch.undo()
    usual = jax.config.jax_compilation_cache_dir
    assert kept._folder() == Path(usual) / "whole"
    try:
        for given in (None, "gs://bucket/programs"):
            jax.config.update("jax_compilation_cache_dir", given)
            assert kept._folder() is None
    finally:
        jax.config.update("jax_compilation_cache_dir", usual)


def test_among_several_hosts_it_is_as_jit_has_it(folder, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    found = fresh()(X, PARTS)
    assert not any(leaf.committed for leaf in jax.tree.leaves(found))
    assert not folder.exists()

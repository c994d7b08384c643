"""Many runs at once against the same runs one by one."""

import shutil

import jax
import numpy as np
import pytest
from helpers.tiny_run import PRIOR, SETTINGS

from dreamfusion_jax.devices import OutOfMemoryError
from dreamfusion_jax.presets import changed
from dreamfusion_jax.runs import fitting
from dreamfusion_jax.runs.checkpoint import Checkpointer, CheckpointError
from dreamfusion_jax.runs.fitting import scenes_that_fit
from dreamfusion_jax.runs.loop import Stopped
from dreamfusion_jax.runs.many import Overall, Priors, Wanted, batches, train_together
from dreamfusion_jax.runs.metrics import NotFiniteError, read_table
from dreamfusion_jax.runs.run import Run

STEPS, SEEDS = 12, (3, 4, 9)
CONFIG = changed(SETTINGS.config, {"train.steps": STEPS})


def settings(seed, prompt="a grey thing", **others):
    fields = {"config": CONFIG, "seed": seed, "prompt": prompt, **others}
    return type(SETTINGS)(**{**vars(SETTINGS), **fields})


def wanted(folder):
    return [Wanted(folder / str(seed), settings(seed)) for seed in SEEDS]


def train(folder, **options):
    """Trains all of them, or goes on; their parameters."""
    runs = [item.open(PRIOR, lambda phase: None) for item in wanted(folder)]
    try:
        members = train_together(runs, **options)
        assert [member.run for member in members] == runs
        return [jax.tree.leaves(jax.device_get(member.state)) for member in members]
    finally:
        for run in runs:
            run.close()


def assert_same(folder, other, states, others):
    for seed in SEEDS:
        for name in ("metrics.csv", "progress.csv"):
            assert (folder / str(seed) / name).read_bytes() == (
                other / str(seed) / name
            ).read_bytes()
        for name in ("previews", "shown"):
            here, there = (sorted((x / str(seed) / name).iterdir()) for x in (folder, other))
            assert [x.name for x in here] == [x.name for x in there]
            assert all(a.read_bytes() == b.read_bytes() for a, b in zip(here, there, strict=True))
    for a, b in zip(jax.tree.leaves(states), jax.tree.leaves(others), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Runs that nothing happened to: their folder, their states."""
    folder = tmp_path_factory.mktemp("together")
    return folder, train(folder)


def test_runs_together_are_the_runs_one_by_one(together, tmp_path):
    folder, states = together
    for seed, state in zip(SEEDS, states, strict=True):
        with Run.start(tmp_path / str(seed), settings(seed), PRIOR) as run:
            scene = run.train()
            alone = jax.tree.leaves(jax.device_get(run.state()))
        for a, b in zip(state, alone, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
        assert len(jax.tree.leaves(scene.params)) > 0
        here, there = (x / str(seed) for x in (folder, tmp_path))
        names = [sorted(p.relative_to(x) for p in x.rglob("*.*")) for x in (here, there)]
        assert names[0] == names[1]
        for name in ("metrics.csv", "progress.csv"):
            one, other = read_table(here / name), read_table(there / name)
            assert [*one] == [*other]
            for column in one:
                np.testing.assert_allclose(
                    one[column], other[column], rtol=1e-3, atol=2e-3, err_msg=column
                )
    leaves = [np.concatenate([x.ravel() for x in state]) for state in states]
    assert np.abs(leaves[0] - leaves[1]).max() > 0.01  # The seeds are told apart.


def test_runs_that_were_stopped_together_end_the_same(together, tmp_path):
    folder, states = together
    left = iter([0] * 6 + [15])
    with pytest.raises(Stopped, match="step 7"):
        train(tmp_path, stop=lambda: next(left))
    assert_same(folder, tmp_path, states, train(tmp_path))


def test_runs_that_were_killed_while_they_were_saved_end_the_same(together, tmp_path):
    """Some are at the last checkpoint, one is at that before; or one alone has its first."""
    folder, states = together
    shutil.copytree(folder, tmp_path / "late")
    shutil.rmtree(tmp_path / "late" / str(SEEDS[1]) / "checkpoints" / str(STEPS))
    assert_same(folder, tmp_path / "late", states, train(tmp_path / "late"))
    early = iter([0] * 4 + [15])
    with pytest.raises(Stopped, match="step 5"):
        train(tmp_path / "early", stop=lambda: next(early))
    for seed in SEEDS[1:]:
        shutil.rmtree(tmp_path / "early" / str(seed) / "checkpoints")
    assert_same(folder, tmp_path / "early", states, train(tmp_path / "early"))


def test_one_run_in_trouble_does_not_end_the_others(together, tmp_path):
    _, states = together

    def watching(run):
        def fail(moment):
            if moment.step == 6:
                raise NotFiniteError("at step 6")

        return [fail] if run.settings.seed == SEEDS[0] else []

    runs = [item.open(PRIOR, lambda phase: None) for item in wanted(tmp_path)]
    members = train_together(runs, watching=watching)
    for run in runs:
        run.close()
    assert [member.trouble is None for member in members] == [False, True, True]
    for member, state in zip(members[1:], states[1:], strict=True):
        for a, b in zip(jax.tree.leaves(member.state), state, strict=True):
            np.testing.assert_array_equal(a, b)
    with Checkpointer(runs[0].folder) as checkpoints:
        assert checkpoints.latest_step() == 5


def test_batches_are_shown_as_one_training(tmp_path):
    seen = []
    overall = Overall(
        lambda moment: seen.append((moment.step, moment.total, moment.values["opacity"])),
        total=(len(SEEDS) + 1) * STEPS,
        done=STEPS,
    )
    train(tmp_path, overall=[overall])
    assert [step for step, _, _ in seen] == [STEPS + 3 * step for step in range(1, STEPS + 1)]
    rows = [read_table(tmp_path / str(seed) / "metrics.csv")["opacity"][-1] for seed in SEEDS]
    assert seen[-1] == (4 * STEPS, 4 * STEPS, pytest.approx(np.mean(rows), rel=1e-5))


def test_a_run_of_other_settings_is_refused(together, tmp_path):
    folder, _ = together
    other = Wanted(folder / str(SEEDS[0]), settings(SEEDS[0], prompt="another"))
    with pytest.raises(CheckpointError, match="other settings"):
        other.open(PRIOR, lambda phase: None)
    other = Wanted(tmp_path / "new", settings(0))
    other.open(PRIOR, lambda phase: None).close()
    other.open(PRIOR, lambda phase: None).close()


@pytest.mark.parametrize(
    ("prior", "sizes"), [("toybox", [3, 3, 2]), ("oracle", [3, 1, 3, 1])], ids=str
)
def test_a_batch_has_one_prior(tmp_path, prior, sizes):
    items = [
        Wanted(tmp_path / f"{prompt}-{seed}", settings(seed, prompt, prior=prior))
        for prompt in ("a red car", "a blue duck")
        for seed in range(4)
    ]
    found = [*batches(items, 3)]
    assert [len(batch) for batch in found] == sizes
    assert [item for batch in found for item in batch] == items


def test_an_oracle_is_loaded_for_each_prompt():
    priors = Priors.load(
        [settings(0, prompt, prior="oracle") for prompt in ("a red car", "a blue duck")],
        lambda phase: None,
    )
    scenes = [
        priors.of(settings(5, prompt, prior="oracle"))[0].scene.category
        for prompt in ("a blue duck", "a red car")
    ]
    assert scenes == ["duck", "car"]


def test_the_compiler_tells_what_a_step_takes():
    fit = scenes_that_fit(settings(0), PRIOR, len(SEEDS))
    assert fit.scenes == len(SEEDS) and fit.memory is not None
    # At least the states, with what Adam remembers, and the gradient.
    field = 4 * sum(x.size for x in jax.tree.leaves(CONFIG.scene.init(jax.random.key(0))))
    assert fit.bytes is not None and 4 * len(SEEDS) * field < fit.bytes < fit.memory
    assert "scenes at once: 3" in str(fit) and "GiB" in str(fit)


@pytest.mark.parametrize(
    ("memory", "scenes", "asked"), [(1000, 4, [4]), (250, 2, [4, 2]), (199, 1, [4]), (0, 1, [4])]
)
def test_as_many_scenes_are_taken_as_memory_holds(memory, scenes, asked, monkeypatch):
    """Of a step that takes 50 beside 100 for each scene."""
    seen = []

    def needed(wanted, loaded, number):
        seen.append(number)
        return 50 + 100 * number

    monkeypatch.setattr(fitting, "_step_bytes", needed)
    fit = fitting.scenes_that_fit(SETTINGS, PRIOR, 4, memory)
    assert fit.scenes == scenes and seen == asked
    assert fitting.scenes_that_fit(SETTINGS, PRIOR, 1, memory).scenes == 1


def test_what_the_compiler_cannot_build_is_halved(monkeypatch):
    def needed(wanted, loaded, number):
        if number > 2:
            raise OutOfMemoryError("while it tried out kernels")
        return number

    monkeypatch.setattr(fitting, "_step_bytes", needed)
    assert fitting.scenes_that_fit(SETTINGS, PRIOR, 4, memory=100).scenes == 2

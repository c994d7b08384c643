"""metrics.csv under every way a program can end."""

import jax.numpy as jnp
import pytest

from dreamfusion_jax.runs.loop import Moment
from dreamfusion_jax.runs.metrics import Metrics, NotFiniteError


def moment(step, value=1.5, *, total=40, stopping=False, finite=1.0):
    values = {"opacity": jnp.asarray(value), "finite": jnp.asarray(finite)}
    return Moment(step, total, lambda: None, values, stopping)


def run(path, first, last, total=40):
    metrics = Metrics(path, first, checkpoint_every=15)
    for step in range(first + 1, last + 1):
        metrics(moment(step, step / 4, total=total))


def steps(path):
    return [int(line.split(",")[0]) for line in path.read_text().splitlines()[1:]]


def test_rows_are_on_disk_at_once(tmp_path):
    path = tmp_path / "metrics.csv"
    metrics = Metrics(path, 0, 15)
    for step in range(1, 12):
        metrics(moment(step))
        if step >= 10:
            assert steps(path) == [1, 10]
    assert path.read_bytes().startswith(b"step,opacity\r\n1,1.5\r\n")


@pytest.mark.parametrize("killed_at", [1, 9, 15, 16, 29, 31, 39])
def test_a_resumed_run_ends_with_the_same_file(tmp_path, killed_at):
    straight, broken = tmp_path / "straight.csv", tmp_path / "broken.csv"
    run(straight, 0, 40)
    assert steps(straight) == [1, 10, 15, 20, 30, 40]
    run(broken, 0, killed_at)
    checkpoint = killed_at // 15 * 15
    run(broken, checkpoint, 40)
    assert broken.read_bytes() == straight.read_bytes()


@pytest.mark.parametrize("cut", [1, 3, 5])
def test_a_row_that_was_cut_off_is_done_again(tmp_path, cut):
    straight, broken = tmp_path / "straight.csv", tmp_path / "broken.csv"
    run(straight, 0, 40)
    run(broken, 0, 20)
    broken.write_bytes(broken.read_bytes()[:-cut])
    run(broken, 15, 40)
    assert broken.read_bytes() == straight.read_bytes()


def test_a_stop_leaves_no_row_that_a_run_without_stops_has_not(tmp_path):
    path = tmp_path / "metrics.csv"
    metrics = Metrics(path, 0, 15)
    metrics(moment(1))
    metrics(moment(2, stopping=True))
    assert steps(path) == [1]


@pytest.mark.parametrize("bad", [{"finite": 0.0}, {"value": float("nan")}, {"stopping": True}])
def test_what_is_not_finite_ends_the_run(tmp_path, bad):
    metrics = Metrics(tmp_path / "metrics.csv", 0, 15)
    step = 7 if bad.pop("stopping", False) else 10
    bad = {"stopping": step == 7, "finite": 0.0} | bad
    with pytest.raises(NotFiniteError, match=f"not finite near step {step}"):
        metrics(moment(step, **bad))
    assert (tmp_path / "metrics.csv").read_bytes() == b""

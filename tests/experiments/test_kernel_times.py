"""The table of a GPU's kernels, from what JAX's profiler hands out."""

from types import SimpleNamespace

import jax.numpy as jnp
import pytest

from experiments.kernel_times import kernel_times, of_planes, told


def plane(name, **lines):
    """A plane with lines of events (name, begin, length), nanoseconds."""
    lines = {
        line: [SimpleNamespace(name=n, start_ns=a, duration_ns=d) for n, a, d in events]
        for line, events in lines.items()
    }
    return SimpleNamespace(
        name=name, lines=[SimpleNamespace(name=n, events=e) for n, e in lines.items()]
    )


def test_kernels_are_added_by_name_and_nothing_is_counted_twice():
    work = [("conv", 1_000_000, 2_000_000), ("add", 4_000_000, 500_000), ("conv", 5e6, 1e6)]
    planes = [
        plane("/host:CPU", Stream=[("python", 0, 9e9)]),
        plane("/device:GPU:0", **{"Stream #7(Compute)": work, "XLA Ops": [("conv", 0, 9e9)]}),
    ]
    length, seconds = of_planes(planes)
    assert length == pytest.approx(5e-3) and seconds == pytest.approx({"conv": 3e-3, "add": 5e-4})
    first, slowest, second = told(length, seconds).splitlines()
    assert first.startswith("5 ms, in 70% of which")
    assert slowest.split() == ["3.0", "ms", "86%", "conv"] and second.split()[-1] == "add"


def test_where_there_is_no_gpu_it_says_so():
    length, seconds = kernel_times(lambda: jnp.ones(3).block_until_ready())
    assert told(length, seconds) == "no GPU was traced" and not seconds

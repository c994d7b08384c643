"""Where a GPU's time goes: how long it was busy, and with which kernels.

From a trace of JAX's profiler; nothing else need be installed.
"""

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax
from jax.profiler import ProfileData


def kernel_times(work: Callable[[], object]) -> tuple[float, Counter[str]]:
    """Traces a piece of work.

    Args:
        work: What to trace; returns when the device is done. All is compiled already.

    Returns:
        Seconds from the begin of the first kernel to the end of the last, and the seconds of all
        kernels by name. Both are nothing where there is no GPU.
    """
    options = jax.profiler.ProfileOptions()
    options.host_tracer_level = options.python_tracer_level = 0  # They would slow the host down.
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            work()
        (file,) = Path(folder).rglob("*.xplane.pb")
        return of_planes(ProfileData.from_file(str(file)).planes)


def of_planes(planes: Iterable[Any]) -> tuple[float, Counter[str]]:
    """The same, of what was traced: the events of each stream of each GPU."""
    seconds: Counter[str] = Counter()
    begins, ends = [], []
    for plane in planes:
        for line in plane.lines if plane.name.startswith("/device:GPU") else ():
            # The other lines tell the same again, by operation and by module.
            for event in line.events if line.name.startswith("Stream") else ():
                seconds[event.name] += event.duration_ns / 1e9  # pyright: ignore[reportArgumentType]
                begins.append(event.start_ns)
                ends.append(event.start_ns + event.duration_ns)
    return (max(ends) - min(begins)) / 1e9 if ends else 0.0, seconds


def told(length: float, seconds: Counter[str], most: int = 12) -> str:
    """What to print of it: the share of the time that kernels take, and the slowest of them."""
    if not length:
        return "no GPU was traced"
    busy = sum(seconds.values())
    lines = [f"{1000 * length:.0f} ms, in {busy / length:.0%} of which kernels run; the slowest:"]
    for name, taken in seconds.most_common(most):
        lines.append(f"  {1000 * taken:8.1f} ms {taken / busy:4.0%} {name[:80]}")
    return "\n".join(lines)

"""The cores of a CPU as devices that share the views of a step.

XLA gives an operation to all cores of a CPU, but those of a small network keep few of them busy. As
devices with a part of the views each, the same cores do a quarter more steps (docs/performance.md).
"""

import contextlib
import os

import jax

from dreamfusion_jax.sharing import choose_split

_BOUND = ("xla_force_host_platform_device_count", "xla_cpu_multi_thread_eigen=false")
"""Flags of XLA by which someone has said already how many devices or cores there are to be."""


def usable_cores() -> int:
    """Cores that this program may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def split_cores(views: int) -> None:
    """Makes a CPU as many devices as it has cores and the views of a step can be shared by.

    To be called before JAX has looked for its devices; afterwards it does nothing. Nor does it
    where there is a setting about it. Other kinds of devices stay as they are.

    Args:
        views: Of a step.
    """
    count = getattr(jax.config, "jax_num_cpu_devices", 0)  # Unknown to type checkers.
    if count > 0 or any(flag in os.environ.get("XLA_FLAGS", "") for flag in _BOUND):
        return
    split = choose_split(usable_cores(), views=views)
    with contextlib.suppress(RuntimeError):  # It has looked for them.
        jax.config.update("jax_num_cpu_devices", split.devices)

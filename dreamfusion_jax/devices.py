"""What there is to compute on: its type of numbers, its memory, and what it says on refusing."""

import contextlib
import functools
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from dreamfusion_jax.cores import usable_cores

_BYTES = re.compile(r"allocat\w* (\d+) ?bytes|allocat\w* ([\d.]+ ?[KMGT]i?B)")


class OutOfMemoryError(MemoryError):
    """A device has no room for what was asked for; the message is one line that names both."""


class DeviceError(RuntimeError):
    """A device refuses what was asked for; the message is one line that says why."""


def compute_dtype(device: Any = None) -> jnp.dtype:
    """What pretrained networks compute in: float32 on CPUs, half precision on accelerators.

    That is bfloat16, but float16 on NVIDIA GPUs of compute capability below 8.0 (a T4 has 7.5),
    where bfloat16 is emulated.

    Args:
        device: A device; None for the default one.
    """
    device = jax.devices()[0] if device is None else device
    if device.platform == "cpu":
        return jnp.dtype(jnp.float32)
    old = is_nvidia(device) and float(device.compute_capability) < 8.0
    return jnp.dtype(jnp.float16 if old else jnp.bfloat16)


def is_nvidia(device: Any) -> bool:
    """Whether a device is a GPU of NVIDIA's, by its name."""
    return device.device_kind.startswith(("NVIDIA", "Tesla", "GeForce", "Quadro"))


def describe_devices() -> str:
    """The devices at hand, their memory and what pretrained networks compute in, as one line.

    Raises:
        DeviceError: There are none of the kind that the environment asks for.
    """
    try:
        devices = jax.devices()
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        asked = os.environ.get("JAX_PLATFORMS")
        hint = f"; JAX_PLATFORMS={asked} asks for it" if asked else ""
        raise DeviceError(f"JAX cannot be started: {reason}{hint}") from error
    device = devices[0]
    if device.platform == "cpu":
        name = f"CPU with {usable_cores()} cores"
    else:
        name = (f"{len(devices)} x " if len(devices) > 1 else "") + device.device_kind
    memory = device_memory(device)
    size = "" if memory is None else f", {memory / 2**30:.1f} GiB"
    return f"{name}{size}; pretrained networks compute in {compute_dtype(device).name}"


def device_memory(device: Any = None) -> int | None:
    """Bytes that a device has for arrays, of a CPU those of the machine; None if it is not told.

    Args:
        device: A device; None for the default one.
    """
    device = jax.devices()[0] if device is None else device
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def free_memory(device: Any = None) -> int | None:
    """Bytes of a device's memory that nobody has taken, of a CPU the machine's; None if not told.

    Args:
        device: A device; None for the default one.
    """
    device = jax.devices()[0] if device is None else device
    total = device_memory(device)
    if device.platform != "cpu":
        used = (device.memory_stats() or {}).get("bytes_in_use", 0)
        return None if total is None else total - used
    told = [size for size in (total, _available()) if size is not None]
    return min(told, default=None)


def _available(file: Path = Path("/proc/meminfo")) -> int | None:
    """What Linux could give to a program without swapping, bytes."""
    try:
        found = re.search(r"^MemAvailable: +(\d+) kB", file.read_text(), re.M)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def require_memory(size: int, what: str, less: str = "") -> None:
    """Refuses what has no room, before it is asked for.

    Args:
        size: Bytes that are needed.
        what: What needs them.
        less: What would need less.

    Raises:
        OutOfMemoryError: The device that arrays are put on now has not so many bytes free.
    """
    chosen = getattr(jax.config, "jax_default_device", None)  # Unknown to type checkers.
    device: Any = chosen if isinstance(chosen, jax.Device) else jax.devices()[0]
    free = free_memory(device)
    if free is not None and size > free:
        raise OutOfMemoryError(
            f"{device.device_kind}: {what} takes at least {size / 2**30:.2f} GiB, and "
            f"{free / 2**30:.2f} GiB are free{less and ': '}{less}"
        )


@functools.cache
def product_rate(dtype: jnp.dtype) -> float:
    """Floating-point operations a second of large matrix products, measured on the default device.

    Takes a fraction of a second, once. Whole networks reach a third to two thirds of it.
    """
    size = 1024 if jax.default_backend() == "cpu" else 4096
    a = jnp.ones((size, size), dtype)
    multiply = jax.jit(lambda a: (a @ a) / size)
    multiply(a).block_until_ready()
    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        multiply(a).block_until_ready()
        best = max(best, 2.0 * size**3 / (time.perf_counter() - start))
    return best


def unused_accelerator(folder: Path = Path("/dev")) -> str | None:
    """What to do about an accelerator that this machine has and JAX does not use.

    Args:
        folder: Where the system lists its devices.

    Returns:
        One line; None where there is no such thing, or where the CPU was asked for.
    """
    asked = getattr(jax.config, "jax_platforms", None)  # Unknown to type checkers.
    if jax.default_backend() != "cpu" or asked:
        return None
    if (folder / "nvidia0").exists() or shutil.which("nvidia-smi"):
        return (
            "this machine has an NVIDIA GPU, but JAX is installed for the CPU only: "
            "pip install 'jax[cuda13]' (driver 580 or newer) or 'jax[cuda12]' (525 or newer)"
        )
    if next(folder.glob("accel[0-9]*"), None) is not None:
        return (
            "this machine has a TPU, but JAX is installed for the CPU only: pip install 'jax[tpu]'"
        )
    return None


def host_device() -> Any:
    """The device for work beside the accelerator: the CPU, or where JAX has none, the default.

    JAX has no CPU where the environment names other platforms only (`JAX_PLATFORMS=cuda`).
    """
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return jax.local_devices()[0]


@contextlib.contextmanager
def device_errors(what: str, less: str = "") -> Iterator[None]:
    """Turns the errors of devices and their libraries into one line that names what was asked.

    Arrays are computed while Python goes on: the result has to be waited for within.

    Args:
        what: What the device is asked for, such as "the weights of the UNet".
        less: What would need less memory.

    Raises:
        OutOfMemoryError: There is no room for it, on the device or for the host's arrays.
        DeviceError: cuDNN, NVIDIA's library of convolutions and attention, refuses it.
    """
    try:
        yield
    except MemoryError as error:
        if isinstance(error, OutOfMemoryError):  # Of an inner part, which says more.
            raise
        message = f"the host's memory does not suffice for {what}{less and ': '}{less}"
        raise OutOfMemoryError(message) from error
    except (RuntimeError, NotImplementedError) as error:
        message = str(error)
        if "RESOURCE_EXHAUSTED" in message or "out of memory" in message.lower():
            asked = _asked(message)
            place = jax.devices()[0].device_kind
            message = f"{place}: no memory for {what}{asked}{less and ': '}{less}"
            raise OutOfMemoryError(message) from error
        if "cudnn" in message.lower():
            reason = message.strip().split("\n")[0][:200]
            raise DeviceError(
                f"cuDNN refuses {what} ({reason}): a driver older than JAX's CUDA libraries, "
                "or memory taken by another program, are the usual causes"
            ) from error
        raise


def _asked(message: str) -> str:
    """How much a failed allocation asked for, if its message says it."""
    found = _BYTES.search(message)
    if found is None:
        return ""
    size = f"{int(found[1]) / 2**30:.2f} GiB" if found[1] else found[2]
    return f" (the part that failed: {size})"

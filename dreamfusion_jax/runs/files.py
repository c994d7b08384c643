"""A run's folder: what is in it, and who may write it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import filelock

from dreamfusion_jax.runs.checkpoint import CheckpointError

CONFIG, METRICS, PREVIEW = "config.json", "metrics.csv", "preview.png"
TURNTABLE, MESH, SCENE = "turntable.mp4", "mesh.glb", "scene.safetensors"
PROGRESS, SHOWN, PREVIEWS = "progress.csv", "shown", "previews"
LAST = MESH
"""What a finished run has written last."""

_LOCK = ".lock"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other programs from writing to a run's folder, which must exist.

    The lock ends with the program that holds it, however that ends.

    Raises:
        CheckpointError: Another program holds it.
        OSError: The folder cannot be written.
    """
    lock = filelock.FileLock(folder / _LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise CheckpointError(f"another program is writing to {folder}") from None
    try:
        yield
    finally:
        lock.release()

"""A run's folder: what is in it, who may write it, and files that are whole or not there."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from dreamfusion_jax.runs.checkpoint import CheckpointError

CONFIG, METRICS, PREVIEW = "config.json", "metrics.csv", "preview.png"
TURNTABLE, MESH, SCENE = "turntable.mp4", "mesh.glb", "scene.safetensors"
LAST = MESH
"""What a finished run has written last."""

_LOCK = ".lock"


def write_whole(path: Path, content: bytes | Callable[[Path], object]) -> None:
    """Writes a file under another name and renames it once it is whole.

    Args:
        path: Its name.
        content: The bytes, or a function that writes them to the path it is given.
    """
    part = path.with_name(f".part-{path.name}")
    try:
        if isinstance(content, bytes):
            part.write_bytes(content)
        else:
            content(part)
        os.replace(part, path)  # noqa: PTH105 (atomic also on Windows)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


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

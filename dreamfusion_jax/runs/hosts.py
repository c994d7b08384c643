"""A run on several hosts: all of them train it, one of them writes."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from dreamfusion_jax.runs.files import CONFIG


def is_writer() -> bool:
    """Whether this host writes a run's files and speaks for all."""
    return jax.process_index() == 0


def wait_for_all() -> None:
    """Waits until every host has come so far: one that ends alone ends the others."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("every host is here")


@contextlib.contextmanager
def own_folder(folder: Path, *, begun: bool) -> Iterator[Path]:
    """Where this host writes: on the first host the run's folder, elsewhere one that is dropped.

    All hosts do the same, each for itself, so that none waits for another; what the others write
    nobody needs. Checkpoints alone are written by all together, to the run's folder.

    Args:
        folder: Of the run, which all hosts see.
        begun: Whether the run is one to go on with.
    """
    if is_writer():
        yield folder
        return
    with tempfile.TemporaryDirectory() as place:
        own = Path(place) / folder.name
        if begun and (folder / CONFIG).exists():
            own.mkdir()
            shutil.copy(folder / CONFIG, own)
        yield own

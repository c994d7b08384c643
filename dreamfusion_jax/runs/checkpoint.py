"""Saving and resuming a run: orbax checkpoints beside the run's config.json."""

import functools
import json
import logging
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from dreamfusion_jax.files import write_whole

if TYPE_CHECKING:
    import orbax.checkpoint

_State = TypeVar("_State")
_T = TypeVar("_T")


_FULL = 1 << 20
"""Bytes; with less room than this a disk is called full."""


def _orbax() -> Any:
    """Imported where it is used, so that the help of a program comes sooner."""
    import orbax.checkpoint

    return orbax.checkpoint


_ASYNCIO = logging.getLogger("asyncio")


def _was_awaited(record: logging.LogRecord) -> bool:
    """A log filter: of many reads that fail, orbax awaits the first and asyncio logs the others."""
    return "exception was never retrieved" not in record.getMessage()


class CheckpointError(ValueError):
    """A folder is not what a run left there; the message is one line for the user."""


def save_config(folder: str | pathlib.Path, config: dict[str, Any]) -> None:
    """Writes config.json into a run's folder, which is made if needed, in one stroke."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())


def load_config(folder: str | pathlib.Path) -> dict[str, Any]:
    """Reads the config.json of a run's folder.

    Raises:
        CheckpointError: If there is no such folder, or it was not written by a run.
    """
    path = pathlib.Path(folder) / "config.json"
    if not path.parent.is_dir():
        raise CheckpointError(f"there is no folder {folder}")
    if not path.is_file():
        raise CheckpointError(f"{folder} is not the folder of a run: it has no config.json")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is not a configuration: it holds no JSON object")
    return config


class DamagedCheckpointError(CheckpointError):
    """A checkpoint is there, but cannot be read."""


class Checkpointer:
    """The last few states of a run, in `folder`/checkpoints.

    A checkpoint appears by a rename once it is whole, so that a killed save leaves those
    before it usable. States are stored as a flat table from the path of each leaf to its
    array: what is on disk depends on no class of this package or of optax.

    Attributes:
        folder: The run's folder; made by the first save.
        keep: How many checkpoints stay.
    """

    def __init__(self, folder: str | pathlib.Path, keep: int = 2):
        self.folder = pathlib.Path(folder)
        self.keep = keep
        self._failed = False

    def __enter__(self) -> "Checkpointer":
        self._hook, self._failed = sys.unraisablehook, False
        sys.unraisablehook = self._ignore_closed_loops
        _ASYNCIO.addFilter(_was_awaited)
        return self

    def __exit__(self, *_: object) -> None:
        if "_manager" in vars(self):
            self._manager.close()
        if not self._failed:  # What was cut off may still have something to report.
            sys.unraisablehook = self._hook
            _ASYNCIO.removeFilter(_was_awaited)

    def _ignore_closed_loops(self, unraisable: Any) -> None:
        """After a failure, threads of orbax report to an event loop that is closed by then.

        What failed is raised all the same; this would only print pages about nothing.
        """
        if "Event loop is closed" not in str(unraisable.exc_value):
            self._hook(unraisable)

    @functools.cached_property
    def _manager(self) -> "orbax.checkpoint.CheckpointManager":
        ocp = _orbax()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self.keep,
            enable_async_checkpointing=False,
            cleanup_tmp_directories=True,
        )
        return ocp.CheckpointManager(
            (self.folder / "checkpoints").absolute(),
            options=options,
            item_handlers=ocp.StandardCheckpointHandler(),
        )

    def save(self, step: int, state: Any) -> None:
        """Saves a pytree of arrays; returns when it is on disk.

        Raises:
            CheckpointError: The folder has a checkpoint of this or a later step, or it cannot
                be written; the checkpoints before stay as they are.
        """
        latest = self.latest_step()
        if latest is not None and step <= latest:
            raise CheckpointError(f"{self.folder} already has a checkpoint of step {latest}")
        if not self.folder.is_dir() and latest is None and "_manager" in vars(self):
            raise CheckpointError(f"the folder {self.folder} is gone")
        try:
            self._manager.save(step, args=_orbax().args.StandardSave(_flatten(state)))
        except Exception as error:  # orbax documents no exceptions for what a disk refuses.
            self._failed = True
            kept = "there is none before" if latest is None else f"that of step {latest} is kept"
            raise CheckpointError(
                f"checkpoint {step} cannot be written to {self.folder} "
                f"({_disk_trouble(self.folder, error)}); {kept}"
            ) from error

    def latest_step(self) -> int | None:
        """The step of the last checkpoint; `None` if there is none."""
        if not (self.folder / "checkpoints").is_dir():
            return None
        return self._manager.latest_step()

    def steps(self) -> list[int]:
        """The steps of all checkpoints, the last one last; empty if there are none."""
        return [] if self.latest_step() is None else sorted(self._manager.all_steps())

    def forget_after(self, step: int) -> None:
        """Deletes the checkpoints of later steps, so that a run goes on from an earlier one."""
        for later in self.steps():
            if later > step:
                self._manager.delete(later)

    def restore(self, template_state: _State, step: int | None = None) -> _State:
        """The saved state, bit by bit, in the structure and on the devices of a template.

        Args:
            template_state: A state of the same structure, shapes and dtypes; arrays or
                `jax.ShapeDtypeStruct`.
            step: The step to restore; the last one if `None`.

        Raises:
            CheckpointError: If the folder or the checkpoint is missing, does not fit the
                template or cannot be read.
        """
        steps = self._steps()
        step = steps[-1] if step is None else step
        if step not in steps:
            raise CheckpointError(f"{self.folder} has no checkpoint of step {step}, only {steps}")
        template = _flatten(template_state)
        saved = self._read(step, lambda: self._manager.item_metadata(step).tree)
        self._check_fit(step, saved, template)
        return _unflatten(self._arrays(step, template), template_state)

    def restore_newest(self, template_state: _State) -> tuple[_State, str]:
        """The newest state that can be read; damaged ones are put aside.

        Args:
            template_state: See `restore`.

        Returns:
            The state, and a line about what was damaged ("" if nothing was).

        Raises:
            CheckpointError: See `restore`, where that holds for every checkpoint.
        """
        steps, note = self._steps(), ""
        for step in reversed(steps):
            try:
                return self.restore(template_state, step), note
            except DamagedCheckpointError as error:
                if step == steps[0]:
                    raise
                note = f"{error}; going on from the one before"
                self._put_aside(step)
        raise AssertionError("unreachable: there is at least one step")

    def restore_part(self, template: _State, prefix: str) -> _State:
        """A part of the last state, such as its parameters, whatever else it holds.

        Args:
            template: Structure, shapes and dtypes of the part.
            prefix: Where in the state it is, as `jax.tree_util.keystr` writes it: ".params".

        Raises:
            CheckpointError: See `restore`.
        """
        step = self._steps()[-1]
        saved = self._read(step, lambda: dict(self._manager.item_metadata(step).tree))
        part = {prefix + name: leaf for name, leaf in _flatten(template).items()}
        self._check_fit(step, {k: v for k, v in saved.items() if k.startswith(prefix)}, part)
        whole = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in saved.items()}
        arrays = self._arrays(step, whole)
        return _unflatten({name.removeprefix(prefix): x for name, x in arrays.items()}, template)

    def _arrays(self, step: int, template: dict[str, Any]) -> Mapping[str, Any]:
        """A checkpoint's arrays; those of which only the shape is asked for, on the first device.

        Without a place orbax wants the devices back that saved them.
        """
        here = SingleDeviceSharding(jax.local_devices()[0])
        placed = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here)
            if getattr(leaf, "sharding", None) is None
            else leaf
            for name, leaf in template.items()
        }
        return self._read(
            step, lambda: self._manager.restore(step, args=_orbax().args.StandardRestore(placed))
        )

    def _steps(self) -> list[int]:
        if not self.folder.is_dir():
            raise CheckpointError(f"there is no folder {self.folder}")
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"{self.folder} has no checkpoints")
        return steps

    def _read(self, step: int, read: Callable[[], _T]) -> _T:
        try:
            return read()
        except Exception as error:  # orbax documents no exceptions for damaged files.
            self._failed = True
            raise DamagedCheckpointError(
                f"checkpoint {step} in {self.folder} cannot be read: {_first_line(error)}"
            ) from error

    def _put_aside(self, step: int) -> None:
        """Renames a damaged checkpoint, so that one of its step can be written again."""
        aside = self.folder / f"damaged-checkpoint-{step}"
        shutil.rmtree(aside, ignore_errors=True)
        (self.folder / "checkpoints" / str(step)).rename(aside)
        self._manager.reload()

    def _check_fit(self, step: int, saved: dict[str, Any], template: dict[str, Any]) -> None:
        """Compares names, shapes and dtypes, and names the first difference."""
        for name in dict.fromkeys([*template, *saved]):
            here, there = (
                f"{tree[name].dtype} {list(tree[name].shape)}" if name in tree else "absent"
                for tree in (template, saved)
            )
            if here != there:
                raise CheckpointError(
                    f"checkpoint {step} in {self.folder} is of another configuration: "
                    f"{name} is {there} there and {here} here"
                )


def _flatten(state: Any) -> dict[str, Any]:
    """Path to leaf; without leaves of no elements, which orbax cannot store."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves if leaf.size}


def _unflatten(arrays: Mapping[str, Any], template: _State) -> _State:
    """The template with each leaf looked up by its path."""

    def lookup(path: Any, leaf: Any) -> jax.Array:
        if leaf.size == 0:
            return jnp.zeros(leaf.shape, leaf.dtype)
        return arrays[jax.tree_util.keystr(path)]

    return jax.tree_util.tree_map_with_path(lookup, template)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def _disk_trouble(folder: pathlib.Path, error: Exception) -> str:
    """Why a checkpoint could not be written, as far as can be told."""
    if not folder.is_dir():
        return "the folder is gone"
    if not os.access(folder, os.W_OK):
        return "the folder is read-only"
    text = str(error)
    if "No space left" in text or shutil.disk_usage(folder).free < _FULL:
        return "the disk is full"
    return _first_line(error)

"""What takes long to find out and is always the same, kept on disk beside JAX's compiled programs.

JAX's cache saves the compiling of a program, but not the tracing of it, which takes several seconds
for a training step. What is kept here is found before anything is traced, by what it was made from:
code, settings, shapes, versions and device.
"""

import contextlib
import functools
import hashlib
import inspect
import os
import pickle
import platform
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

import jax
import numpy as np
from jax import export
from jax.core import Tracer

from dreamfusion_jax.described import NotDescribedError, described
from dreamfusion_jax.files import write_whole
from dreamfusion_jax.sharing import count_devices

_P = ParamSpec("_P")
_R = TypeVar("_R")

MAX_BYTES = 1 << 30
"""Bound of what is kept; what was used longest ago goes first."""

_PACKAGE = Path(__file__).parent
_NO_MATTER = ("cache", "log", "profil", "traceback")
"""Words of settings of JAX that no program depends on."""
_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "DREAMFUSION_JAX_")
"""Beginnings of variables that programs depend on."""


@functools.cache
def _code() -> str:
    """A digest of this package's source."""
    digest = hashlib.sha256()
    for file in sorted(_PACKAGE.rglob("*.py")):
        digest.update(f"{file.relative_to(_PACKAGE)}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


@functools.cache
def _machine() -> str:
    """Versions, and the device that functions are traced for."""
    import flax
    import jaxlib
    import optax

    device = jax.devices()[0]
    versions = [m.__version__ for m in (jax, jaxlib, flax, optax, np)]
    return f"{versions} {platform.python_version()} {device.platform} {device.device_kind}"


def _ways() -> tuple[Hashable, ...]:
    """Everything outside of the arguments that changes how JAX traces and compiles."""
    settings = jax.config.values.items()
    changed = [item for item in settings if not any(word in item[0] for word in _NO_MATTER)]
    return (*changed, *(item for item in os.environ.items() if item[0].startswith(_VARIABLES)))


def _folder() -> Path | None:
    """Where things are kept: where JAX keeps its own; None where that is nowhere, or far away."""
    # Type checkers do not know JAX's settings.
    given = getattr(jax.config, "jax_compilation_cache_dir", None)
    if not given or "://" in given or not getattr(jax.config, "jax_enable_compilation_cache", True):
        return None
    return Path(given) / "whole"


def remembered(name: str, of: Any, find: Callable[[], _R]) -> _R:
    """What `find` gives, which depends on nothing but `of` and this package.

    Args:
        name: Of what is found.
        of: What it is found from.
        find: Asked where it is not known yet. What it gives can be pickled.
    """
    folder = _folder()
    if folder is None:
        return find()
    try:
        path = folder / _file_name(name, described(of))
    except NotDescribedError:
        return find()
    return _known(path, find)


def _known(path: Path, find: Callable[[], _R]) -> _R:
    """What a file holds; found, and kept there, where it holds nothing that can be read."""
    known = _read(path)
    if known is None:
        known = (find(),)
        _write(path, known)
    return known[0]


def _file_name(name: str, what: str) -> str:
    whole = "\n".join((name, what, _code(), _machine(), str(_ways())))
    return f"{name}-{hashlib.sha256(whole.encode()).hexdigest()}"


def _read(path: Path) -> Any:
    """What a file holds; None where there is none, or it cannot be read."""
    try:
        held = pickle.loads(path.read_bytes())
        os.utime(path)
    except Exception:  # Whatever is wrong with the file: it is written again.
        return None
    return held


def _write(path: Path, held: Any) -> None:
    """Keeps something, and lets go of what was used longest ago; does nothing where it cannot."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        content = pickle.dumps(held)
        write_whole(path, content)
        files = sorted((f.stat().st_mtime, f.stat().st_size, f) for f in path.parent.iterdir())
        excess = sum(size for _, size, _ in files) - MAX_BYTES
        for _, size, file in files:
            if excess <= 0:
                break
            file.unlink()
            excess -= size


def _kind(leaf: Any) -> tuple[Hashable, ...]:
    """What a program depends on of an argument: its shape, type, and how devices share it."""
    return jax.typeof(leaf), leaf.sharding if count_devices(leaf) > 1 else None


class Kept(Generic[_P, _R]):
    """A jitted function whose traces are kept on disk. Made by `kept`."""

    def __init__(
        self, function: Callable[_P, _R], static: tuple[str, ...], donate: str | None, how: Any
    ) -> None:
        self.jitted = jax.jit(function, static_argnames=static, donate_argnames=donate, **how)
        self._traced = jax.jit(function, static_argnames=static)  # Within what `export` jits.
        self._function = function
        self._static, self._donated, self._how = static, donate, how
        parameters = inspect.signature(function).parameters
        self._positions = list(parameters)
        self._usual = {
            name: parameter.default
            for name, parameter in parameters.items()
            if parameter.default is not parameter.empty
        }
        self._programs: dict[Hashable, Callable[..., _R]] = {}
        functools.update_wrapper(self, function)

    def __call__(self, *args: _P.args, **named: _P.kwargs) -> _R:
        """As the function; its static arguments are given by name."""
        given = self._named(args, named)
        arrays = {name: value for name, value in given.items() if name not in self._static}
        leaves, tree = jax.tree.flatten(arrays)
        folder = _folder()
        within = any(isinstance(leaf, Tracer) for leaf in leaves)
        if folder is None or within or jax.process_count() > 1:
            return self.jitted(*args, **named)
        static = {name: value for name, value in given.items() if name in self._static}
        key = (*static.items(), tree, *map(_kind, leaves), _ways())
        if key not in self._programs:
            self._programs[key] = self._program(folder, static, arrays)
        return self._programs[key](arrays)

    def trace(self, *args: _P.args, **named: _P.kwargs) -> Any:
        """As of what `jax.jit` gives; a call need not repeat it."""
        return self._traced.trace(**self._named(args, named))

    def lower(self, *args: _P.args, **named: _P.kwargs) -> Any:
        """As of what `jax.jit` gives."""
        return self.jitted.lower(*args, **named)

    def _named(self, args: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        """All arguments by name."""
        return self._usual | dict(zip(self._positions, args, strict=False)) | named

    def _program(
        self, folder: Path, static: dict[str, Any], arrays: dict[str, Any]
    ) -> Callable[[dict[str, Any]], _R]:
        """The function for some settings and shapes, its trace read or made."""
        leaves, tree = jax.tree.flatten(arrays)
        try:
            shapes = [str(_kind(leaf)) for leaf in leaves]
            what = described([self._function, static, str(tree), shapes])
            path = folder / _file_name(self._function.__name__.strip("_"), what)
            function = functools.partial(self._traced, **static)
            traced, skeleton = _known(path, lambda: _trace(function, arrays))
        except (ValueError, NotImplementedError):  # Of values or operations that cannot be kept.
            return lambda arrays: self.jitted(**static, **arrays)
        donated = {
            name: jax.tree.map(lambda _, chosen=name == self._donated: chosen, value)
            for name, value in arrays.items()
        }
        places = [at for at, chosen in enumerate(jax.tree.leaves(donated)) if chosen]
        # Also where it has just been traced, so that every start runs one and the same program.
        flat = jax.jit(export.deserialize(traced).call, donate_argnums=places, **self._how)
        out = jax.tree.structure(skeleton)
        return lambda arrays: jax.tree.unflatten(out, flat(*jax.tree.leaves(arrays)))


def _trace(function: Callable[..., Any], arrays: dict[str, Any]) -> tuple[bytearray, Any]:
    """A function's exported trace, and its result with a number for each array.

    Raises:
        ValueError, NotImplementedError: It has operations that cannot be kept, or is for other
            devices than those that the arrays are on.
    """
    leaves, tree = jax.tree.flatten(arrays)
    out = []

    def flat(*leaves: Any) -> list[Any]:
        result, structure = jax.tree.flatten(function(**jax.tree.unflatten(tree, leaves)))
        out.append(structure)
        return result

    traced = export.export(jax.jit(flat))(*leaves)
    if traced.nr_devices != max(map(count_devices, leaves), default=1):
        raise ValueError(f"{traced.nr_devices} devices cannot be found from the arrays")
    (structure,) = out
    return traced.serialize(), jax.tree.unflatten(structure, range(structure.num_leaves))


def kept(
    *static: str, donate: str | None = None, **how: Any
) -> Callable[[Callable[_P, _R]], Kept[_P, _R]]:
    """Jits a function whose traces are kept on disk, where there is a single host.

    No result is weakly typed, and all are bound to the devices that they are on: what is to be used
    beside arrays on several, `sharing.replicate` puts there.

    Args:
        static: Names of its static arguments. They are part of what a trace is found by: where
            one cannot be `described`, the function is traced as usual.
        donate: Name of an argument whose memory the result may take.
        how: Else as of `jax.jit`.
    """
    return lambda function: Kept(function, static, donate, how)

"""What is kept between programs: the user's cache folder, and JAX's compiled programs in it."""

import os
from pathlib import Path

import jax

MAX_BYTES = 2 << 30
"""Bound of the compiled programs; those that were used longest ago go first."""

LEAST_SECONDS = 0.03
"""Programs that compile faster than this are not worth a file: each one that is added makes JAX
look at all that there are."""

_LEVEL = "xla_backend_optimization_level"

QUICKLY_COMPILED = {} if _LEVEL in os.environ.get("XLA_FLAGS", "") else {_LEVEL: 1}
"""Options of the compiler for programs that are asked a few times in a run: they compile in half
the time. A training step that is compiled so takes a seventh longer. None where $XLA_FLAGS has a
level of its own."""


def user_cache(name: str) -> Path:
    """A folder of this package in $XDG_CACHE_HOME or ~/.cache; it need not exist."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "dreamfusion_jax" / name


def keep_compiled_programs() -> Path | None:
    """Lets JAX keep compiled programs on disk, so that the next run starts sooner.

    The folder is $JAX_COMPILATION_CACHE_DIR where that is set, which JAX reads by itself and
    whose bounds are then left alone; else one in the user's cache.

    Returns:
        The folder, or None where none can be written: everything then works without.
    """
    given = getattr(jax.config, "jax_compilation_cache_dir", None)  # Unknown to type checkers.
    if given:
        return Path(given)
    folder = user_cache("compiled")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_compilation_cache_max_size", MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    return folder

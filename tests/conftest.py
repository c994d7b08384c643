"""Settings of JAX under test: no silent rank promotion, and compiled programs kept between runs."""

import getpass
import os
import pathlib
import tempfile

import jax

jax.config.update("jax_enable_x64", False)
jax.config.update("jax_numpy_rank_promotion", "raise")

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    folder = pathlib.Path(tempfile.gettempdir()) / f"dreamfusion-jax-tests-{getpass.getuser()}"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

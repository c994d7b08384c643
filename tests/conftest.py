"""Settings of JAX under test: no silent rank promotion, and compiled programs are kept."""

import getpass
import os
import pathlib
import tempfile

import jax

jax.config.update("jax_enable_x64", False)
jax.config.update("jax_numpy_rank_promotion", "raise")

# In the environment as well, for the programs that tests start.
CACHE = pathlib.Path(tempfile.gettempdir()) / f"dreamfusion-jax-tests-{getpass.getuser()}"
folder = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
seconds = os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
jax.config.update("jax_compilation_cache_dir", folder)
jax.config.update("jax_persistent_cache_min_compile_time_secs", float(seconds))

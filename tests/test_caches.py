"""Where compiled programs are kept, and that nothing depends on it."""

import os
import subprocess
import sys
from pathlib import Path

from dreamfusion_jax.caches import user_cache

ROOT = Path(__file__).parents[1]
PROGRAM = """
import jax, jax.numpy as jnp
from dreamfusion_jax import caches
caches.LEAST_SECONDS = 0.0
print(caches.keep_compiled_programs())
print(float(jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x))(jnp.ones((8, 8)))[0, 0]))
"""


def start(**variables):
    """Runs the program with these variables and without those that tests set for themselves."""
    kept = {k: v for k, v in os.environ.items() if "COMPILATION" not in k and "CACHE" not in k}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**kept, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    folder, value = result.stdout.split()
    return folder, float(value), result.stderr


def test_programs_are_kept_in_the_users_cache_and_used_again(tmp_path):
    folder, value, _ = start(XDG_CACHE_HOME=str(tmp_path))
    assert folder == str(tmp_path / "dreamfusion_jax" / "compiled")
    entries = {path.name for path in Path(folder).iterdir() if path.name.endswith("-cache")}
    assert entries
    assert start(XDG_CACHE_HOME=str(tmp_path))[1] == value
    assert entries == {p.name for p in Path(folder).iterdir() if p.name.endswith("-cache")}


def test_a_folder_that_jax_was_given_is_taken(tmp_path):
    mine = tmp_path / "mine"
    folder, *_ = start(JAX_COMPILATION_CACHE_DIR=str(mine), XDG_CACHE_HOME=str(tmp_path))
    assert folder == str(mine)
    assert not (tmp_path / "dreamfusion_jax").exists()


def test_without_a_folder_that_can_be_written_all_works(tmp_path):
    (tmp_path / "file").write_text("in the way")
    folder, value, errors = start(XDG_CACHE_HOME=str(tmp_path / "file"))
    assert folder == "None" and value > 0.0 and not errors


def test_the_users_cache_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache("compiled") == tmp_path / "dreamfusion_jax" / "compiled"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert user_cache("x") == Path.home() / ".cache" / "dreamfusion_jax" / "x"

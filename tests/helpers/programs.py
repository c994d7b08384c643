"""Programs as their users meet them, but for the four seconds that each spends on imports."""

import contextlib
import functools
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).parents[2]
_IMPORTED = [
    *("jax", "flax.linen", "optax", "orbax.checkpoint", "mediapy", "trimesh", "skimage.measure"),
    *("safetensors.numpy", "tyro", "rich.progress", "dreamfusion_jax.runs.run", __name__),
]
"""By the process that programs are forked from, which starts no thread and asks for no device."""


@functools.cache
def _context():
    """Starts that process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, (ROOT, ROOT / "tests"))))
        forkserver.ensure_running()
    return context


def _become(module, arguments, environment, said, errors):
    """`python -m`, within a forked process."""
    for number, path in ((1, said), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    if "JAX_PLATFORMS" in environment:  # JAX, which is imported, does not look at it again.
        jax.config.update("jax_platforms", environment["JAX_PLATFORMS"])
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


class Program:
    """`python -m module arguments`, with what tests ask of a `subprocess.Popen`.

    Of the variables that JAX reads when it is imported it obeys JAX_PLATFORMS alone.
    """

    def __init__(self, module, *arguments, **environment):
        self._texts = tempfile.TemporaryDirectory()
        paths = [Path(self._texts.name) / name for name in ("said", "errors")]
        for path in paths:
            path.touch()
        self._paths = paths
        words = (module, [*map(str, arguments)], {**os.environ, **environment}, *paths)
        self._process = _context().Process(target=_become, args=words)
        self._process.start()

    @property
    def returncode(self):
        """As for `subprocess.Popen`."""
        return self._process.exitcode

    def poll(self):
        """As for `subprocess.Popen`."""
        return self._process.exitcode

    def send_signal(self, number):
        """As for `subprocess.Popen`: nothing where the program has come to its end."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def communicate(self, timeout=600):
        """What it said, and what it said of errors; kills it where it does not end."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.send_signal(signal.SIGKILL)
            self._process.join()
            raise subprocess.TimeoutExpired(self._paths, timeout)
        return tuple(path.read_text(encoding="utf-8") for path in self._paths)


def command(program, *arguments, **environment):
    """Runs `python -m experiments.program` to its end."""
    started = Program(f"experiments.{program}", *arguments, **environment)
    said, errors = started.communicate()
    return subprocess.CompletedProcess(program, started.returncode, said, errors)


def refused(main, capsys, *arguments):
    """Runs a program's `main` in this process; returns the one line of its refusal."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]

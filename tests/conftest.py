"""Settings under test: a thread a worker, no silent promotion, compilation that is quick."""

import gc
import getpass
import os
import pathlib
import tempfile

# Before JAX, NumPy and PyTorch are imported. pytest-xdist starts a worker for each core, and
# more threads than cores only wait for each other. For the programs that tests start as well.
os.environ.setdefault("OMP_NUM_THREADS", "1")
flags = os.environ.get("XLA_FLAGS", "")
if "multi_thread_eigen" not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()

# Shared by the workers, by the programs that tests start and by the next run. With a largest
# size, entries are written under a lock.
CACHE = pathlib.Path(tempfile.gettempdir()) / f"dreamfusion-jax-test-programs-{getpass.getuser()}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(2**30))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")

# No silent promotion, nor in the programs that tests start, which then find what was compiled here.
os.environ["JAX_ENABLE_X64"] = "false"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["JAX_NUMPY_DTYPE_PROMOTION"] = "strict"

import jax
import pytest
from helpers.browser import chromium

# Tracing makes millions of objects that stay: to look for garbage among them after every 700 took a
# twentieth of the time.
gc.set_threshold(100_000, 10, 10)

# Of a machine with many cores: each worker takes a gigabyte or two, and half a minute to start.
MOST_WORKERS = 8


# Nearly all of a test's time went into compiling programs that run for a moment. Inherited by the
# programs that tests start. What runs for long asks for `helpers.compiling.compile_well`.
HURRY = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if jax.__version_info__ < (0, 11):  # Later ones have no other emitters, and stop at the name.
    HURRY.append("--xla_cpu_use_fusion_emitters=false")


def chosen(config, mark):
    """Whether tests with this mark are asked for."""
    return mark in config.option.markexpr and f"not {mark}" not in config.option.markexpr


def pytest_configure(config):
    """Before anything is compiled. The slow proofs run for long: they are compiled well."""
    flags = os.environ["XLA_FLAGS"].split()
    if not chosen(config, "slow"):
        flags += [flag for flag in HURRY if flag not in flags]  # A worker has them already.
    os.environ["XLA_FLAGS"] = " ".join(flags)
    if chosen(config, "figures"):  # They share what takes minutes, which must not be made twice.
        config.option.dist = "loadfile"


def pytest_xdist_auto_num_workers(config):
    """A worker for each core that we may use.

    None for the slow proofs, which fill the memory, and for a browser, which draws on all cores.
    """
    if chosen(config, "slow") or chosen(config, "browser"):
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, MOST_WORKERS)


@pytest.fixture(autouse=True, scope="module")
def programs_of_a_file():
    """Forgets them after its last test, as others seldom ask for them.

    Each compiled program keeps what it was compiled from. With some thousand of them another one
    takes twice as long, and a process three times the memory.
    """
    yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def browser():
    """One for all tests of a file: a thread can have no second one beside it."""
    with chromium() as program:
        yield program

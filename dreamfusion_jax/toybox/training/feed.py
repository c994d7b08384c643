"""Batches drawn while those before are learned from: by a thread, or by other processes.

Processes are for a device that learns faster than one core draws.
"""

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from multiprocessing.queues import Queue
from typing import TypeVar

from dreamfusion_jax.toybox.tokenizer import build_tokenizer
from dreamfusion_jax.toybox.training.data import Batches, Settings
from dreamfusion_jax.toybox.training.environment import variable

AHEAD = 4
"""Batches that each process draws before they are asked for."""

Batch = TypeVar("Batch")


@contextlib.contextmanager
def drawn_ahead(draw: Callable[[int], Batch], first: int, total: int) -> Iterator[Iterator[Batch]]:
    """Draws each batch in a thread while the one before is learned from.

    Args:
        draw: Makes the batch of a step.
        first: Step of the first batch.
        total: Step before which the batches end.

    Yields:
        The batches.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        yield _one_ahead(pool, draw, first, total)


def _one_ahead(
    pool: Executor, draw: Callable[[int], Batch], first: int, total: int
) -> Iterator[Batch]:
    following = pool.submit(draw, first)
    for step in range(first, total):
        batch = following.result()
        if step + 1 < total:
            following = pool.submit(draw, step + 1)
        yield batch


@contextlib.contextmanager
def drawn_elsewhere(settings: Settings, first: int, workers: int) -> Iterator[Iterator[tuple]]:
    """Draws batches by number (`Batches`) in processes of their own, until the context is left.

    Args:
        settings: Of the training.
        first: Step of the first batch.
        workers: Number of processes; the n-th draws every batch whose turn is its.

    Yields:
        The batches of the steps from `first` on, without end.
    """
    context = multiprocessing.get_context("spawn")
    queues = [context.Queue(maxsize=AHEAD) for _ in range(workers)]
    with variable("JAX_PLATFORMS", "cpu"):  # They leave the accelerator alone.
        processes = [
            context.Process(target=_draw, args=(settings, first + n, workers, queue), daemon=True)
            for n, queue in enumerate(queues)
        ]
        for process in processes:
            process.start()
    try:
        yield _in_turn(queues)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _draw(settings: Settings, first: int, stride: int, queue: "Queue[tuple]") -> None:
    batches, step = Batches(settings, build_tokenizer(), by_number=True), first
    while True:
        queue.put(batches.plan(step))
        step += stride


def _in_turn(queues: list["Queue[tuple]"]) -> Iterator[tuple]:
    while True:
        for queue in queues:
            yield queue.get()

"""What a training of the embedded prior says while it runs, whatever does its arithmetic."""

import contextlib
import time
from collections.abc import Iterator
from typing import TypeVar

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Batch = TypeVar("Batch")

WAITED = 0.1
"""Share of the time that is spent waiting for pictures above which a report says so."""


class Report(contextlib.AbstractContextManager):
    """The progress bar: step, mean loss since the last report, pictures a second, time left.

    Where there is no terminal, every report is a line.

    Args:
        console: Where to write.
        first: Steps done.
        total: Length of the training.
        batch_size: Pictures in a step.

    Attributes:
        mean: Mean loss of the last report.
        speed: Pictures a second since the report before.
        pace: Steps a second since the first, which is where all is compiled; 0 until known.
    """

    def __init__(self, console: Console, first: int, total: int, batch_size: int) -> None:
        self.console, self.batch_size = console, batch_size
        self.mean, self.speed, self.pace = float("nan"), 0.0, 0.0
        self._losses: list[jax.typing.ArrayLike] = []
        self._waited = 0.0
        self._first = first
        self._since: tuple[int, float] | None = None
        self._began: tuple[int, float] = (first, 0.0)
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._bar.add_task("", total=total, completed=first, note="compiling")

    def __enter__(self) -> "Report":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def add(self, loss: jax.typing.ArrayLike) -> None:
        """Takes the loss of a step, without waiting for it."""
        self._losses.append(loss)
        if self._since is None:
            jax.block_until_ready(loss)  # The clock starts when all is compiled.
            self._since = self._began = self._first + 1, time.perf_counter()
            self._waited = 0.0

    def waiting(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The same batches; the time until each is there is counted."""
        began = time.perf_counter()
        for batch in batches:
            self._waited += time.perf_counter() - began
            yield batch
            began = time.perf_counter()

    def write(self, step: int) -> float:
        """Waits for the steps since the last report, shows them, and returns their mean loss."""
        if self._losses and self._since is not None:
            self.mean = float(np.mean(jax.device_get(self._losses)))
            (first, began), now = self._since, time.perf_counter()
            if step > first:
                self.speed = (step - first) * self.batch_size / (now - began)
                self.pace = (step - self._began[0]) / (now - self._began[1])
            note = f"loss {self.mean:.4f}  {self.speed:.0f} pictures/s"
            if (share := self._waited / (now - began)) > WAITED:
                note += f" ({share:.0%} of the time waiting for pictures)"
            self._bar.update(self._task, completed=step, note=note)
            if not self.console.is_terminal:
                self.console.print(f"step {step} {note}")
            self._losses, self._waited, self._since = [], 0.0, (step, now)
        return self.mean

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Takes what is done meanwhile, such as saving, out of the speed."""
        began = time.perf_counter()
        yield
        if self._since is not None:
            step, since = self._since
            self._since = step, since + time.perf_counter() - began

"""What a training says while it runs, on a terminal and elsewhere."""

import time
from collections.abc import Sequence
from types import TracebackType

import jax
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from dreamfusion_jax.runs.loop import Moment

_BAR_EVERY = 0.5
_LINE_EVERY = 5.0
"""Seconds between two updates of the bar, and between two lines where there is no terminal."""


class Reporter:
    """Says what phase a program is in and, as an observer, how its training goes.

    On a terminal it draws a bar; elsewhere (a log file, a notebook's shell, a batch job) it
    prints a plain line every few seconds.

    Args:
        shown: Names of the scalars to show.
        console: Where to write; standard output if None.
        every: Seconds between lines where there is no terminal.
    """

    def __init__(
        self,
        shown: Sequence[str] = ("opacity", "residual"),
        console: Console | None = None,
        every: float = _LINE_EVERY,
    ) -> None:
        self.console = console or Console(soft_wrap=True, highlight=False)
        self.shown, self.every = shown, every
        self._clock = Clock()
        self._bar: Progress | None = None

    def say(self, phase: str) -> None:
        """Announces a phase, at once."""
        self.console.print(phase, markup=False)
        self.console.file.flush()

    def __enter__(self) -> "Reporter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __call__(self, moment: Moment) -> None:
        """See `loop.Observer`."""
        self._clock.tick(moment)
        every = _BAR_EVERY if self.console.is_terminal else self.every
        if not (self._clock.passed(every) or moment.last or moment.stopping):
            return
        values = jax.device_get({n: moment.values[n] for n in self.shown if n in moment.values})
        self._clock.report(moment)  # After the values have been waited for.
        note = "  ".join(f"{name} {float(value):.3g}" for name, value in values.items())
        if self.console.is_terminal:
            self._draw(moment, note)
        else:
            self.say(f"step {moment.step} of {moment.total}  {self._clock.words()}  {note}")

    def _draw(self, moment: Moment, note: str) -> None:
        if self._bar is None:
            self._bar = Progress(
                BarColumn(),
                MofNCompleteColumn(),
                _Speed(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=self.console,
            )
            self._bar.add_task("", total=moment.total, completed=moment.step, note="", speed=None)
            self._bar.start()
        self._bar.update(
            self._bar.task_ids[0], completed=moment.step, note=note, rate=self._clock.speed
        )
        if moment.last:
            self.__exit__(None, None, None)


class Clock:
    """Steps a second and time left; the first step, which compiles, is not counted."""

    def __init__(self) -> None:
        self._began: tuple[int, float] | None = None
        self._reported = -float("inf")
        self.speed: float | None = None
        self.left: float | None = None

    def tick(self, moment: Moment) -> None:
        """After every step; waits for the first."""
        if self._began is None:
            jax.block_until_ready(dict(moment.values))
            self._began = moment.step, time.monotonic()

    def passed(self, seconds: float) -> bool:
        """Whether the last report is so long ago."""
        return time.monotonic() - self._reported >= seconds

    def report(self, moment: Moment) -> None:
        """Works speed and time left out."""
        assert self._began is not None
        step, began = self._began
        self._reported = time.monotonic()
        if moment.step > step:
            self.speed = (moment.step - step) / max(self._reported - began, 1e-9)
            self.left = (moment.total - moment.step) / self.speed

    def words(self) -> str:
        """Speed and time left, as people say it."""
        if self.speed is None or self.left is None:
            return "first step done"
        return f"{self.speed:.3g} steps/s  {duration(self.left)} left"


def duration(seconds: float) -> str:
    """Seconds as hours, minutes and seconds, the largest two that there are."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class _Speed(ProgressColumn):
    """Steps per second, measured without the first step."""

    def render(self, task: Task) -> Text:
        rate = task.fields.get("rate")
        return Text(f"{rate:.1f} steps/s" if rate else "")

"""A program's time, its work as XLA counts it, and the work a second."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

_LEAST, _MOST = 3, 500
"""Repetitions."""

_LIBRARIES = ("__cublas", "__cudnn")
"""What XLA calls the work that it gives to a library."""


@dataclasses.dataclass(frozen=True)
class Case:
    """Something to be timed.

    Attributes:
        name: For people.
        function: Compiled by `jax.jit` or not at all; what it returns is waited for.
        arguments: Makes its arguments.
        lower: Gives what XLA is asked about, from the same arguments; None for functions that
            are more than one program, whose work is not counted.
        dtype: What most of its products are in.
        carries: Whether the first of what it returns takes the place of its first argument, as
            of functions that donate it.
    """

    name: str
    function: Callable[..., Any]
    arguments: Callable[[], tuple[Any, ...]]
    lower: Callable[..., Any] | None = None
    dtype: str = "float32"
    carries: bool = False

    @classmethod
    def of(cls, name: str, function: Callable[..., Any], *arguments: Any, **others: Any) -> "Case":
        """A case of a function that is compiled here."""
        program = jax.jit(function)
        return cls(name, program, lambda: arguments, program.lower, **others)


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was found.

    Attributes:
        name: Of the case.
        seconds: Median.
        repeats: How many times were taken.
        flops: Floating-point operations, as XLA counts them; None if it does not. The body of a
            loop counts once, however often it runs.
        bytes: Read and written by all operations, caches aside; likewise.
        dtype: What most products are in.
    """

    name: str
    seconds: float
    repeats: int
    flops: float | None = None
    bytes: float | None = None
    dtype: str = "float32"

    @property
    def flop_rate(self) -> float | None:
        """Operations a second."""
        return None if self.flops is None else self.flops / self.seconds

    @property
    def byte_rate(self) -> float | None:
        """Bytes a second."""
        return None if self.bytes is None else self.bytes / self.seconds


class Running:
    """A case, ready: compiled and run once.

    Args:
        case: What to time.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self._arguments = case.arguments()
        self.flops, self.bytes = None, None
        if case.lower is not None:
            self.flops, self.bytes = work_of(case.lower(*self._arguments))
        self.time()

    def time(self) -> float:
        """Seconds of one run, to its end."""
        begun = time.perf_counter()
        result = self.case.function(*self._arguments)
        jax.block_until_ready(result)
        took = time.perf_counter() - begun
        if self.case.carries:
            self._arguments = (result[0], *self._arguments[1:])
        return took

    def result(self, times: Sequence[float]) -> Measured:
        """What times of it mean."""
        case = self.case
        middle = statistics.median(times)
        return Measured(case.name, middle, len(times), self.flops, self.bytes, case.dtype)


def measure(case: Case, seconds: float) -> Measured:
    """Times a case for so many seconds, but a few times at least.

    Args:
        case: What to time; its compilation is not counted.
        seconds: To spend.
    """
    running = Running(case)
    return running.result(repeat(running.time, seconds))


def repeat(once: Callable[[], float], seconds: float) -> list[float]:
    """Calls something that takes its own time, for so many seconds."""
    times: list[float] = []
    while len(times) < _LEAST or (sum(times) < seconds and len(times) < _MOST):
        times.append(once())
    return times


def work_of(lowered: Any) -> tuple[float | None, float | None]:
    """Operations and bytes of a program, where its backend counts them.

    XLA does not count what is given to a library, as products and convolutions are on a GPU. Their
    operations are those of the program before it is compiled, and bytes are not told.

    Args:
        lowered: What `jax.jit(...).lower(...)` gives.
    """
    compiled = lowered.compile()
    text = compiled.as_text()
    if any(library in text for library in _LIBRARIES):
        return _counted(lowered).get("flops"), None
    counted = _counted(compiled)
    return counted.get("flops"), counted.get("bytes accessed")


def _counted(program: Any) -> dict[str, float]:
    """XLA's analysis of a program."""
    counted = program.cost_analysis()
    if isinstance(counted, list):  # One program for each device; they are alike.
        counted = counted[0] if counted else None
    return counted or {}

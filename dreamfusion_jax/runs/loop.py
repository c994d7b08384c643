"""The loop that every training here shares, and what watches it.

A training is a state and a function that takes it one step further. What becomes of the steps
(progress, metrics, pictures, checkpoints) is the affair of observers.
"""

import contextlib
import dataclasses
import functools
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

import jax

State = TypeVar("State")

Values = Mapping[str, jax.Array | float]
"""Scalars of a step; as arrays on the device, so that nobody has to wait for them."""


@dataclasses.dataclass(frozen=True)
class Moment(Generic[State]):
    """What observers are told after a step.

    Attributes:
        step: Steps done.
        total: Length of the training.
        read: Gives the state after the step; see `state`.
        values: Scalars of the step.
        stopping: Whether the loop was asked to end here.
        asked: Tells anew whether the loop has been asked to end: an observer that waits for
            something else goes on then.
    """

    step: int
    total: int
    read: Callable[[], State]
    values: Values
    stopping: bool = False
    asked: Callable[[], int] = lambda: 0

    @property
    def state(self) -> State:
        """After the step. It is donated to the next one: keep copies, not the state."""
        return self.read()

    @property
    def last(self) -> bool:
        """Whether the training is complete."""
        return self.step == self.total

    def due(self, every: int) -> bool:
        """Whether something that happens every so many steps happens now."""
        return self.step % every == 0


Observer = Callable[[Moment[State]], None]
"""Watches a training: called after every step. An exception that it raises ends the training."""


class Stopped(Exception):
    """A training ended early because it was asked to.

    Attributes:
        step: Steps done.
        signal: The number of the signal that asked.
    """

    def __init__(self, step: int, signal: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step, self.signal = step, signal


def _same(state: State) -> State:
    return state


def iterate(
    advance: Callable[[State], tuple[State, Values]],
    state: State,
    *,
    first: int,
    total: int,
    observers: Sequence[Observer[State]] = (),
    stop: Callable[[], int] = lambda: 0,
) -> State:
    """Takes a state from step `first` to step `total`.

    Args:
        advance: One step of the training; may donate its argument.
        state: Where the training stands.
        first: Steps done.
        total: Length of the training.
        observers: Told of every step.
        stop: Asked after every step for the number of a signal that has come: the loop then
            ends there, once the observers know. 0 goes on.

    Returns:
        The last state.

    Raises:
        Stopped: A signal came before the last step.
    """
    for step in range(first + 1, total + 1):
        state, values = advance(state)
        asked = stop() if step < total else 0
        read = functools.partial(_same, state)
        moment = Moment(step, total, read, values, stopping=bool(asked), asked=stop)
        for observer in observers:
            observer(moment)
        if asked:
            raise Stopped(step, asked)
    return state


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[], int]]:
    """Lets SIGINT (Ctrl-C) and SIGTERM finish the step in hand; a second one ends at once.

    Only the main thread may set signal handlers; elsewhere nothing is changed.

    Yields:
        The `stop` of `iterate`.

    Raises:
        KeyboardInterrupt: On the second signal.
    """
    received: list[int] = []

    def receive(number: int, _: object) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)

    before = {}
    with contextlib.suppress(ValueError):  # Not the main thread.
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, receive)
    try:
        yield lambda: received[0] if received else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

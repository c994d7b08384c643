"""The loop that every training shares, and how signals end it."""

import os
import signal

import jax.numpy as jnp
import pytest

from dreamfusion_jax.runs.loop import Moment, Stopped, iterate, stop_on_signals


def count(state):
    return state + 1, {"value": jnp.asarray(float(state))}


def test_observers_see_every_step_in_order_with_the_state_after_it():
    seen = []

    def first(moment):
        seen.append(("first", moment.step, moment.state, float(moment.values["value"])))

    def second(moment):
        seen.append(("second", moment.step, moment.last, moment.due(2)))

    assert iterate(count, 5, first=3, total=5, observers=[first, second]) == 7
    assert seen == [
        ("first", 4, 6, 5.0),
        ("second", 4, False, True),
        ("first", 5, 7, 6.0),
        ("second", 5, True, False),
    ]


def test_a_finished_training_takes_no_step():
    assert iterate(lambda state: pytest.fail("a step"), 5, first=5, total=5) == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_loop_after_the_step_in_hand(number):
    before, seen = signal.getsignal(number), []

    def advance(state):
        if state == 2:
            os.kill(os.getpid(), number)
        return count(state)

    with stop_on_signals() as stop, pytest.raises(Stopped) as stopped:
        iterate(advance, 0, first=0, total=9, observers=[seen.append], stop=stop)
    assert (stopped.value.step, stopped.value.signal) == (3, number)
    assert [moment.stopping for moment in seen] == [False, False, True]
    assert signal.getsignal(number) == before


def test_a_signal_at_the_last_step_changes_nothing():
    def advance(state):
        os.kill(os.getpid(), signal.SIGTERM)
        return count(state)

    with stop_on_signals() as stop:
        assert iterate(advance, 0, first=0, total=1, stop=stop) == 1


def test_a_second_signal_ends_at_once():
    with stop_on_signals(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("went on")


def test_an_observer_that_fails_ends_the_loop():
    def fail(moment: Moment):
        raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        iterate(count, 0, first=0, total=3, observers=[fail])

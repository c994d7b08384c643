"""What a training says where there is a terminal and where there is none."""

import io

import jax.numpy as jnp
from rich.console import Console

from dreamfusion_jax.runs.loop import iterate
from dreamfusion_jax.runs.progress import Reporter, duration


def console_to(file):
    return Console(file=file, width=200)


def train(reporter, steps):
    def advance(state):
        return state + 1, {"opacity": jnp.asarray(0.25), "residual": jnp.asarray(3.0)}

    iterate(advance, 0, first=0, total=steps, observers=[reporter])


def test_plain_lines_where_there_is_no_terminal():
    file = io.StringIO()
    with Reporter(console=console_to(file), every=0.0) as reporter:
        reporter.say("compiling [x]")
        train(reporter, 4)
    phase, first, *_, last = file.getvalue().splitlines()
    assert phase == "compiling [x]"
    assert first == "step 1 of 4  first step done  opacity 0.25  residual 3"
    assert last.startswith("step 4 of 4  ") and "steps/s" in last and "0 s left" in last
    assert len(file.getvalue().splitlines()) == 5


def test_lines_come_every_few_seconds_and_at_the_end():
    file = io.StringIO()
    with Reporter(console=console_to(file), every=3600.0) as reporter:
        train(reporter, 50)
    assert [line.split("  ")[0] for line in file.getvalue().splitlines()] == [
        "step 1 of 50",
        "step 50 of 50",
    ]


def test_a_bar_on_a_terminal():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    file = Terminal()
    with Reporter(console=console_to(file)) as reporter:
        train(reporter, 3)
    assert "3/3" in file.getvalue() and "opacity 0.25" in file.getvalue()


def test_durations_in_words():
    assert [duration(s) for s in (0.4, 59.0, 61.0, 3600.0, 7322.0)] == [
        "0 s",
        "59 s",
        "1 min 1 s",
        "1 h 0 min",
        "2 h 2 min",
    ]

"""Programs as their users meet them."""

import subprocess
import sys

import pytest


def command(program, *arguments):
    """Runs a program by its real command."""
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{program}", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )


def refused(main, capsys, *arguments):
    """Runs a program's `main` in this process; returns the one line of its refusal."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]

"""Every program refuses what it does not know in one line."""

import importlib
import re
import signal
from pathlib import Path

import pytest

from dreamfusion_jax.runs.loop import Stopped
from experiments.command_line import one_line_errors

FOLDER = Path(__file__).parents[2] / "experiments"
# One that speaks with argparse, for machines without tyro; its messages name the program.
PLAIN = {"train_toybox_gpu"}
NEEDED = {"export": ["a-run"]}
PROGRAMS = sorted(
    path.relative_to(FOLDER).with_suffix("").as_posix().replace("/", ".")
    for path in FOLDER.rglob("*.py")
    if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
)


def test_a_training_that_was_stopped_says_so_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop, one_line_errors():
        raise Stopped(7, signal.SIGTERM)
    assert stop.value.code == 128 + 15
    assert capsys.readouterr().err == ("stopped after step 7; the same command goes on from here\n")


def test_there_are_programs() -> None:
    assert {"run", "evaluate", "draw_bank", "figures.all"} <= set(PROGRAMS)


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name not in PLAIN])
@pytest.mark.parametrize("words", [["--none-such", "1"], ["--output"]], ids=["unknown", "missing"])
def test_an_option_that_cannot_be_read_is_named_in_one_line(
    name: str, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    program = importlib.import_module(f"experiments.{name}")
    with pytest.raises(SystemExit) as stop:
        program.main([*NEEDED.get(name, []), *words])
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert re.fullmatch(r"error: .+\n", told) and words[0].lstrip("-") in told
    assert "---" not in told

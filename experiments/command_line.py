"""How every program here speaks, and how it ends when it cannot go on."""

import contextlib
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

from dreamfusion_jax.checks import SettingError
from dreamfusion_jax.devices import (
    DeviceError,
    OutOfMemoryError,
    describe_devices,
    unused_accelerator,
)
from dreamfusion_jax.runs.loop import Stopped
from dreamfusion_jax.toybox.world import UnknownNameError

_T = TypeVar("_T")

_BROKEN_PIPE = 128 + 13
"""What shells make of SIGPIPE."""


class UsageError(ValueError):
    """A request that cannot be carried out; the message is one line for the user."""


def as_program(main: Callable[[], None]) -> None:
    """Runs a program as the process that it is, which ends at once after its help.

    To take down all that is imported lasts half as long as to import it.
    """
    try:
        main()
    except SystemExit as end:
        if end.code:
            raise
        with contextlib.suppress(OSError):  # Nobody may be left to read it.
            sys.stdout.flush()
        os._exit(0)


def say(phase: str) -> None:
    """Prints what a program is at, at once also where the output is no terminal."""
    print(phase, flush=True)


def say_devices(say: Callable[[str], None] = say) -> None:
    """Says what the program runs on, and what to do about an accelerator that is not used."""
    for line in (describe_devices(), unused_accelerator()):
        if line is not None:
            say(line)


def parsed(parse: Callable[[], _T]) -> _T:
    """Calls a parser of tyro's; what it cannot read becomes one line, not a page.

    Raises:
        UsageError: Says what is wrong, and with which option.
    """
    page = io.StringIO()
    try:
        with contextlib.redirect_stderr(page):
            return parse()
    except SettingError as wrong:  # Of settings whose options have no name before a dot.
        raise UsageError(f"--{wrong.name.replace('_', '-')} {wrong.reason}") from None
    except SystemExit as end:
        if not end.code:  # Help was asked for.
            raise
        parsing = end.__context__
        wrong = parsing and (parsing.__cause__ or parsing.__context__)
        if isinstance(wrong, SettingError):
            # tyro's error ends with the dotted place of the settings that could not be made.
            place = str(parsing.args[-1] if parsing and parsing.args else "")
            parts = [part for part in place.split(".") if part not in ("", "config")]
            option = ".".join([*parts, wrong.name]).replace("_", "-")
            raise UsageError(f"--{option} {wrong.reason}") from None
        # The first lines in tyro's box say what is wrong; a rule and help follow.
        words = page.getvalue().split("│ ───")[0].translate(dict.fromkeys(map(ord, "│╭╮╰╯─")))
        words = " ".join(re.sub("-{3,}", "", words).split())  # A rule, where there are no boxes.
        raise UsageError(
            words[words.find("Error parsing") :] if "Error parsing" in words else words
        ) from None


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns the errors of bad input, files and networks into one line and exit code 2.

    Ctrl-C, where a program does not wait for it, becomes a word and exit code 130; a training
    that was asked to end becomes a line that says how to go on, and the signal's exit code.
    """
    try:
        yield
    except BrokenPipeError:  # Whoever read the output has gone, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(_BROKEN_PIPE) from None
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        _refuse(reason)
    except (ValueError, UnknownNameError, OutOfMemoryError, DeviceError) as error:
        _refuse(str(error))
    except Stopped as stopped:
        print(f"{stopped}; the same command goes on from here", file=sys.stderr)
        raise SystemExit(128 + stopped.signal) from None
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None


def _refuse(reason: str) -> None:
    print(f"error: {' '.join(reason.split())}", file=sys.stderr)
    raise SystemExit(2) from None

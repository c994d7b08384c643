"""How every program here speaks, and how it ends when it cannot go on."""

import contextlib
import sys
from collections.abc import Iterator

from dreamfusion_jax.toybox.world import UnknownNameError


def say(phase: str) -> None:
    """Prints what a program is at, at once also where the output is no terminal."""
    print(phase, flush=True)


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns the errors of bad input, files and networks into one line and exit code 2."""
    try:
        yield
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}" if error.filename else str(error)
        _refuse(reason)
    except (ValueError, UnknownNameError) as error:
        _refuse(str(error))


def _refuse(reason: str) -> None:
    print(f"error: {' '.join(reason.split())}", file=sys.stderr)
    raise SystemExit(2) from None

"""How every program here ends when it cannot go on."""

import contextlib
import sys
from collections.abc import Iterator

from dreamfusion_jax.toybox.world import UnknownNameError


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns the errors of bad input, files and networks into one line and exit code 2."""
    try:
        yield
    except (ValueError, OSError, UnknownNameError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None

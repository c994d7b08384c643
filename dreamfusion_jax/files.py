"""Files that are whole or not there."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, content: bytes | Callable[[Path], object]) -> None:
    """Writes a file under another name and renames it once it is whole.

    Args:
        path: Its name.
        content: The bytes, or a function that writes them to the path it is given.
    """
    part = path.with_name(f".part-{path.name}")
    try:
        if isinstance(content, bytes):
            part.write_bytes(content)
        else:
            content(part)
        os.replace(part, path)  # noqa: PTH105 (atomic also on Windows)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise

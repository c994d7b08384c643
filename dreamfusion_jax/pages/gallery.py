"""A page of many runs: a grid with a search and an order by any number that they have."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

from dreamfusion_jax.pages.record import PAGE, RunRecord, read_record
from dreamfusion_jax.pages.run_page import write_run_page
from dreamfusion_jax.pages.templating import write_page
from dreamfusion_jax.runs.files import CONFIG, PREVIEW
from dreamfusion_jax.runs.settings import RunSettings

_PADDING = 2
"""White pixels around the tiles of a contact sheet."""
_THUMBNAIL = 160


class NoRunsError(ValueError):
    """There is nothing for a gallery; the message is one line for the user."""


def write_gallery(
    folder: Path,
    command_of: Callable[[RunSettings], str | None] = lambda settings: None,
    say: Callable[[str], None] = lambda phase: None,
) -> Path:
    """Writes the page of every run below a folder, and one of them all.

    Args:
        folder: Where the runs lie, at any depth.
        command_of: What makes a run again; see `write_run_page`.
        say: Is told of runs that cannot be read, which the page lists.

    Returns:
        The page of all.

    Raises:
        NoRunsError: There is no such folder, or no run that can be read in it.
        OSError: A page cannot be written.
    """
    if not folder.is_dir():
        raise NoRunsError(f"there is no folder {folder}")
    records, unread = [], []
    for place in find_runs(folder):
        try:
            record = read_record(place)
            write_run_page(place, command_of(record.settings))
            records.append(record)
        except ValueError as error:
            unread.append(" ".join(str(error).split()))
            say(unread[-1])
    if not records:
        raise NoRunsError(unread[0] if unread else f"there are no runs in {folder}")
    measures = dict.fromkeys(name for record in records for name in record.measures)
    page = folder / PAGE
    write_page(
        page,
        "gallery.html",
        folder=folder.absolute().name,
        cards=[_card(record, folder) for record in records],
        measures=list(measures),
        unread=unread,
    )
    return page


def find_runs(folder: Path) -> list[Path]:
    """Folders of runs below a folder, those with a damaged config.json among them."""
    found = []
    for config in sorted(folder.rglob(CONFIG)):
        try:
            saved = json.loads(config.read_bytes())
        except ValueError:
            saved = {"settings": None}
        if isinstance(saved, dict) and "settings" in saved:
            found.append(config.parent)
    return found


def _card(record: RunRecord, root: Path) -> dict[str, object]:
    settings = record.settings
    return {
        "prompt": settings.prompt,
        "seed": settings.seed,
        "about": ", ".join(dict.fromkeys(filter(None, (settings.prior, settings.preset)))),
        "step": record.step,
        "steps": settings.config.train.steps,
        "begun": record.begun,
        "page": (record.folder / PAGE).relative_to(root).as_posix(),
        "picture": _thumbnail(record),
        "measures": record.measures,
    }


def _thumbnail(record: RunRecord) -> str | None:
    """The scene from the last azimuth of a contact sheet, from half its front, inside the page."""
    from PIL import Image

    output = record.settings.config.output
    if record.has(PREVIEW):
        path, size = record.folder / PREVIEW, output.size
    elif record.previews:
        path, size = record.previews[-1], output.preview_size
    else:
        return None
    try:
        with Image.open(path) as sheet:
            right = sheet.width - _PADDING
            tile = sheet.convert("RGB").crop((right - size, _PADDING, right, _PADDING + size))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    file = io.BytesIO()
    tile.resize((_THUMBNAIL, _THUMBNAIL)).save(file, format="webp", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"

"""What a run's folder holds, as its page and the gallery tell it."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dreamfusion_jax.runs.checkpoint import load_config
from dreamfusion_jax.runs.files import (
    CONFIG,
    MESH,
    METRICS,
    PREVIEW,
    PREVIEWS,
    PROGRESS,
    SCENE,
    SHOWN,
    TURNTABLE,
)
from dreamfusion_jax.runs.metrics import read_table
from dreamfusion_jax.runs.settings import RunSettings, read_settings, to_json

PAGE = "index.html"

_FILES = {
    MESH: "the surface, for any 3D program",
    TURNTABLE: "colour, textureless and normals",
    PREVIEW: "eight sides: colour, shaded, textureless, normals",
    SCENE: "the scene alone: to look at again, to export again",
    CONFIG: "every setting, versions, device",
    METRICS: "numbers of the steps",
    PROGRESS: "what the prior says of fixed views",
}


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """A run as it lies on the disk, finished or not.

    Attributes:
        folder: Where.
        settings: What was asked for.
        made_with: Versions, device, commit, when it began; empty for old runs.
        metrics: Columns of metrics.csv.
        progress: Columns of progress.csv.
    """

    folder: Path
    settings: RunSettings
    made_with: Mapping[str, Any]
    metrics: Mapping[str, list[float]]
    progress: Mapping[str, list[float]]

    @property
    def step(self) -> int:
        """The last step that there is a row of."""
        return int(max([0.0, *self.metrics.get("step", [])]))

    @property
    def begun(self) -> str:
        """When, as ISO 8601 has it; empty if that is not known."""
        return str(self.made_with.get("begun", ""))

    @property
    def measures(self) -> dict[str, float]:
        """The newest of every number that there is; those of the fixed views go first."""
        tables = (self.progress, self.metrics)
        newest = [
            {name: column[-1] for name, column in table.items() if column} for table in tables
        ]
        return {"step": float(self.step), **newest[1], **newest[0]}

    @property
    def files(self) -> list[tuple[str, str, str]]:
        """Name, size and contents of the files that are there."""
        return [
            (name, _size((self.folder / name).stat().st_size), about)
            for name, about in _FILES.items()
            if (self.folder / name).is_file()
        ]

    def has(self, name: str) -> bool:
        """Whether the folder has such a file."""
        return (self.folder / name).is_file()

    @property
    def shown(self) -> list[Path]:
        """Pictures of what the prior was shown, by step."""
        return sorted((self.folder / SHOWN).glob("[0-9]*.png"))

    @property
    def previews(self) -> list[Path]:
        """Pictures from on the way, by step."""
        return sorted((self.folder / PREVIEWS).glob("[0-9]*.png"))

    @property
    def options(self) -> list[tuple[str, str]]:
        """Every setting by its dotted name."""
        return [(name, str(value)) for name, value in _flat(to_json(self.settings.config))]


def read_record(folder: Path) -> RunRecord:
    """Reads what a page tells of a run.

    Raises:
        CheckpointError: There is no such folder, or it is not a run's.
        ValueError: A table of it is damaged.
    """
    config = load_config(folder)
    return RunRecord(
        folder,
        read_settings(config, folder),
        config.get("made_with", {}),
        _table(folder / METRICS),
        _table(folder / PROGRESS),
    )


def _table(path: Path) -> dict[str, list[float]]:
    try:
        return read_table(path)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _flat(values: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(values, dict):
        yield place, values
        return
    for name, value in values.items():
        yield from _flat(value, f"{place}.{name}" if place else name)


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{max(count / 1e3, 0.1):.1f} kB"

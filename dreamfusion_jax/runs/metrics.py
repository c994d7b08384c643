"""metrics.csv: a row every few steps, whole after any end of the program."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from dreamfusion_jax.files import write_whole
from dreamfusion_jax.runs.loop import Moment

EVERY = 10
"""Steps between rows; the first and the last step and those of checkpoints have one as well."""


class NotFiniteError(ValueError):
    """The loss or its gradient is not finite; the message is one line for the user."""


class Table:
    """A CSV file of numbers by step that is whole after any end of the program.

    A row is on its way to the disk before the next step begins, so that a killed run has every
    row up to its last checkpoint. A resumed run drops the rows that it does again.

    Args:
        path: The file.
        first: Steps that the run has done; rows of later ones are dropped.

    Attributes:
        last: Step of the last row; 0 if there is none.
    """

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        lines = path.read_bytes().splitlines(keepends=True) if first and path.exists() else []
        # A line without an end was cut off by the end of the program.
        whole = [line for line in lines if line.endswith(b"\n")]
        steps = [int(line.split(b",", 1)[0]) for line in whole[1:]]
        kept = [line for line, step in zip(whole[1:], steps, strict=True) if step <= first]
        self.last = max((step for step in steps if step <= first), default=0)
        self._has_header = bool(whole)
        write_whole(path, b"".join([*whole[:1], *kept]))

    def append(self, step: int, values: Mapping[str, float]) -> None:
        """Writes a row."""
        row = {"step": step, **values}
        text = io.StringIO()
        writer = csv.DictWriter(text, list(row))
        if not self._has_header:
            writer.writeheader()
            self._has_header = True
        writer.writerow(row)
        # One write: a row is there as a whole, or cut off by the end of the program.
        with self.path.open("ab", buffering=0) as file:
            file.write(text.getvalue().encode())
        self.last = step


def read_table(path: Path) -> dict[str, list[float]]:
    """The columns of a table, "step" first; empty if there is no such file."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = [*csv.reader(file)]
    names, *numbers = rows or [[]]
    return {
        name: [float(row[at]) for row in numbers if len(row) == len(names)]
        for at, name in enumerate(names)
    }


class Metrics:
    """Appends the scalars of steps to metrics.csv; an observer.

    Args:
        path: The file.
        first: Steps that the run has done.
        checkpoint_every: Steps between checkpoints, which must not hold what is not finite.
    """

    def __init__(self, path: Path, first: int, checkpoint_every: int) -> None:
        self.checkpoint_every = checkpoint_every
        self.latest: dict[str, float] = {}
        self._table = Table(path, first)

    def __call__(self, moment: Moment) -> None:
        """See `loop.Observer`.

        Raises:
            NotFiniteError: The step was not finite.
        """
        regular = moment.step == 1 or moment.last or moment.due(EVERY)
        if regular or moment.due(self.checkpoint_every):
            self.latest = self._finite(moment)
            self._table.append(moment.step, self.latest)
        elif moment.stopping:
            self._finite(moment)  # A checkpoint follows, but no row: a run without stops has none.

    def _finite(self, moment: Moment) -> dict[str, float]:
        values = jax.device_get(dict(moment.values))
        numbers = {name: float(value) for name, value in values.items()}
        if not numbers.pop("finite", 1.0) or not np.isfinite([*numbers.values()]).all():
            raise NotFiniteError(
                f"the loss or its gradient is not finite near step {moment.step}; the last "
                "checkpoint is kept: lower the learning rate or the guidance weight"
            )
        return numbers

"""metrics.csv: a row every few steps, whole after any end of the program."""

import csv
import io
from pathlib import Path

import jax
import numpy as np

from dreamfusion_jax.files import write_whole
from dreamfusion_jax.runs.loop import Moment

EVERY = 10
"""Steps between rows; the first and the last step and those of checkpoints have one as well."""


class NotFiniteError(ValueError):
    """The loss or its gradient is not finite; the message is one line for the user."""


class Metrics:
    """Appends the scalars of steps to metrics.csv; an observer.

    A row is on its way to the disk before the next step begins, so that a killed run has every
    row up to its last checkpoint. A resumed run drops the rows that it does again.

    Args:
        path: The file.
        first: Steps that the run has done; rows of later ones are dropped.
        checkpoint_every: Steps between checkpoints, which must not hold what is not finite.
    """

    def __init__(self, path: Path, first: int, checkpoint_every: int) -> None:
        self.path, self.checkpoint_every = path, checkpoint_every
        self.latest: dict[str, float] = {}
        lines = path.read_bytes().splitlines(keepends=True) if first and path.exists() else []
        # A line without an end was cut off by the end of the program.
        whole = [line for line in lines if line.endswith(b"\n")]
        kept = [line for line in whole[1:] if int(line.split(b",", 1)[0]) <= first]
        self._has_header = bool(whole)
        write_whole(path, b"".join([*whole[:1], *kept]))

    def __call__(self, moment: Moment) -> None:
        """See `loop.Observer`.

        Raises:
            NotFiniteError: The step was not finite.
        """
        regular = moment.step == 1 or moment.last or moment.due(EVERY)
        if regular or moment.due(self.checkpoint_every):
            self.latest = self._finite(moment)
            self._append({"step": moment.step, **self.latest})
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

    def _append(self, row: dict[str, int | float]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(row))
        if not self._has_header:
            writer.writeheader()
            self._has_header = True
        writer.writerow(row)
        # One write: a row is there as a whole, or cut off by the end of the program.
        with self.path.open("ab", buffering=0) as file:
            file.write(text.getvalue().encode())

"""What was done to train a prior, kept beside its weights in training.json."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from dreamfusion_jax.files import write_whole
from dreamfusion_jax.toybox.training.data import Settings

FILE = "training.json"


@dataclasses.dataclass
class Stage:
    """Steps under the same settings.

    Attributes:
        first: Step before it.
        last: Step after it.
        kinds: Kinds of object (a category with or without a modifier) at the end.
        settings: What decides the pictures and the steps.
        start: Whose weights it began with, if it did not go on from a state.
        times_resumed: How often it was stopped and gone on with.
    """

    first: int
    last: int
    kinds: int
    settings: dict[str, Any]
    start: str | None = None
    times_resumed: int = 0


@dataclasses.dataclass
class History:
    """All stages of a training, and how the loss went.

    Attributes:
        stages: In order.
        losses: (step, mean loss of the steps before, pictures a second).
    """

    stages: list[Stage] = dataclasses.field(default_factory=list)
    losses: list[tuple[int, float, float]] = dataclasses.field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> "History":
        """The history of a folder; an empty one where there is none."""
        if not (folder / FILE).exists():
            return cls()
        values = json.loads((folder / FILE).read_text())
        return cls([Stage(**s) for s in values["stages"]], [tuple(x) for x in values["losses"]])

    @property
    def steps(self) -> int:
        """Steps so far."""
        return self.stages[-1].last if self.stages else 0

    @property
    def pictures(self) -> int:
        """Pictures so far."""
        return sum((s.last - s.first) * s.settings["batch_size"] for s in self.stages)

    def enter(self, settings: Settings, step: int, kinds: int, start: str | None) -> None:
        """Begins a stage, or goes on with the last one if nothing has changed.

        Args:
            settings: Of the training.
            step: Steps done.
            kinds: Kinds of object in the bank.
            start: Whose weights the training begins with now; None where it goes on.
        """
        told = dataclasses.asdict(settings.optimization)
        told |= {"pictures": dataclasses.asdict(settings.pictures)}
        told |= {"categories": list(settings.vocabulary.categories)}
        told = json.loads(json.dumps(told))
        last = self.stages[-1] if self.stages else None
        if last is not None and last.settings == told and start is None:
            last.times_resumed += 1
        else:
            self.stages.append(Stage(step, step, kinds, told, start))

    def add(self, step: int, loss: float, speed: float) -> None:
        """Notes the loss and the speed (pictures a second) of the steps before."""
        self.losses.append((step, round(loss, 5), round(speed, 1)))

    def leave(self, step: int, kinds: int) -> None:
        """Notes how far the stage has come."""
        self.stages[-1].last, self.stages[-1].kinds = step, kinds
        # What was lost with an unsaved state is no part of the history.
        self.losses = [row for row in self.losses if row[0] <= step]

    def write(self, folder: Path) -> None:
        """Writes it beside the weights."""
        values = dataclasses.asdict(self)
        rows = ",\n".join("    " + json.dumps(row) for row in values.pop("losses"))
        text = json.dumps({"pictures": self.pictures, "steps": self.steps, **values}, indent=2)
        text = text[:-2] + f',\n  "losses": [\n{rows}\n  ]\n}}\n'
        write_whole(folder / FILE, text.encode())

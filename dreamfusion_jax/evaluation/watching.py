"""Watches runs for symptoms while they train, and says which of several came out best."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from dreamfusion_jax.distillation.train import TrainState
from dreamfusion_jax.evaluation.symptoms import (
    Symptoms,
    badness,
    complaints,
    examine,
    examine_faces,
)
from dreamfusion_jax.files import write_whole
from dreamfusion_jax.runs.loop import Moment
from dreamfusion_jax.runs.run import Run
from dreamfusion_jax.runs.trained_scene import TrainedScene

SYMPTOMS = "symptoms.json"
"""In a run's folder: what its scene suffers from."""

_LOOKS = 4
"""Looks at a scene in the second half of its run; scenes begin thin, and clear up late."""


class Watcher:
    """Warns of symptoms, each once; an observer.

    The shape is looked at a few times in the second half of a run, the faces once, at the end:
    together a few seconds.

    Args:
        run: What is watched.
        say: Is told of symptoms.
    """

    def __init__(self, run: Run, say: Callable[[str], None]) -> None:
        self.run, self.say = run, say
        self._said: set[str] = set()

    def __call__(self, moment: Moment[TrainState]) -> None:
        """See `loop.Observer`."""
        every = max(moment.total // (2 * _LOOKS), 1)
        if moment.due(every) and 2 * moment.step >= moment.total and not moment.last:
            self._warn(examine(self.run.scene(moment.state)), f"step {moment.step}")

    def finish(self, scene: TrainedScene) -> Symptoms:
        """Examines a finished scene and writes what is found to the run's folder.

        Raises:
            OSError: The file cannot be written.
        """
        found = examine(scene)
        if "emptiness" not in complaints(found):
            prior, params = self.run.loaded
            faces = examine_faces(scene, prior, params, self.run.settings.prompt)
            found = dataclasses.replace(found, faces=faces)
        self._warn(found, "the finished scene")
        report = {"symptoms": dataclasses.asdict(found), "complaints": complaints(found)}
        content = json.dumps(report, indent=2) + "\n"
        write_whole(self.run.folder / SYMPTOMS, content.encode())
        return found

    def _warn(self, found: Symptoms, when: str) -> None:
        for name, line in complaints(found).items():
            if name not in self._said:
                self._said.add(name)
                self.say(f"warning, {when}: {line}")


def best(found: Mapping[Path, Symptoms]) -> Path:
    """The run with the least of everything."""
    return min(found, key=lambda folder: badness(found[folder]))

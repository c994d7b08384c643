"""Shows finished runs, or runs that were stopped, in a browser.

    python -m experiments.view outputs/a-red-mushroom-seed0 outputs/a-red-car-seed0

Turn the scene with the mouse; light, kind of picture, mesh and files are on the panel.
Ctrl-C closes the page.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import tyro

from dreamfusion_jax.caches import keep_compiled_programs
from dreamfusion_jax.runs.loop import stop_on_signals
from dreamfusion_jax.runs.trained_scene import TrainedScene
from dreamfusion_jax.viewer.painter import SIZES, Sizes
from dreamfusion_jax.viewer.server import PORT
from dreamfusion_jax.viewer.viewer import Viewer
from experiments.command_line import UsageError, as_program, one_line_errors, parsed, say

_POLL = 0.1
"""Seconds between two looks for a signal."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to show and where.

    Attributes:
        runs: Folders of runs, or scene.safetensors files.
        host: Address to listen at; 0.0.0.0 lets other machines in.
        port: 0 takes any that is free.
        sizes: Of the pictures.
    """

    runs: tyro.conf.Positional[tuple[Path, ...]]
    host: str = "127.0.0.1"
    port: int = PORT
    sizes: Sizes = SIZES


def main(argv: list[str] | None = None) -> None:
    """Shows runs from the command line until it is stopped."""
    with one_line_errors():
        arguments = parsed(lambda: tyro.cli(Arguments, args=argv, description=__doc__))
        if not arguments.runs:
            raise UsageError("name the folder of a run")
        keep_compiled_programs()
        scenes = _read(arguments.runs)
        radius = max(scene.model.sampling.radius for scene in scenes.values())
        with (
            stop_on_signals() as stop,
            Viewer(
                "dreamfusion_jax", radius, arguments.host, arguments.port, arguments.sizes
            ) as viewer,
        ):
            viewer.offer(scenes)
            say(f"{viewer.address} (Ctrl-C ends)")
            while not stop():
                time.sleep(_POLL)


def _read(runs: Sequence[Path]) -> dict[str, TrainedScene]:
    """The scenes by the shortest names that tell them apart."""
    short = [path.stem if path.is_file() else path.name for path in map(Path.absolute, runs)]
    names = short if len(set(short)) == len(runs) else [str(path) for path in runs]
    return {name: TrainedScene.load(path) for name, path in zip(names, runs, strict=True)}


if __name__ == "__main__":
    as_program(main)

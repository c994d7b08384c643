"""Figures 1 and 5: a gallery; every object from two sides, with its shape and its normals.

    python -m experiments.figures.gallery
    python -m experiments.figures.gallery --finished outputs/*-seed0

An object that is not there yet takes two to four minutes on a CPU core, its pictures ten
seconds. Writes gallery.png, gallery.pdf and gallery.json.
"""

import dataclasses
import math
from pathlib import Path

import jax
import jax.numpy as jnp

from dreamfusion_jax.looks.figures import save_figure, tiles
from dreamfusion_jax.runs.run import load_finished
from dreamfusion_jax.scene.camera import orbit
from experiments.command_line import as_program
from experiments.figures.making import Making, run

_AZIMUTHS = (30.0, 210.0)
_KINDS = ("colour", "textureless", "normals")


@dataclasses.dataclass(frozen=True)
class Arguments(Making):
    """What to draw.

    Attributes:
        prompts: What to make.
        seeds: Of each of them.
        finished: Folders of finished runs to draw in their place.
        elevation: Of the cameras, degrees.
        distance: Of the cameras from the origin.
        focal: Of the cameras, image widths.
    """

    prompts: tuple[str, ...] = ("a red car", "a yellow duck", "a blue house", "a red mushroom")
    seeds: tuple[int, ...] = (0,)
    finished: tuple[Path, ...] = ()
    elevation: float = 20.0
    distance: float = 1.3
    focal: float = 1.1


def draw(arguments: Arguments) -> Path:
    """Makes the objects and draws them.

    Raises:
        CheckpointError: A folder is not that of a finished run.
        ValueError: A request that cannot be carried out.
    """
    folders = arguments.finished or arguments.make(arguments.prompts, arguments.seeds)
    # Two views each, half a turn apart.
    cameras = orbit(
        2,
        math.radians(arguments.elevation),
        arguments.distance,
        arguments.focal,
        azimuth=math.radians(_AZIMUTHS[0]),
    )
    rows, about = {}, []
    for folder in folders:
        settings, scene = load_finished(folder)
        looks = scene.look(cameras, size=arguments.size, backdrop=1.0)
        name = f"{settings.prompt}, seed {settings.seed}"
        rows[name] = [getattr(looks, kind)[view] for view in range(2) for kind in _KINDS]
        opacity = jax.device_get(jnp.mean(looks.opacity, axis=(1, 2, 3)))
        about.append({**settings.about, "mean opacity": [float(x) for x in opacity]})
    columns = [f"{kind}, {azimuth:.0f}°" for azimuth in _AZIMUTHS for kind in _KINDS]
    figure = tiles(list(rows.values()), list(rows), columns)
    return save_figure(arguments.output, "gallery", figure, {"objects": about})


def main(argv: list[str] | None = None) -> None:
    """Draws from the command line."""
    run(Arguments, draw, __doc__, argv)


if __name__ == "__main__":
    as_program(main)

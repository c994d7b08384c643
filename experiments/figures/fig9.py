"""Figure 9: guidance weights by seeds, of one prompt.

    python -m experiments.figures.fig9 --prompt "a red car" --guidance 1 5 25

Nine objects by default, a minute and a half each on a CPU core. Writes fig9.png, fig9.pdf and
fig9.json.
"""

import dataclasses
import math
from pathlib import Path

import numpy as np

from dreamfusion_jax.evaluation.measuring import look_at, portrait_of
from dreamfusion_jax.evaluation.r_precision import true_scene
from dreamfusion_jax.evaluation.truth_metrics import measure
from dreamfusion_jax.looks.figures import save_figure, tiles
from dreamfusion_jax.runs.run import load_finished
from dreamfusion_jax.scene.camera import orbit
from experiments.command_line import UsageError, as_program
from experiments.figures.making import Making, run

_MEASURED = 64
"""Height and width of the views that are measured, pixels."""


@dataclasses.dataclass(frozen=True)
class Arguments(Making):
    """What to draw.

    Attributes:
        prompt: What to make.
        guidance: Weights omega, a row each.
        seeds: A column each.
        azimuth: Of the drawn view, degrees.
    """

    prompt: str = "a red car"
    guidance: tuple[float, ...] = (1.0, 5.0, 25.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    azimuth: float = 30.0


def draw(arguments: Arguments) -> Path:
    """Makes the objects, draws and measures them.

    Raises:
        ValueError: A request that cannot be carried out.
    """
    if not arguments.guidance:
        raise UsageError("--guidance must not be empty")
    camera = orbit(1, math.radians(20.0), 1.3, 1.1, azimuth=math.radians(arguments.azimuth))
    scene = true_scene(arguments.prompt)
    rows, measured = {}, {}
    for weight in arguments.guidance:
        name = f"guidance {weight:g}"
        change = {"train.distillation.guidance_weight": weight}
        folders = arguments.make([arguments.prompt], arguments.seeds, change, name)
        scenes = [load_finished(folder)[1] for folder in folders]
        looks = [trained.look(camera, size=arguments.size, backdrop=1.0) for trained in scenes]
        rows[name] = [np.asarray(view.colour[0]) for view in looks]
        if scene:
            portraits = [portrait_of(look_at(trained, _MEASURED)) for trained in scenes]
            measured[name] = [dataclasses.asdict(measure(scene, p)) for p in portraits]
    columns = [f"seed {seed}" for seed in arguments.seeds]
    figure = tiles(list(rows.values()), list(rows), columns)
    numbers = {
        "prompt": arguments.prompt,
        "measures": measured,
        "difference of seeds": {
            name: float(np.std(np.stack(images), axis=0).mean()) for name, images in rows.items()
        },
    }
    return save_figure(arguments.output, "fig9", figure, numbers)


def main(argv: list[str] | None = None) -> None:
    """Draws from the command line."""
    run(Arguments, draw, __doc__, argv)


if __name__ == "__main__":
    as_program(main)

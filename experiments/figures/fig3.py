"""Figure 3: one step of DreamFusion, every picture in between.

    python -m experiments.figures.fig3 --prompt "a red mushroom" --steps 200

Trains a scene for a while and looks into the step that would come next: the renderings, what the
prior is shown, the noise that it predicts and the noise that was added, the picture that it has
in mind, and the way in which the renderings are pushed. Two minutes on a CPU core. Writes
fig3.png, fig3.pdf and fig3.json.
"""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from dreamfusion_jax.distillation.inside import pictures_of
from dreamfusion_jax.distillation.showing import show_next
from dreamfusion_jax.looks.figures import save_figure, tiles
from dreamfusion_jax.looks.media import enlarge
from dreamfusion_jax.runs.run import Run
from experiments.command_line import as_program
from experiments.figures.making import Making, run


@dataclasses.dataclass(frozen=True)
class Arguments(Making):
    """What to draw.

    Attributes:
        prompt: What to make.
        seed: Of the run.
        steps: Steps after which the scene is looked at.
    """

    prompt: str = "a red mushroom"
    seed: int = 0
    steps: int | None = 200


def draw(arguments: Arguments) -> Path:
    """Trains the scene and draws the step.

    Raises:
        ValueError: A request that cannot be carried out.
    """
    (folder,) = arguments.make([arguments.prompt], [arguments.seed])
    with Run.resume(folder) as run:
        prior, params = run.loaded
        shown = show_next(run.state(), params, run.text, model=run.model, config=run.config.train)
        columns = pictures_of(shown, prior, params)
        angles = [
            f"t = {float(t):.2f}, opacity {float(opacity):.2f}"
            for t, opacity in zip(shown.t, shown.opacity, strict=True)
        ]
    rows = [list(row) for row in zip(*map(enlarge, columns.values()), strict=True)]
    figure = tiles(rows, angles, list(columns), side=1.3)
    numbers = {
        "prompt": arguments.prompt,
        "steps": arguments.steps,
        "t": np.asarray(shown.t).tolist(),
        "residual": np.asarray(jax.device_get(shown.residual)).tolist(),
    }
    return save_figure(arguments.output, "fig3", figure, numbers)


def main(argv: list[str] | None = None) -> None:
    """Draws from the command line."""
    run(Arguments, draw, __doc__, argv)


if __name__ == "__main__":
    as_program(main)

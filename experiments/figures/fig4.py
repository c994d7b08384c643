"""Figure 4: a prompt refined step by step, each scene started from the one before.

    python -m experiments.figures.fig4

Each scene takes a minute and a half on a CPU core. The same by hand: `experiments.run --init-from
RUN`. Writes fig4.png, fig4.pdf and fig4.json.
"""

import dataclasses
import math
from pathlib import Path

from dreamfusion_jax.evaluation.symptoms import examine
from dreamfusion_jax.looks.figures import save_figure, tiles
from dreamfusion_jax.runs.run import load_finished
from dreamfusion_jax.scene.camera import orbit
from experiments.command_line import as_program
from experiments.figures.making import Making, run


@dataclasses.dataclass(frozen=True)
class Arguments(Making):
    """What to draw.

    Attributes:
        prompts: The first thing, and what becomes of it.
        seed: Of all scenes.
        afresh: Also make each of them from nothing, for comparison.
    """

    prompts: tuple[str, ...] = (
        "a white duck",
        "a red duck",
        "a red duck wearing a blue top hat",
    )
    seed: int = 0
    afresh: bool = False


def draw(arguments: Arguments) -> Path:
    """Makes the chain and draws three views of every scene.

    Raises:
        ValueError: A request that cannot be carried out.
    """
    cameras = orbit(3, math.radians(20.0), 1.3, 1.1, azimuth=math.radians(30.0))
    rows, found, before = {}, {}, None
    for number, prompt in enumerate(arguments.prompts):
        name = "plain" if before is None else f"fig4 {number} {arguments.prompts[0]}"
        (before,) = arguments.make([prompt], [arguments.seed], name=name, init_from=before)
        made = {prompt: before}
        if arguments.afresh and number:
            made[f"{prompt}, from nothing"] = arguments.make([prompt], [arguments.seed])[0]
        for title, folder in made.items():
            settings, scene = load_finished(folder)
            looks = scene.look(cameras, size=arguments.size, backdrop=1.0)
            rows[title] = [*looks.colour, *looks.textureless]
            symptoms = dataclasses.asdict(examine(scene))
            found[title] = {"init_from": settings.init_from, "symptoms": symptoms}
    figure = tiles(list(rows.values()), list(rows))
    return save_figure(arguments.output, "fig4", figure, found)


def main(argv: list[str] | None = None) -> None:
    """Draws from the command line."""
    run(Arguments, draw, __doc__, argv)


if __name__ == "__main__":
    as_program(main)

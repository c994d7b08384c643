"""Makes objects of toybox prompts and measures them against the truth.

    python -m experiments.evaluate
    python -m experiments.evaluate --runs outputs/a-red-car-seed0 outputs/a-red-car-seed1

The first command makes 24 prompts with two seeds, drawn by lot from all categories and colours,
some of them pairs that the prior never saw, six with a pedestal or a hat, and goes on where it
was stopped; the second measures runs that are there. With `--prompts twelve` it is the twelve
prompts on which the prior before this one was measured.
Writes table.md, a contact sheet for each run, and two pictures of all prompts, objects.png (sides
of each) and prompts.png (each with its prompt), to --output.
The same measures are printed for the true object, for the empty scene and for the
best-fitting sphere, which says what they are worth.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from dreamfusion_jax import presets
from dreamfusion_jax.evaluation.judge import SHIPPED
from dreamfusion_jax.evaluation.measuring import load_jury
from dreamfusion_jax.evaluation.objects import make_objects
from dreamfusion_jax.evaluation.prompts import TWELVE, drawn_prompts
from dreamfusion_jax.evaluation.report import evaluate
from experiments.command_line import as_program, one_line_errors, parsed, say, say_devices

PROMPTS = {"world": drawn_prompts(), "twelve": TWELVE}
"""What is made where no runs are given, by the name of the list."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to measure and where to put it.

    Attributes:
        runs: Folders of finished runs; if none are given, the prompts are made.
        prompts: Which prompts to make.
        seeds: Of the prompts.
        preset: Of the prompts.
        weights: Folder of another prior to make them with.
        output: Folder of the table and the contact sheets.
        judge: Folder of the judge; "None" leaves its columns empty.
        size: Height and width of the measured views, pixels.
    """

    runs: tuple[Path, ...] = ()
    prompts: Literal["world", "twelve"] = "world"
    seeds: tuple[int, ...] = (0, 1)
    preset: str = "toybox"
    weights: str | None = None
    output: Path = Path("outputs/evaluation")
    judge: Path | None = SHIPPED
    size: int = 64


def main(argv: list[str] | None = None) -> None:
    """Evaluates from the command line."""
    with one_line_errors():
        arguments = parsed(lambda: tyro.cli(Arguments, args=argv, description=__doc__))
        if arguments.size < 16:
            raise ValueError(f"--size must be at least 16, not {arguments.size}")
        say_devices()
        jury = load_jury(arguments.judge)
        runs = arguments.runs or make_objects(
            PROMPTS[arguments.prompts],
            arguments.seeds,
            arguments.output / "runs",
            presets.preset(arguments.preset),
            say=say,
            weights=arguments.weights,
        )
        table = evaluate(runs, arguments.output, jury, arguments.size, say)
        (arguments.output / "table.md").write_text(table, encoding="utf-8")
        print(table)


if __name__ == "__main__":
    as_program(main)

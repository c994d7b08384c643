"""Tries settings of distillation, one change at a time, and measures each against the truth.

    python -m experiments.study
    python -m experiments.study --changes default "guidance 3"

Every change makes the same prompts with the same seed; what is finished is not made again,
so that a study can be stopped, widened, and split over several machines. Writes table.md
and a contact sheet for each object to --output.
"""

import dataclasses
from pathlib import Path

import numpy as np
import tyro

from dreamfusion_jax.evaluation.judge import SHIPPED
from dreamfusion_jax.evaluation.measuring import (
    Jury,
    Row,
    draw_sheet,
    load_jury,
    load_run,
    look_at_run,
    make_objects,
    measure,
    portrait_of,
)
from dreamfusion_jax.evaluation.truth_metrics import AZIMUTHS, truth_portrait
from dreamfusion_jax.looks.media import save_png
from experiments.errors import one_line_errors
from experiments.run import slug

_ANNEALED = ("--train.time.high.until", "1", "--train.time.high.end")

CHANGES: dict[str, tuple[str, ...]] = {
    "default": (),
    "guidance 1": ("--train.distillation.guidance-weight", "1"),
    "guidance 2": ("--train.distillation.guidance-weight", "2"),
    "guidance 5": ("--train.distillation.guidance-weight", "5"),
    "guidance 10": ("--train.distillation.guidance-weight", "10"),
    "time range annealed to 0.75": (*_ANNEALED, "0.75"),
    "time range annealed to 0.5": (*_ANNEALED, "0.5"),
    "weighting sigma squared": ("--train.distillation.weighting", "sigma_squared"),
    "not clipped": ("--train.distillation.clip-denoised", "False"),
    "never lit": ("--train.lighting.diffuse-probability", "0"),
    "always lit": ("--train.lighting.diffuse-probability", "1"),
    "the paper's four views": ("--train.prompts.views", "nearest"),
    "elevation 10 to 45": ("--train.cameras.elevation", "10", "45"),
    "one view a step": ("--train.views", "1"),
    "smoothness 0.02": ("--scene.field.smoothness", "0.02"),
    "smoothness 0.001": ("--scene.field.smoothness", "0.001"),
    "opacity 0.03": ("--train.losses.opacity", "0.03"),
    "entropy to 0.1": ("--train.losses.entropy.end", "0.1"),
    "orientation to 1": ("--train.losses.orientation.end", "1"),
    "grid 16 + 32 + 64": ("--scene.field.grid.resolutions", "16", "32", "64"),
    "300 steps": ("--steps", "300"),
    "1200 steps": ("--steps", "1200"),
}
"""Options of experiments.run that make each change to the preset `toybox`."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to try and where to put it.

    Attributes:
        changes: Names from the list in this file; all of them if none are given.
        prompts: What to make with each.
        seed: Of all objects.
        output: Folder of the table, the sheets and the runs.
        judge: Folder of the judge; "None" leaves its column empty.
        size: Height and width of the measured views, pixels.
    """

    changes: tuple[str, ...] = tuple(CHANGES)
    prompts: tuple[str, ...] = ("a red rocket", "a red mushroom")
    seed: int = 2
    output: Path = Path("outputs/study")
    judge: Path | None = SHIPPED
    size: int = 64


def try_change(name: str, arguments: Arguments, jury: Jury) -> list[Row]:
    """Makes the prompts under one change, draws their sheets and measures them."""
    print(f"== {name}", flush=True)
    folder = arguments.output / slug(name)
    rows = []
    for run in make_objects(arguments.prompts, (arguments.seed,), folder, CHANGES[name]):
        finished = load_run(run)
        looks = look_at_run(finished, arguments.size)
        truth = truth_portrait(finished.scene, size=arguments.size)
        save_png(folder / f"{run.name}.png", draw_sheet(looks, truth))
        rows.append(measure(finished.prompt, finished.scene, portrait_of(looks), jury))
    return rows


def line_of(name: str, rows: list[Row]) -> str:
    """A line of the table: means over the prompts, and each prompt's overlap."""
    values = [row.measures for row in rows]
    judged = [row.judgement.category for row in rows if row.judgement]
    cells = [
        name,
        f"{np.mean([m.iou for m in values]):.3f}",
        f"{np.mean([m.psnr for m in values]):.1f}",
        f"{np.mean([m.facing for m in values]):+.2f}",
        f"{sum(m.colour == row.scene.colour for m, row in zip(values, rows, strict=True))}",
        f"{np.mean([m.haze for m in values]):.2f}",
        f"{np.mean(judged):.1f}/{AZIMUTHS}" if judged else "-",
        ", ".join(f"{row.name} {row.measures.iou:.2f}" for row in rows),
    ]
    return f"| {' | '.join(cells)} |\n"


def study(arguments: Arguments, jury: Jury) -> str:
    """Tries all changes and returns the table as Markdown."""
    header = "| change | IoU | PSNR | facing | colours right | haze | judge | IoU of each |\n"
    lines = [line_of(name, try_change(name, arguments, jury)) for name in arguments.changes]
    return header + "| --- " * 8 + "|\n" + "".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Studies from the command line."""
    arguments = tyro.cli(Arguments, args=argv, description=__doc__)
    with one_line_errors():
        for name in arguments.changes:
            if name not in CHANGES:
                raise ValueError(f"unknown change {name!r}; known: {', '.join(CHANGES)}")
        if not arguments.changes or not arguments.prompts:
            raise ValueError("--changes and --prompts must not be empty")
        jury = load_jury(arguments.judge)
        table = study(arguments, jury)
        (arguments.output / "table.md").write_text(table, encoding="utf-8")
        print(table)


if __name__ == "__main__":
    main()

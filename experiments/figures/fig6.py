"""Figure 6: the ablation, one thing added after the other, scored three ways.

    python -m experiments.figures.fig6

Base, wide cameras, view-dependent prompts, lighting, textureless renderings; the R-Precision of
each on albedo, shaded and textureless renders, by the judge of the toy world or, with --clip and
--captions, by CLIP. Seven objects a prompt, a minute and a half each on a CPU core. Writes
fig6.png, fig6-pictures.png, both as PDF and JSON as well.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from dreamfusion_jax.evaluation import r_precision
from dreamfusion_jax.evaluation.r_precision import Kind, ViewingConfig
from dreamfusion_jax.looks.figures import bars, save_figure, tiles
from dreamfusion_jax.toybox.bank import NARROW_CAMERAS, WIDE_CAMERAS
from experiments.command_line import as_program
from experiments.figures.making import Making, run
from experiments.scoring import Scoring

KINDS: tuple[Kind, ...] = ("colour", "shaded", "textureless")
"""The paper's three scores."""

_LIGHT = "train.lighting"


@dataclasses.dataclass(frozen=True)
class Arguments(Making):
    """What to draw.

    Attributes:
        prompts: What to make.
        seeds: Of the first and the last row; the others get the first one.
        scoring: Who judges.
    """

    prompts: tuple[str, ...] = (
        *("a red car", "a yellow duck", "a blue rocket", "a green snowman"),
        *("a purple penguin", "a blue house", "a brown chair", "an orange lamp"),
    )
    seeds: tuple[int, ...] = (0, 1)
    scoring: Annotated[Scoring, tyro.conf.arg(name="")] = Scoring()


def ladder(arguments: Arguments) -> dict[str, dict[str, object]]:
    """The changes of the preset at each rung; each rung adds one to those before it."""
    train = arguments.chosen.config.train
    lit = train.lighting.diffuse_probability
    views = train.prompts.views if train.prompts.views != "none" else "nearest"
    added: dict[str, dict[str, object]] = {
        "base": {
            "train.cameras": NARROW_CAMERAS,
            "train.prompts.views": "none",
            f"{_LIGHT}.diffuse_probability": 0.0,
            f"{_LIGHT}.textureless_probability": 0.0,
        },
        "+ wide cameras": {"train.cameras": WIDE_CAMERAS},
        "+ view prompts": {"train.prompts.views": views},
        "+ lighting": {f"{_LIGHT}.diffuse_probability": lit},
        "+ textureless": {f"{_LIGHT}.textureless_probability": 0.5},
    }
    rungs, so_far = {}, {}
    for name, changes in added.items():
        so_far = so_far | changes
        rungs[name] = so_far
    return rungs


def draw(arguments: Arguments) -> Path:
    """Makes the objects of every rung, scores and draws them.

    Raises:
        ValueError: A request that cannot be carried out.
    """
    config = ViewingConfig(size=arguments.size)
    panel = arguments.scoring.read()
    rungs = ladder(arguments)
    values: dict[str, list[float]] = {kind: [] for kind in KINDS}
    rows, pictures, found = {}, {}, []
    for number, (name, changes) in enumerate(rungs.items()):
        seeds = arguments.seeds if number in (0, len(rungs) - 1) else arguments.seeds[:1]
        folders = arguments.make(arguments.prompts, seeds, changes, f"fig6 {name}")
        subjects = [r_precision.subject(folder, config) for folder in folders]
        found = panel.ask(subjects, KINDS)[: len(KINDS)]
        rows[name] = [dataclasses.asdict(row) for row in found]
        for row in found:
            values[row.kind].append(100 * row.objects.value)
        # The view half to the side, in colour and as a shape.
        first = subjects[: len(arguments.prompts)]
        pictures[name] = [s.pictures[kind][1] for s in first for kind in ("colour", "textureless")]
    columns = [text for prompt in arguments.prompts for text in (prompt, "")]
    table = tiles(list(pictures.values()), list(pictures), columns)
    save_figure(arguments.output, "fig6-pictures", table, {"prompts": arguments.prompts})
    groups = list(rungs)
    truth = {row.kind: row.truth.value for row in found if row.truth}
    if len(truth) == len(KINDS):
        groups.append("the truth")
        for kind, value in truth.items():
            values[kind].append(100 * value)
    named = {"albedo": values["colour"], **{k: values[k] for k in KINDS[1:]}}
    figure = bars(groups, named, "R-Precision, %")
    return save_figure(arguments.output, "fig6", figure, {"rows": rows})


def main(argv: list[str] | None = None) -> None:
    """Draws from the command line."""
    run(Arguments, draw, __doc__, argv)


if __name__ == "__main__":
    as_program(main)

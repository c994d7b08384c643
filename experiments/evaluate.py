"""Makes objects of toybox prompts and measures them against the truth.

    python -m experiments.evaluate
    python -m experiments.evaluate --runs outputs/a-red-car-seed0 outputs/a-red-car-seed1

The first command makes twelve prompts with two seeds, some of them pairs that the prior
never saw, and goes on where it was stopped; the second measures runs that are there.
Writes table.md, a contact sheet for each run and objects.png with all prompts to --output.
The same measures are printed for the true object, for the empty scene and for the
best-fitting sphere, which says what they are worth.
"""

import dataclasses
from pathlib import Path

import numpy as np
import tyro

from dreamfusion_jax.evaluation import truth_metrics as metrics
from dreamfusion_jax.evaluation.judge import SHIPPED
from dreamfusion_jax.evaluation.measuring import (
    Jury,
    Row,
    draw_sheet,
    glance,
    load_jury,
    load_run,
    look_at_run,
    make_objects,
    measure,
    portrait_of,
)
from dreamfusion_jax.evaluation.truth_metrics import AZIMUTHS
from dreamfusion_jax.looks.media import contact_sheet, save_png
from dreamfusion_jax.toybox.world import CATEGORIES, HELD_OUT, Scene
from experiments.errors import one_line_errors
from experiments.run import PresetName, slug

PROMPTS = (
    *("a red car", "a blue car", "a yellow duck", "a blue rocket"),
    *("a green snowman", "a purple penguin", "a red mushroom", "a purple cactus"),
    *("a blue house", "a brown chair", "an orange lamp", "a red rocket"),
)
"""What is made where no runs are given: ten kinds of object, four prompts held out."""

_CLEAR_LEAD = 0.10
_ENOUGH_AZIMUTHS = 6


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to measure and where to put it.

    Attributes:
        runs: Folders of finished runs; if none are given, the usual prompts are made.
        seeds: Of the usual prompts.
        preset: Of the usual prompts.
        output: Folder of the table and the contact sheets.
        judge: Folder of the judge; "None" leaves its columns empty.
        size: Height and width of the measured views, pixels.
    """

    runs: tuple[Path, ...] = ()
    seeds: tuple[int, ...] = (0, 1)
    preset: PresetName = "toybox"
    output: Path = Path("outputs/evaluation")
    judge: Path | None = SHIPPED
    size: int = 64


def evaluate(folders: tuple[Path, ...], output: Path, jury: Jury, size: int) -> str:
    """Measures the runs, draws their sheets and returns the table.

    Args:
        folders: Of the runs.
        output: Folder of the sheets.
        jury: Judges portraits.
        size: Of the measured views.
    """
    rows: list[Row] = []
    seen: dict[Scene, list[Row]] = {}
    glances: dict[str, np.ndarray] = {}
    for number, folder in enumerate(folders, 1):
        print(f"{number}/{len(folders)} {folder}", flush=True)
        finished = load_run(folder)
        scene, looks = finished.scene, look_at_run(finished, size)
        truth = metrics.truth_portrait(scene, size=size)
        output.mkdir(parents=True, exist_ok=True)
        name = f"{slug(finished.prompt)}-seed{finished.seed}.png"
        save_png(output / name, draw_sheet(looks, truth))
        if finished.prompt not in glances:
            glances[finished.prompt] = glance(finished)
        if scene not in seen:
            marks = {
                "truth": truth,
                "empty": metrics.empty_portrait(size=size),
                "sphere": metrics.sphere_portrait(scene, size=size),
            }
            seen[scene] = [measure(name, scene, p, jury) for name, p in marks.items()]
        title = f"{finished.prompt}, seed {finished.seed}"
        rows.append(measure(title, scene, portrait_of(looks), jury))
    save_png(output / "objects.png", contact_sheet(np.stack([*glances.values()]), [*glances]))
    return write_table(rows, seen)


_HEADER = (
    "| object | IoU | PSNR | main colour | facing | opacity | haze "
    "| judge: category | judge: colour | judge: view |\n" + "| --- " * 10 + "|\n"
)


def write_table(rows: list[Row], marks: dict[Scene, list[Row]]) -> str:
    """Markdown: the runs, what their measures are worth, and the summary.

    Args:
        rows: Of the runs.
        marks: Of the truth, the empty scene and the best sphere for each scene, in this order.
    """
    others = [
        dataclasses.replace(row, name=f"{scene.colour} {scene.category}: {row.name}")
        for scene, three in marks.items()
        for row in three
    ]
    return (
        "## Runs\n\n"
        + _HEADER
        + "".join(map(_line, rows))
        + "\n## What the measures are worth\n\n"
        + _HEADER
        + "".join(map(_line, others))
        + "\n## Summary\n\n"
        + "".join(f"- {line}\n" for line in summary(rows, marks))
    )


def _line(row: Row) -> str:
    m, j, has_front = row.measures, row.judgement, CATEGORIES[row.scene.category].has_front
    held = " (held out)" if (row.scene.category, row.scene.colour) in HELD_OUT else ""
    cells = [
        row.name + held,
        f"{m.iou:.2f}",
        f"{m.psnr:.1f}",
        m.colour or "none",
        f"{m.facing:+.2f}" if has_front else "-",
        f"{m.opacity:.3f}",
        f"{m.haze:.2f}",
        f"{j.category}/{AZIMUTHS}" if j else "-",
        j.colour if j else "-",
        f"{j.view}/{AZIMUTHS}" if j and has_front else "-",
    ]
    return f"| {' | '.join(cells)} |\n"


def summary(rows: list[Row], marks: dict[Scene, list[Row]]) -> list[str]:
    """Counts over the runs, a line each."""
    total, fronts = len(rows), [r for r in rows if CATEGORIES[r.scene.category].has_front]
    lead = [r.measures.iou - marks[r.scene][2].measures.iou for r in rows]
    right = [r for r in rows if r.measures.colour == r.scene.colour]
    facing = [r for r in fronts if r.measures.facing > 0]
    lines = [
        f"mean silhouette IoU {np.mean([r.measures.iou for r in rows]):.3f}",
        f"mean PSNR {np.mean([r.measures.psnr for r in rows]):.1f} dB",
        f"opacity {min(r.measures.opacity for r in rows):.2f} at least, "
        f"haze {max(r.measures.haze for r in rows):.2f} at most",
        f"IoU at least {_CLEAR_LEAD:.2f} above the best sphere: "
        f"{sum(x >= _CLEAR_LEAD for x in lead)} of {total}",
        f"main colour right: {len(right)} of {total}",
        f"nearer to the truth than to its back: {len(facing)} of {len(fronts)}",
    ]
    judged = [(r, r.judgement) for r in rows if r.judgement]
    if judged:
        clear = sum(j.category >= _ENOUGH_AZIMUTHS for _, j in judged)
        hue = sum(j.colour == r.scene.colour for r, j in judged)
        lines += [
            f"judge names the category from {_ENOUGH_AZIMUTHS} of {AZIMUTHS} azimuths: "
            f"{clear} of {total}",
            f"judge names the colour: {hue} of {total}",
        ]
    return lines + _differences(rows)


def _differences(rows: list[Row]) -> list[str]:
    """How far apart the seeds of one scene are."""
    scenes = dict.fromkeys(row.scene for row in rows)
    found = [[row.measures.iou for row in rows if row.scene == scene] for scene in scenes]
    apart = [max(ious) - min(ious) for ious in found if len(ious) > 1]
    if not apart:
        return []
    return [
        f"IoU between seeds differs by {np.mean(apart):.3f} on average, {max(apart):.3f} at most"
    ]


def main(argv: list[str] | None = None) -> None:
    """Evaluates from the command line."""
    arguments = tyro.cli(Arguments, args=argv, description=__doc__)
    with one_line_errors():
        if arguments.size < 16:
            raise ValueError(f"--size must be at least 16, not {arguments.size}")
        jury = load_jury(arguments.judge)
        runs = arguments.runs or make_objects(
            PROMPTS, arguments.seeds, arguments.output / "runs", ["--preset", arguments.preset]
        )
        table = evaluate(runs, arguments.output, jury, arguments.size)
        (arguments.output / "table.md").write_text(table, encoding="utf-8")
        print(table)


if __name__ == "__main__":
    main()

"""A table of many objects, and what its numbers are worth."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dreamfusion_jax.evaluation import truth_metrics as metrics
from dreamfusion_jax.evaluation.measuring import (
    Jury,
    Row,
    draw_sheet,
    glance,
    look_at,
    measure,
    portrait_of,
)
from dreamfusion_jax.evaluation.truth_metrics import AZIMUTHS
from dreamfusion_jax.looks.media import captioned, contact_sheet, save_png, side_by_side
from dreamfusion_jax.runs.run import load_finished, slug
from dreamfusion_jax.toybox.captions import Vocabulary
from dreamfusion_jax.toybox.world import CATEGORIES, HELD_OUT, Scene

_COLUMNS = 4
_CLEAR_LEAD = 0.10
_ENOUGH_AZIMUTHS = 6


def evaluate(
    folders: Sequence[Path],
    output: Path,
    jury: Jury,
    size: int,
    say: Callable[[str], None] = lambda phase: None,
) -> str:
    """Measures the runs, draws their sheets and returns the table.

    Args:
        folders: Of the runs.
        output: Folder of the sheets.
        jury: Judges portraits.
        size: Of the measured views.
        say: Is told which run is measured.

    Raises:
        CheckpointError: A folder is not that of a finished run.
    """
    rows: list[Row] = []
    seen: dict[Scene, list[Row]] = {}
    glances: dict[str, np.ndarray] = {}
    for number, folder in enumerate(folders, 1):
        say(f"measuring {number}/{len(folders)} {folder}")
        settings, trained = load_finished(folder)
        scene, looks = Vocabulary().scene(settings.prompt), look_at(trained, size)
        truth = metrics.truth_portrait(scene, size=size)
        output.mkdir(parents=True, exist_ok=True)
        name = f"{slug(settings.prompt)}-seed{settings.seed}.png"
        save_png(output / name, draw_sheet(looks, truth))
        if settings.prompt not in glances:
            glances[settings.prompt] = glance(trained)
        if scene not in seen:
            marks = {
                "truth": truth,
                "empty": metrics.empty_portrait(size=size),
                "sphere": metrics.sphere_portrait(scene, size=size),
            }
            seen[scene] = [measure(name, scene, p, jury) for name, p in marks.items()]
        title = f"{settings.prompt}, seed {settings.seed}"
        rows.append(measure(title, scene, portrait_of(looks), jury))
    save_png(output / "objects.png", contact_sheet(np.stack([*glances.values()]), [*glances]))
    # In colour from one side, and lit from another.
    tiles = np.stack([side_by_side(sides[0], sides[5]) for sides in glances.values()])
    save_png(output / "prompts.png", captioned(tiles, [*glances], min(_COLUMNS, len(tiles))))
    return write_table(rows, seen)


_HEADER = (
    "| object | IoU | PSNR | main colour | small parts | facing | opacity | haze "
    "| judge: category | judge: colour | judge: view | judge: modifier |\n" + "| --- " * 12 + "|\n"
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
        "-" if m.small_parts is None else f"{m.small_parts:.2f}",
        f"{m.facing:+.2f}" if has_front else "-",
        f"{m.opacity:.3f}",
        f"{m.haze:.2f}",
        f"{j.category}/{AZIMUTHS}" if j else "-",
        j.colour if j else "-",
        f"{j.view}/{AZIMUTHS}" if j and has_front else "-",
        "-" if j is None or j.modifier is None else f"{j.modifier}/{AZIMUTHS}",
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
    parts = [r.measures.small_parts for r in rows if r.measures.small_parts is not None]
    if parts:
        lines.append(f"small parts that are there: {np.mean(parts):.2f} of those of {len(parts)}")
    judged = [(r, r.judgement) for r in rows if r.judgement]
    if judged:
        clear = sum(j.category >= _ENOUGH_AZIMUTHS for _, j in judged)
        hue = sum(j.colour == r.scene.colour for r, j in judged)
        lines += [
            f"judge names the category from {_ENOUGH_AZIMUTHS} of {AZIMUTHS} azimuths: "
            f"{clear} of {total}",
            f"judge names the colour: {hue} of {total}",
        ]
        worn = [j.modifier for _, j in judged if j.modifier is not None]
        if worn:
            there = sum(count >= _ENOUGH_AZIMUTHS for count in worn)
            lines.append(f"judge sees the modifier in its colour: {there} of {len(worn)}")
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

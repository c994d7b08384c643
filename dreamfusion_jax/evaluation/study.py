"""One change of the settings at a time, each measured against the truth."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from dreamfusion_jax.evaluation.measuring import (
    Jury,
    Row,
    draw_sheet,
    look_at,
    measure,
    portrait_of,
)
from dreamfusion_jax.evaluation.objects import make_objects
from dreamfusion_jax.evaluation.truth_metrics import AZIMUTHS, truth_portrait
from dreamfusion_jax.looks.media import save_png
from dreamfusion_jax.presets import Preset, changed
from dreamfusion_jax.runs.run import LoadedPrior, load_finished, slug
from dreamfusion_jax.toybox.captions import Vocabulary

Change = Mapping[str, object]
"""Dotted names of settings of a `RunConfig`, and their values."""


def study(
    changes: Mapping[str, Change],
    preset: Preset,
    prompts: Sequence[str],
    seed: int,
    output: Path,
    jury: Jury,
    size: int,
    loaded: LoadedPrior | None = None,
    say: Callable[[str], None] = lambda phase: None,
) -> dict[str, list[Row]]:
    """Makes the same prompts with the same seed under every change, and measures them.

    Args:
        changes: Of the preset, by name.
        preset: What is changed.
        prompts: What to make with each.
        seed: Of all objects.
        output: Folder of the sheets and the runs; what is finished there is not made again.
        jury: Judges portraits.
        size: Height and width of the measured views, pixels.
        loaded: The prior; the embedded one if not given.
        say: Is told of phases, and each line of the table as it comes.

    Returns:
        What was measured of each prompt, by the name of the change.
    """
    found: dict[str, list[Row]] = {}
    for name, change in changes.items():
        say(f"== {name}")
        folder, rows = output / slug(name), found.setdefault(name, [])
        varied = dataclasses.replace(preset, config=changed(preset.config, change))
        for run in make_objects(prompts, (seed,), folder, varied, loaded, say=say):
            settings, trained = load_finished(run)
            scene, looks = Vocabulary().scene(settings.prompt), look_at(trained, size)
            truth = truth_portrait(scene, size=size)
            save_png(folder / f"{run.name}.png", draw_sheet(looks, truth))
            rows.append(measure(settings.prompt, scene, portrait_of(looks), jury))
        say(line_of(name, rows).strip())
    return found


def table_of(found: Mapping[str, list[Row]]) -> str:
    """A table as Markdown, a line for each change."""
    header = (
        "| change | IoU | PSNR | facing | colours right | small parts | haze | judge "
        "| IoU of each |\n"
    )
    lines = [line_of(name, rows) for name, rows in found.items()]
    return header + "| --- " * 9 + "|\n" + "".join(lines)


def line_of(name: str, rows: list[Row]) -> str:
    """A line of the table: means over the prompts, and each prompt's overlap."""
    values = [row.measures for row in rows]
    judged = [row.judgement.category for row in rows if row.judgement]
    parts = [m.small_parts for m in values if m.small_parts is not None]
    cells = [
        name,
        f"{np.mean([m.iou for m in values]):.3f}",
        f"{np.mean([m.psnr for m in values]):.1f}",
        f"{np.mean([m.facing for m in values]):+.2f}",
        f"{sum(m.colour == row.scene.colour for m, row in zip(values, rows, strict=True))}",
        f"{np.mean(parts):.2f}" if parts else "-",
        f"{np.mean([m.haze for m in values]):.2f}",
        f"{np.mean(judged):.1f}/{AZIMUTHS}" if judged else "-",
        ", ".join(f"{row.name} {row.measures.iou:.2f}" for row in rows),
    ]
    return f"| {' | '.join(cells)} |\n"

"""Tries settings of distillation, one change at a time, and measures each against the truth.

    python -m experiments.study
    python -m experiments.study --changes default "guidance 3"
    python -m experiments.study --preset paper --steps 400 --prompts "a red car"

Every change makes the same prompts with the same seed; what is finished is not made again,
so that a study can be stopped, widened, and split over several machines. Writes table.md, a
plot of it as study.png and study.pdf, its numbers as study.json, and a contact sheet for each
object to --output.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import tyro

from dreamfusion_jax import presets
from dreamfusion_jax.distillation.adam import AdamConfig
from dreamfusion_jax.evaluation.judge import SHIPPED
from dreamfusion_jax.evaluation.measuring import Row, load_jury
from dreamfusion_jax.evaluation.study import Change, study, table_of
from dreamfusion_jax.looks.figures import save_figure, strips
from dreamfusion_jax.scene.fields.density import LITERAL
from dreamfusion_jax.schedules import Ramp
from experiments.command_line import as_program, one_line_errors, parsed, say, say_devices

_SDS, _LOSSES, _TOYBOX = "train.distillation", "train.losses", presets.TOYBOX.train

_OF_TOYBOX: dict[str, Change] = {
    "default": {},
    "guidance 1": {f"{_SDS}.guidance_weight": 1.0},
    "guidance 2": {f"{_SDS}.guidance_weight": 2.0},
    "guidance 3": {f"{_SDS}.guidance_weight": 3.0},
    "guidance 10": {f"{_SDS}.guidance_weight": 10.0},
    "guidance 30": {f"{_SDS}.guidance_weight": 30.0},
    "time range annealed to 0.75": {"train.time.high": Ramp(0.98, 0.75, 1.0)},
    "time range annealed to 0.5": {"train.time.high": Ramp(0.98, 0.5, 1.0)},
    "all times from the first step on": {"train.time.descent": 0.0},
    "no words for height and size": {"train.prompts.details": False},
    "times from 0.02 to 0.5": {"train.time.high": Ramp(0.5, 0.5, 0.0), "train.time.descent": 0.0},
    "time range annealed late to 0.5": {"train.time.high": Ramp(0.98, 0.5, 1.0, begin=2 / 3)},
    "weighting sigma squared": {f"{_SDS}.weighting": "sigma_squared"},
    "weighting uniform": {f"{_SDS}.weighting": "uniform"},
    "not clipped": {f"{_SDS}.clip_denoised": False},
    "never lit": {"train.lighting.diffuse_probability": 0.0},
    "always lit": {"train.lighting.diffuse_probability": 1.0},
    "the paper's four views": {"train.prompts.views": "nearest"},
    "elevation 10 to 45": {"train.cameras.elevation": (10.0, 45.0)},
    "one view a step": {"train.views": 1},
    "two views a step, twice as many steps": {
        "train.views": 2,
        "train.steps": 2 * _TOYBOX.steps,
    },
    "smoothness 0.02": {"scene.field.smoothness": 0.02},
    "smoothness 0.001": {"scene.field.smoothness": 0.001},
    "opacity 0.03": {f"{_LOSSES}.opacity": 0.03},
    "entropy to 0.3": {f"{_LOSSES}.entropy": dataclasses.replace(_TOYBOX.losses.entropy, end=0.3)},
    "orientation to 1": {
        f"{_LOSSES}.orientation": dataclasses.replace(_TOYBOX.losses.orientation, end=1.0)
    },
    "a normal a sample": {"scene.sampling.normals": "sample"},
    "grid 16 + 32 + 64": {"scene.field.grid.resolutions": (16, 32, 64)},
    "48 samples a ray": {"scene.sampling.intervals": 48},
    "16 samples where 24 have found something": {
        "scene.sampling.proposals": (24,),
        "scene.sampling.proposer": "field",
        "scene.sampling.intervals": 16,
    },
    "300 steps": {"train.steps": 300},
    "1200 steps": {"train.steps": 1200},
}

_OF_PAPER: dict[str, Change] = {
    "default": {},
    "density at the paper's word": {
        "scene.field.density": LITERAL,
        "scene.proposal.density": LITERAL,
    },
    "the paper's cameras": {"train.cameras": presets.PAPER.train.cameras},
    "no words for height and size": {"train.prompts": presets.PAPER.train.prompts},
    "all times from the first step on": {"train.time": presets.PAPER.train.time},
    "guidance 100": {f"{_SDS}.guidance_weight": 100.0},
    "not clipped": {f"{_SDS}.clip_denoised": False},
    "a learned background": {"scene.background": presets.PAPER.scene.background},
    "a learned background behind half of the views": {
        "scene.background": presets.PAPER.scene.background,
        "train.lighting.plain_backdrops": 0.5,
    },
    "the paper's losses": {"train.losses": presets.PAPER.train.losses},
    "the paper's lights": {"train.lighting": presets.PAPER.train.lighting},
    "the paper's rate": {"train.optimizer.learning_rate": 1e-4},
    "no blob": {
        f"scene.{part}.density": dataclasses.replace(model.density, strength=0.0)
        for part, model in (
            ("field", presets.PAPER.scene.field),
            ("proposal", presets.PAPER.scene.proposal),
        )
    },
    "Adam": {"train.optimizer": AdamConfig(learning_rate=1e-3)},
    "four views a step": {"train.views": 4},
    "a normal a sample": {"scene.sampling.normals": "sample"},
}
"""Without one departure from the paper each, and without one of the paper's own means."""

_LIT: Change = {
    # Half of the views keep their plain backdrop.
    "train.lighting": dataclasses.replace(
        presets.PAPER_SMALL.train.lighting,
        plain_backdrops=presets.FAST_SD.train.lighting.plain_backdrops,
    ),
}
_OF_FAST: dict[str, Change] = {
    "default": {},
    "the small prior's lights": _LIT,
    "its lights, no background, samples where objects are": {
        **_LIT,
        "scene.background": None,
        "scene.sampling.radius": presets.TOYBOX.scene.sampling.radius,
    },
}

CHANGES: dict[str, dict[str, Change]] = {
    "toybox": _OF_TOYBOX,
    "paper": _OF_PAPER,
    "fast-sd": _OF_FAST,
}
"""The changes to each preset."""

_FAST = presets.changed(
    presets.FAST_SD,
    {
        **presets.SEEN_BY_SMALL_PRIOR,
        # For a CPU.
        "scene.sampling.intervals": 48,
        "output": presets.OutputConfig(),
    },
)
CHANGED: dict[str, presets.Preset] = {
    "toybox": presets.preset("toybox"),
    "paper": presets.preset("paper"),
    "fast-sd": dataclasses.replace(presets.preset("fast-sd"), prior="toybox", config=_FAST),
}
"""What is changed: presets for the embedded prior, or what it asks of those for another one."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to try and where to put it.

    Attributes:
        preset: What is changed: "toybox", "paper", or "fast-sd" with the embedded prior in the
            place of Stable Diffusion.
        changes: Names from the list in this file; all of the preset's if none are given.
        steps: Length of every run; the preset's if not given.
        prompts: What to make with each.
        seed: Of all objects.
        output: Folder of the table, the sheets and the runs.
        judge: Folder of the judge; "None" leaves its column empty.
        size: Height and width of the measured views, pixels.
    """

    preset: Literal["toybox", "paper", "fast-sd"] = "toybox"
    changes: tuple[str, ...] = ()
    steps: int | None = None
    prompts: tuple[str, ...] = ("a red rocket", "a red mushroom")
    seed: int = 2
    output: Path = Path("outputs/study")
    judge: Path | None = SHIPPED
    size: int = 64


def draw(found: Mapping[str, list[Row]], folder: Path) -> Path:
    """Plots overlap and nearness to the truth: a line a change, a mark an object."""
    prompts = [row.name for row in next(iter(found.values()))]
    panels = {
        label: {
            prompt: [float(getattr(rows[number].measures, name)) for rows in found.values()]
            for number, prompt in enumerate(prompts)
        }
        for name, label in {"iou": "silhouette IoU", "psnr": "PSNR, dB"}.items()
    }
    figure = strips([*found], panels)
    return save_figure(folder, "study", figure, {"changes": [*found], "measures": panels})


def main(argv: list[str] | None = None) -> None:
    """Studies from the command line."""
    with one_line_errors():
        arguments = parsed(lambda: tyro.cli(Arguments, args=argv, description=__doc__))
        known = CHANGES[arguments.preset]
        for name in arguments.changes:
            if name not in known:
                raise ValueError(f"unknown change {name!r}; known: {', '.join(known)}")
        if not arguments.prompts:
            raise ValueError("--prompts must not be empty")
        preset = CHANGED[arguments.preset]
        if arguments.steps is not None:
            config = presets.changed(preset.config, {"train.steps": arguments.steps})
            preset = dataclasses.replace(preset, config=config)
        say_devices()
        found = study(
            {name: known[name] for name in arguments.changes or known},
            preset,
            arguments.prompts,
            arguments.seed,
            arguments.output,
            load_jury(arguments.judge),
            arguments.size,
            say=say,
        )
        table = table_of(found)
        (arguments.output / "table.md").write_text(table, encoding="utf-8")
        draw(found, arguments.output)
        print(table)


if __name__ == "__main__":
    as_program(main)

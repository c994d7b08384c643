"""Trains the embedded prior: a small text-to-image diffusion model of the toybox.

    python -m experiments.draw_bank --folder outputs/bank
    python -m experiments.train_toybox --bank outputs/bank --bfloat16
    python -m experiments.train_toybox --bank outputs/bank --preset small

The first command traces the views that all training pictures are coloured from. The second
learns the whole toy world at 64 x 64 pixels, the third a dozen of its toys at 32 x 32 (for
which the bank is drawn with `--size 32 --wide 0`). The output folder has the layout of PyTorch
diffusers; use it with `--weights FOLDER` of experiments.run and experiments.sample. Stop with
Ctrl-C at any time: the same command goes on from there.
"""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import tyro

from dreamfusion_jax.toybox.training.data import SMALL, WHOLE, Settings
from dreamfusion_jax.toybox.training.loop import Running, Training, open_folder
from experiments.command_line import as_program, one_line_errors, parsed, say_devices

PresetName = Literal["whole", "small"]

PRESETS: Mapping[PresetName, Settings] = {"whole": WHOLE, "small": SMALL}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to train and what to show meanwhile.

    Attributes:
        preset: "whole" is the whole world at 64 x 64 pixels, for a GPU or half a day of a CPU;
            "small" is twelve toys at 32 x 32, for a few hours of a CPU.
        running: What to show and to keep.
        settings: Every setting of the preset.
    """

    preset: PresetName = "whole"
    running: Annotated[Running, tyro.conf.arg(name="")] = Running()
    settings: Annotated[Settings, tyro.conf.arg(name="")] = WHOLE


@dataclasses.dataclass(frozen=True)
class _Preset:
    preset: PresetName = "whole"


def chosen_preset(argv: Sequence[str] | None) -> PresetName:
    """The one argument on which the defaults of the others depend."""
    chosen, _ = tyro.cli(_Preset, args=argv, add_help=False, return_unknown_args=True)
    return chosen.preset


def parse(argv: list[str]) -> Arguments:
    """Reads the command line.

    Raises:
        ValueError: Unknown options, or values that make no sense.
    """
    arguments, unknown = parsed(lambda: _read(argv))
    if unknown:
        raise ValueError(f"unknown option {unknown[0]}; --help lists them all")
    check(arguments.settings, arguments.running)
    return arguments


def _read(argv: list[str]) -> tuple[Arguments, list[str]]:
    """The arguments, and options that are none."""
    preset = chosen_preset(argv)
    return tyro.cli(
        Arguments,
        args=argv,
        default=Arguments(preset=preset, settings=PRESETS[preset]),
        description=__doc__,
        return_unknown_args=True,
    )


def check(settings: Settings, running: Running) -> None:
    """Raises ValueError for settings that make no sense."""
    positive = {
        "--optimization.steps": settings.optimization.steps,
        "--optimization.batch-size": settings.optimization.batch_size,
        "--save-every": settings.save_every,
        "--log-every": running.log_every,
        "--sample-steps": running.sample_steps,
    }
    for name, value in positive.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    model = settings.model
    if model.block < 1 or model.image_size % model.block:
        raise ValueError("--model.image-size must be a multiple of --model.block")


def main(argv: list[str] | None = None) -> None:
    """Trains from the command line."""
    with one_line_errors():
        arguments = parse(sys.argv[1:] if argv is None else argv)
        say_devices()
        open_folder(arguments.settings, arguments.running.bfloat16)
        Training(arguments.settings, arguments.running).run()


if __name__ == "__main__":
    as_program(main)

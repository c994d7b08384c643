"""Text to 3D: a prompt becomes a checkpoint, a turntable video and a mesh.

    python -m experiments.run --prompt "a red mushroom"

Everything goes to outputs/<prompt>-seed<seed>/. Stop with Ctrl-C at any time and go on
with --resume and that folder.
"""

import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import tyro

from dreamfusion_jax import config as presets
from dreamfusion_jax.checkpoint import CheckpointError, load_config, save_config
from dreamfusion_jax.config import RunConfig
from dreamfusion_jax.priors import PriorName, load_prior
from experiments.session import Session

PRESETS = {
    "toybox": {None: presets.TOYBOX, "grid": presets.TOYBOX, "mlp": presets.TOYBOX_MLP},
    "paper": {None: presets.PAPER, "grid": presets.PAPER_GRID, "mlp": presets.PAPER},
}


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to make and where to put it.

    Attributes:
        prompt: What to make, for example "a red mushroom".
        seed: Of everything random; the same seed gives the same object.
        preset: "toybox" is made for a CPU and a few minutes; "paper" is DreamFusion as
            published (hours on a CPU).
        steps: Length of the optimisation; the preset's if not given.
        output: Folder that gets the run's folder.
        resume: Folder of a stopped run to go on with; give no other option with it.
        prior: "toybox" is the diffusion model that comes with the package; "oracle" knows
            the true picture, for testing everything else.
        weights: Folder of another toybox prior (see experiments.train_toybox).
        field: "grid" is fast, "mlp" is the paper's; the preset's if not given.
        config: Every other setting of the preset.
    """

    prompt: str = ""
    seed: int = 0
    preset: Literal["toybox", "paper"] = "toybox"
    steps: int | None = None
    output: Path = Path("outputs")
    resume: Path | None = None
    prior: PriorName = "toybox"
    weights: Path | None = None
    field: Literal["grid", "mlp"] | None = None
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = presets.TOYBOX


class UsageError(ValueError):
    """A request that cannot be carried out; the message is one line for the user."""


def parse(argv: list[str]) -> Arguments:
    """Reads the command line; preset, field and prior choose the defaults of the rest.

    Raises:
        UsageError: Unknown options, or values that make no sense.
    """
    preset = _peek(argv, "preset", ("toybox", "paper")) or "toybox"
    config = PRESETS[preset][_peek(argv, "field", ("grid", "mlp"))]
    arguments, unknown = tyro.cli(
        tyro.conf.configure(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)(Arguments),
        args=argv,
        default=Arguments(config=config),
        description=__doc__,
        return_unknown_args=True,
    )
    if unknown:
        raise UsageError(f"unknown option {unknown[0]}; --help lists them all")
    return _check(arguments)


def _peek(argv: list[str], name: str, options: tuple[str, ...]) -> str | None:
    """Value of one option before the rest can be read."""
    for at, word in enumerate(argv):
        flag, _, value = word.partition("=")
        if flag == f"--{name}":
            value = value or (argv[at + 1] if at + 1 < len(argv) else "")
            if value not in options:
                raise UsageError(f"--{name} must be one of {', '.join(options)}, not {value!r}")
            return value
    return None


def _check(arguments: Arguments) -> Arguments:
    """Folds --seed and --steps into the configuration, and refuses what makes no sense."""
    if arguments.resume is not None:
        return arguments
    if not arguments.prompt.strip():
        raise UsageError("the prompt is empty; try --prompt 'a red mushroom'")
    train = dataclasses.replace(arguments.config.train, seed=arguments.seed)
    if arguments.steps is not None:
        train = dataclasses.replace(train, steps=arguments.steps)
    output = arguments.config.output
    positive = {
        "--steps": train.steps,
        "--train.views": train.views,
        "--output.size": output.size,
        "--output.frames": output.frames,
        "--output.preview-size": output.preview_size,
        "--output.preview-every": output.preview_every,
        "--output.checkpoint-every": output.checkpoint_every,
    }
    for name, value in positive.items():
        if value < 1:
            raise UsageError(f"{name} must be at least 1, not {value}")
    if arguments.seed < 0:
        raise UsageError(f"--seed must not be negative, not {arguments.seed}")
    config = dataclasses.replace(arguments.config, train=train)
    return dataclasses.replace(arguments, config=config)


def slug(prompt: str) -> str:
    """The prompt as a folder name."""
    return re.sub("[^a-z0-9]+", "-", prompt.lower()).strip("-")


def open_folder(arguments: Arguments, argv: list[str]) -> tuple[Arguments, Path]:
    """The run's folder, made anew or found again, and the arguments it was begun with.

    Raises:
        UsageError: It exists already, or cannot be written.
        CheckpointError: The folder to resume is missing or not a run's.
    """
    if arguments.resume is not None:
        if len(argv) > (1 if "=" in argv[0] else 2):
            raise UsageError("--resume takes all settings from its folder; give no other option")
        saved = load_config(arguments.resume)
        if "arguments" not in saved:
            raise CheckpointError(f"{arguments.resume} is not the folder of a run")
        begun = parse(list(saved["arguments"]))
        if _resolved(begun) != saved["settings"]:
            raise CheckpointError(f"{arguments.resume} was begun with another version's settings")
        return begun, arguments.resume
    folder = arguments.output / f"{slug(arguments.prompt)}-seed{arguments.seed}"
    if (folder / "config.json").exists():
        raise UsageError(f"{folder} holds a run already: --resume {folder}, or another --output")
    try:
        save_config(folder, {"arguments": argv, "settings": _resolved(arguments)})
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from error
    return arguments, folder


def _resolved(arguments: Arguments) -> dict:
    return json.loads(json.dumps(dataclasses.asdict(arguments), default=str))


def main(argv: list[str] | None = None) -> None:
    """Runs from the command line."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        arguments = parse(argv)
        if arguments.resume is None:
            load = load_prior(arguments.prior, arguments.prompt, arguments.weights)
            arguments, folder = open_folder(arguments, argv)
        else:
            arguments, folder = open_folder(arguments, argv)
            load = load_prior(arguments.prior, arguments.prompt, arguments.weights)
        Session(arguments.prompt, arguments.config, folder, *load).run()
    except (UsageError, CheckpointError, ValueError, FileNotFoundError) as error:
        fail(str(error))


def fail(message: str) -> NoReturn:
    """Ends the program with one line and exit code 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main()

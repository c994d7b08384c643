"""Text to 3D: a prompt becomes a checkpoint, a turntable video and a mesh.

    python -m experiments.run --prompt "a red mushroom"

Everything goes to outputs/<prompt>-seed<seed>/. Stop with Ctrl-C at any time and go on
with --resume and that folder.
"""

import contextlib
import dataclasses
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro

from dreamfusion_jax import presets
from dreamfusion_jax.presets import RunConfig
from dreamfusion_jax.priors.loading import PriorName, load_prior
from dreamfusion_jax.priors.prior import Prior, PriorParams, encode_prompts
from dreamfusion_jax.runs.checkpoint import CheckpointError, load_config, save_config
from dreamfusion_jax.runs.session import Session
from experiments.errors import one_line_errors

PresetName = Literal[
    "toybox", "quality", "paper", "paper-if", "paper-sd", "fast-if", "fast-sd", "latent-sd"
]
PRESETS: dict[PresetName, tuple[PriorName, RunConfig]] = {
    "toybox": ("toybox", presets.TOYBOX),
    "quality": ("toybox", presets.QUALITY),
    "paper": ("toybox", presets.PAPER),
    "paper-if": ("deepfloyd", presets.PAPER),
    "paper-sd": ("stable-diffusion", presets.PAPER),
    "fast-if": ("deepfloyd", presets.FAST_IF),
    "fast-sd": ("stable-diffusion", presets.FAST_SD),
    "latent-sd": ("stable-diffusion", presets.LATENT_SD),
}
USUAL: dict[PriorName, PresetName] = {
    "toybox": "toybox",
    "oracle": "toybox",
    "stable-diffusion": "fast-sd",
    "deepfloyd": "fast-if",
}
"""The preset of each prior, where none is named."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to make and where to put it.

    Attributes:
        prompt: What to make, for example "a red mushroom".
        negative_prompt: What to steer away from.
        seed: Of everything random; the same seed gives the same object.
        preset: "toybox" is made for a CPU and a few minutes, "quality" for three times as
            many; "paper" is DreamFusion as published (hours on a CPU), "paper-if" and
            "paper-sd" the same with a pretrained prior; "fast-if" and "fast-sd" want a GPU
            and less patience; "latent-sd" renders latents, which is faster and coarser.
        steps: Length of the optimisation; the preset's if not given.
        output: Folder that gets the run's folder.
        resume: Folder of a stopped run to go on with; give no other option with it.
        prior: "toybox" is the diffusion model that comes with the package, "oracle" knows
            the true picture of its objects, for testing everything else;
            "stable-diffusion" and "deepfloyd" take open prompts and have weights to fetch.
            The preset's if not given.
        weights: Other weights for the prior: a folder, or a repository on the hub, with
            @REVISION if not its newest. Diffusers' layout; of "toybox", a folder that
            experiments.train_toybox wrote.
        image_size: Height and width of the renderings that Stable Diffusion is shown, 64 to
            512 pixels; 64 if not given. Other priors have a size of their own.
        field: "grid" is fast, "mlp" is the paper's; the preset's if not given.
        config: Every other setting of the preset.
    """

    prompt: str = ""
    negative_prompt: str = ""
    seed: int = 0
    preset: PresetName = "toybox"
    steps: int | None = None
    output: Path = Path("outputs")
    resume: Path | None = None
    prior: PriorName = "toybox"
    weights: str | None = None
    image_size: int | None = None
    field: presets.FieldName | None = None
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = presets.TOYBOX


LAST_FILE = "mesh.glb"
"""What a finished run has written last."""


_OPTIONS = {
    "clip_denoised": "--train.distillation.clip-denoised",
    "image_size": "--image-size",
    "latent scene": "--prior",
    "a mirror": "--weights",
}
"""What errors of the library speak of, and the options that set it."""


class UsageError(ValueError):
    """A request that cannot be carried out; the message is one line for the user."""


def parse(argv: list[str]) -> Arguments:
    """Reads the command line; preset, field and prior choose the defaults of the rest.

    Raises:
        UsageError: Unknown options, or values that make no sense.
    """
    prior = _peek(argv, "prior", PriorName)
    preset = _peek(argv, "preset", PresetName) or USUAL[prior or "toybox"]
    field = _peek(argv, "field", presets.FieldName)
    usual_prior, config = PRESETS[preset]
    if field is not None:
        config = presets.with_field(config, field)
    arguments, unknown = tyro.cli(
        tyro.conf.configure(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)(Arguments),
        args=argv,
        default=Arguments(preset=preset, prior=usual_prior, config=config),
        description=__doc__,
        return_unknown_args=True,
    )
    if unknown:
        raise UsageError(f"unknown option {unknown[0]}; --help lists them all")
    if arguments.resume is not None:
        if len(argv) > (1 if "=" in argv[0] else 2):
            raise UsageError("--resume takes all settings from its folder; give no other option")
        return arguments
    return _check(arguments)


def _peek(argv: list[str], name: str, kind: Any) -> Any:
    """Value of one option, one of the words of a Literal, before the rest can be read."""
    options = get_args(kind)
    for at, word in enumerate(argv):
        flag, _, value = word.partition("=")
        if flag == f"--{name}":
            value = value or (argv[at + 1] if at + 1 < len(argv) else "")
            if value not in options:
                raise UsageError(f"--{name} must be one of {', '.join(options)}, not {value!r}")
            return value
    return None


def _check(arguments: Arguments) -> Arguments:
    """Folds --steps into the configuration, and refuses what makes no sense."""
    if not arguments.prompt.strip():
        raise UsageError("the prompt is empty; try --prompt 'a red mushroom'")
    train = arguments.config.train
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


def resumed(folder: Path) -> Arguments:
    """The arguments that a run's folder was begun with.

    Raises:
        CheckpointError: The folder is missing or not a run's.
    """
    saved = load_config(folder)
    if "arguments" not in saved:
        raise CheckpointError(f"{folder} is not the folder of a run")
    begun = parse(list(saved["arguments"]))
    if _resolved(begun) != saved["settings"]:
        raise CheckpointError(f"{folder} was begun with another version's settings")
    return begun


def find_folder(arguments: Arguments) -> Path:
    """Where a new run will write.

    Raises:
        UsageError: There is a run already.
    """
    folder = arguments.output / f"{slug(arguments.prompt)}-seed{arguments.seed}"
    if (folder / "config.json").exists():
        raise UsageError(f"{folder} holds a run already: --resume {folder}, or another --output")
    return folder


def make_folder(folder: Path, arguments: Arguments, argv: list[str]) -> None:
    """Makes the folder of a new run, with everything that is needed to resume it.

    Raises:
        UsageError: It cannot be written.
    """
    try:
        save_config(folder, {"arguments": argv, "settings": _resolved(arguments)})
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}") from error


def _resolved(arguments: Arguments) -> dict:
    return json.loads(json.dumps(dataclasses.asdict(arguments), default=str))


@contextlib.contextmanager
def _options_named() -> Iterator[None]:
    """Adds to errors of the library the options of the settings that they speak of."""
    try:
        yield
    except ValueError as error:
        named = [option for setting, option in _OPTIONS.items() if setting in str(error)]
        if not named:
            raise
        raise UsageError(f"{error} ({', '.join(named)})") from error


def start(argv: list[str], loaded: tuple[Prior, PriorParams] | None = None) -> Session:
    """Reads the command line, loads the prior, encodes the prompt, then opens the folder.

    Nothing is written before everything that can be refused has been accepted.

    Args:
        argv: The command line.
        loaded: The prior, where many runs share one that is in memory already.

    Raises:
        ValueError: A request that cannot be carried out.
        OSError: Weights that cannot be read.
    """
    arguments = parse(argv)
    resuming = arguments.resume is not None
    folder = arguments.resume or find_folder(arguments)
    if resuming:
        arguments = resumed(folder)
    config = arguments.config
    with _options_named():
        prior, params = loaded or load_prior(
            arguments.prior,
            arguments.prompt,
            arguments.weights,
            latent=config.scene.latent,
            image_size=arguments.image_size,
        )
    with _options_named():
        config.train.distillation.check(prior)
    text = encode_prompts(
        prior, params, arguments.prompt, config.train.prompts, arguments.negative_prompt
    )
    if not resuming:
        make_folder(folder, arguments, argv)
    return Session(text, config, folder, prior, params, arguments.seed)


def main(argv: list[str] | None = None) -> None:
    """Runs from the command line."""
    with one_line_errors():
        start(sys.argv[1:] if argv is None else argv).run()


if __name__ == "__main__":
    main()

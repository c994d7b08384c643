"""The command line of experiments.run."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import tyro

from dreamfusion_jax import presets
from dreamfusion_jax.checks import SettingError
from dreamfusion_jax.devices import OutOfMemoryError
from dreamfusion_jax.diffusion.checkpoints.known_kinds import FilePrediction
from dreamfusion_jax.field_choice import FieldName, with_field
from dreamfusion_jax.presets import RunConfig
from dreamfusion_jax.priors.loading import PriorName
from dreamfusion_jax.runs.settings import RunSettings
from dreamfusion_jax.viewer.server import PORT
from experiments.command_line import UsageError, parsed

DESCRIPTION = """Text to 3D: a prompt becomes a checkpoint, a turntable video and a mesh.

    python -m experiments.run --prompt "a red mushroom"

Everything goes to outputs/<prompt>-seed<seed>/. Stop with Ctrl-C at any time and go on
with --resume and that folder.

    python -m experiments.run --prompts-file prompts.txt --seeds 0 1 2 3

makes many, as many at once as memory allows; the same command goes on where it was stopped.
"""

_BESIDE_RESUME = ("--viewer", "--tensorboard", "--port", "--hosts")
"""With these and --split a run that was stopped may go on in another way than it began."""

_OPTIONS = {
    "clip_denoised": "--train.distillation.clip-denoised",
    "image_size": "--image-size",
    "other sizes": "--train.sizes",
    "plain_backdrops": "--train.lighting.plain-backdrops",
    "loras": "--lora",
    "prediction_type": "--prediction-type",
    "tokenizer is": "--tokenizer",
    "latent scene": "--prior",
    "take_the_time": "--take-the-time",
    "train.views": "--train.views",
    "views must be": "--train.views",
    "latent-sd": "--preset latent-sd",
    "a mirror": "--weights",
}
"""What errors of the library speak of, and the options that set it."""


@contextlib.contextmanager
def options_named() -> Iterator[None]:
    """Adds to errors of the library the options of the settings that they speak of."""
    try:
        yield
    except (ValueError, OutOfMemoryError) as error:
        named = [option for setting, option in _OPTIONS.items() if setting in str(error)]
        if not named:
            raise
        raise UsageError(f"{error} ({', '.join(named)})") from error


@dataclasses.dataclass(frozen=True)
class SplitOptions:
    """How several devices share the work; what is not given is chosen.

    Attributes:
        scene: Parts of the scenes of a batch.
        view: Parts of the views of a step.
        model: Parts of the prior's weights.
    """

    scene: int | None = None
    view: int | None = None
    model: int | None = None


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to make and where to put it.

    Attributes:
        prompt: What to make, for example "a red mushroom".
        prompts_file: A text file with a prompt a line, in the place of the prompt; empty lines
            and those that begin with # say nothing.
        negative_prompt: What to steer away from.
        seed: Of everything random; the same seed gives the same object.
        seeds: Several seeds of every prompt; the best of them is then named.
        shard: Share I/N of the prompts of the file, I from 1 to N, for jobs beside each other.
        batch: How many scenes are trained at once; what fits into memory if not given.
        split: How several devices share the work. May stand beside --resume.
        hosts: "auto" on TPU pods and under Slurm, elsewhere ADDRESS:PORT of the first host, the
            number of hosts, and which of them this is, from 0: the same command on each of them
            trains one run. They share the folder. May stand beside --resume.
        preset: Where the settings begin; see the list above. The usual one of the prior if not
            given.
        steps: Length of the optimisation; the preset's if not given.
        output: Folder that gets the run's folder.
        init_from: Folder of a run, or a scene.safetensors, whose scene this one begins with; of the
            same preset and field. A prompt is refined so, step by step.
        retries: How often to start again, each time with the next seed, where the finished scene
            is empty, fog, flat, or has several faces; the best of them is then named.
        take_the_time: Start even where the run takes more than 12 hours on the device at hand.
        resume: Folder of a stopped run to go on with; give no other option with it.
        prior: "toybox" is the diffusion model that comes with the package, "oracle" knows
            the true picture of its objects, for testing everything else;
            "stable-diffusion", "deepfloyd" and "mvdream" take open prompts and have weights to
            fetch.
            The preset's if not given.
        weights: Other weights for the prior: a folder, or a repository on the hub, with
            @REVISION if not its newest. Diffusers' layout; of "toybox", a folder that
            experiments.train_toybox wrote; of Stable Diffusion also one .safetensors file.
        lora: Files of LoRAs, FILE[:SCALE], that are merged into Stable Diffusion.
        prediction_type: What the UNet of a single file predicts, where the file does not tell:
            SD 2.x for pictures of 512 pixels "epsilon", for 768 "v_prediction".
        tokenizer: Folder or repository of the tokenizer of a single file, which holds none.
        image_size: Height and width of the renderings that Stable Diffusion is shown, 64 to
            512 pixels; 64 if not given. Other priors have a size of their own.
        field: "grid" is fast, "hash" is Instant-NGP's, "mlp" is the paper's; the preset's if not
            given.
        compilation_cache: Keep compiled programs in the user's cache folder (or in
            $JAX_COMPILATION_CACHE_DIR), so that the next run starts sooner.
        viewer: Show the run in a browser while it trains, with pause and step; needs the extra
            "viewer". May stand beside --resume.
        port: Of that page; 0 takes any that is free.
        tensorboard: Write events for TensorBoard into the run's folder; needs the extra
            "tensorboard". May stand beside --resume.
        config: Every other setting of the preset.
    """

    prompt: str = ""
    prompts_file: Path | None = None
    negative_prompt: str = ""
    seed: int = 0
    seeds: tuple[int, ...] = ()
    shard: str | None = None
    batch: int | None = None
    split: SplitOptions = SplitOptions()
    hosts: tuple[str, ...] = ()
    preset: str = "toybox"
    steps: int | None = None
    output: Path = Path("outputs")
    init_from: Path | None = None
    retries: int = 0
    take_the_time: tyro.conf.UseCounterAction[int] = 0
    resume: Path | None = None
    prior: PriorName = "toybox"
    weights: str | None = None
    lora: tuple[str, ...] = ()
    prediction_type: FilePrediction | None = None
    tokenizer: str | None = None
    image_size: int | None = None
    field: FieldName | None = None
    compilation_cache: bool = True
    viewer: tyro.conf.UseCounterAction[int] = 0
    port: int = PORT
    tensorboard: tyro.conf.UseCounterAction[int] = 0
    config: Annotated[RunConfig, tyro.conf.arg(name="")] = presets.TOYBOX

    @property
    def many(self) -> bool:
        """Whether several scenes are asked for."""
        return self.prompts_file is not None or bool(self.seeds)


def parse(argv: list[str]) -> Arguments:
    """Reads the command line; preset, field and prior choose the defaults of the rest.

    Raises:
        UsageError: Unknown options, or values that make no sense.
    """
    prior = _peek(argv, "prior", get_args(PriorName))
    name = _peek(argv, "preset", [preset.name for preset in presets.PRESETS])
    field = _peek(argv, "field", get_args(FieldName))
    preset = presets.preset(name) if name else presets.usual_preset(prior or "toybox")
    config = preset.config
    if field is not None:
        config = with_field(config, field)
    kind = tyro.conf.configure(tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)(Arguments)
    default = Arguments(preset=preset.name, prior=preset.prior, config=config)
    description = f"{DESCRIPTION}\n{describe_presets()}"
    arguments, unknown = parsed(
        lambda: tyro.cli(
            kind, args=argv, default=default, description=description, return_unknown_args=True
        )
    )
    if unknown:
        raise UsageError(f"unknown option {unknown[0]}; --help lists them all")
    if arguments.resume is not None:
        words = _without_watching(argv)
        if len(words) > (1 if "=" in words[0] else 2):
            raise UsageError("--resume takes all settings from its folder; give no other option")
        return arguments
    return _check(arguments)


def describe_presets() -> str:
    """A list of the presets for the help."""
    lines = [f"- {p.name} (prior {p.prior}; {p.cost}): {p.promise}" for p in presets.PRESETS]
    return "\n".join(["Presets:", *lines])


def _peek(argv: list[str], name: str, options: Sequence[str]) -> Any:
    """Value of one option, one of a few words, before the rest can be read."""
    for at, word in enumerate(argv):
        flag, _, value = word.partition("=")
        if flag == f"--{name}":
            value = value or (argv[at + 1] if at + 1 < len(argv) else "")
            if value not in options:
                raise UsageError(f"--{name} must be one of {', '.join(options)}, not {value!r}")
            return value
    return None


def _without_watching(argv: list[str]) -> list[str]:
    """A command line without the options that change nothing of the run, and their values."""
    words, beside = [], False
    for word in argv:
        if word.startswith("--"):
            option = word.partition("=")[0]
            beside = option in _BESIDE_RESUME or option.startswith("--split.")
        if not beside:
            words.append(word)
    return words


def _check(arguments: Arguments) -> Arguments:
    """Folds --steps into the configuration, and refuses what makes no sense."""
    if arguments.many:
        _check_many(arguments)
    elif arguments.shard is not None or arguments.batch is not None:
        raise UsageError("--shard and --batch are for --prompts-file and --seeds")
    if arguments.prompts_file is None and not arguments.prompt.strip():
        raise UsageError("the prompt is empty; try --prompt 'a red mushroom'")
    if arguments.seed < 0:
        raise UsageError(f"--seed must not be negative, not {arguments.seed}")
    if arguments.retries < 0:
        raise UsageError(f"--retries must not be negative, not {arguments.retries}")
    if arguments.steps is None:
        return arguments
    try:
        config = presets.changed(arguments.config, {"train.steps": arguments.steps})
    except SettingError as error:
        raise UsageError(f"--steps {error.reason}") from error
    return dataclasses.replace(arguments, config=config)


def _check_many(arguments: Arguments) -> None:
    """Refuses what makes no sense for several scenes."""
    if arguments.prompts_file is not None and arguments.prompt:
        raise UsageError("give either --prompt or --prompts-file")
    if min(arguments.seeds, default=0) < 0:
        raise UsageError(f"--seeds must not be negative, not {min(arguments.seeds)}")
    if arguments.batch is not None and arguments.batch < 1:
        raise UsageError(f"--batch must be at least 1, not {arguments.batch}")
    if arguments.seeds and arguments.seed:
        raise UsageError("give either --seed or --seeds")
    if arguments.retries or arguments.viewer:
        raise UsageError("--retries and --viewer are for one scene, not for several")
    if arguments.hosts:
        raise UsageError("hosts train one scene together; of several, give each its --shard")


def settings_of(arguments: Arguments) -> RunSettings:
    """What the command line asks for."""
    return RunSettings(
        prompt=arguments.prompt,
        negative_prompt=arguments.negative_prompt,
        seed=arguments.seed,
        prior=arguments.prior,
        weights=arguments.weights,
        loras=arguments.lora,
        prediction_type=arguments.prediction_type,
        tokenizer=arguments.tokenizer,
        image_size=arguments.image_size,
        preset=arguments.preset,
        config=arguments.config,
        init_from=str(arguments.init_from) if arguments.init_from else None,
    )

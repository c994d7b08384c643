"""What a run was asked for, as values, and how these are kept in its folder.

A run's config.json holds every setting by value, so that a finished run stays readable when
defaults change: what is stored is taken, and a setting that was added since has the default
that the field of its class declares.
"""

import dataclasses
import datetime
import functools
import importlib.metadata
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from dreamfusion_jax.checks import SettingError
from dreamfusion_jax.diffusion.checkpoints.known_kinds import FilePrediction
from dreamfusion_jax.distillation.optimizers import OptimizerConfig
from dreamfusion_jax.distillation.protocol import Distillation
from dreamfusion_jax.distillation.sds import Sds
from dreamfusion_jax.presets import Preset, RunConfig
from dreamfusion_jax.priors.loading import PriorName, open_prior
from dreamfusion_jax.priors.opened import OpenedPrior, Say
from dreamfusion_jax.priors.prior import Prior, PriorParams
from dreamfusion_jax.runs.checkpoint import CheckpointError
from dreamfusion_jax.runs.old_settings import is_old, upgrade
from dreamfusion_jax.scene.fields.grid import GridField
from dreamfusion_jax.scene.fields.hash import HashField
from dreamfusion_jax.scene.fields.mlp import MlpField

if TYPE_CHECKING:
    import cattrs

FORMAT = 2
"""Of config.json; the first kind, which had no number, held the command line."""

_LIBRARIES = ("dreamfusion_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """Everything that decides what a run makes.

    Attributes:
        prompt: What to make, for example "a red mushroom".
        config: Scene, training and output.
        negative_prompt: What to steer away from.
        seed: Of everything random; the same seed gives the same object.
        prior: Which diffusion model is followed.
        weights: Folder or repository of its weights; None for the usual ones.
        image_size: Height and width of the renderings that a prior is shown which leaves them
            open, pixels; None for its own.
        preset: Name of the preset that the settings began as; it decides nothing.
        loras: Files of LoRAs, FILE[:SCALE], merged into the prior.
        prediction_type: What the UNet of a single file predicts, where the file does not tell.
        tokenizer: Folder or repository of the tokenizer of a single file.
        init_from: Folder or file of a scene to begin with, of the same field; None for a fresh one.

    Raises:
        ValueError: The prompt is empty, or the seed negative.
    """

    prompt: str
    config: RunConfig
    negative_prompt: str = ""
    seed: int = 0
    prior: PriorName = "toybox"
    weights: str | None = None
    image_size: int | None = None
    preset: str = ""
    loras: tuple[str, ...] = ()
    prediction_type: FilePrediction | None = None
    tokenizer: str | None = None
    init_from: str | None = None

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise ValueError("the prompt is empty; try 'a red mushroom'")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, not {self.seed}")

    @property
    def about(self) -> dict[str, str]:
        """What a scene should carry of its making."""
        return {"prompt": self.prompt, "seed": str(self.seed), "preset": self.preset}

    def load_prior(self) -> tuple[Prior, PriorParams]:
        """The prior and its parameters."""
        opened = self.open_prior()
        return opened.prior, opened.read(lambda phase: None)

    def open_prior(self, say: Say | None = None) -> OpenedPrior:
        """The prior, of which nothing large has been read; see `priors.loading.open_prior`."""
        return open_prior(
            self.prior,
            self.prompt,
            self.weights,
            latent=self.config.scene.latent,
            image_size=self.image_size,
            loras=self.loras,
            prediction_type=self.prediction_type,
            tokenizer=self.tokenizer,
            say=say,
        )

    @classmethod
    def of(cls, preset: Preset, prompt: str, seed: int = 0) -> "RunSettings":
        """The settings of a preset, with the prior that it is made for."""
        return cls(prompt, preset.config, seed=seed, prior=preset.prior, preset=preset.name)


@functools.cache
def _converter() -> "cattrs.Converter":
    """Dataclasses to JSON's values and back; the class of a union's member is its "kind"."""
    # Here, because a program's help needs none of it.
    import cattrs
    from cattrs.strategies import configure_tagged_union

    converter = cattrs.Converter(forbid_extra_keys=True)
    for union in (GridField | HashField | MlpField, OptimizerConfig):
        configure_tagged_union(union, converter, tag_name="kind")
    # A protocol does not list its kinds.
    kinds = {kind.__name__: kind for kind in (Sds,)}

    def store(value: Distillation) -> dict[str, Any]:
        return {**converter.unstructure(value), "kind": type(value).__name__}

    def read(values: dict[str, Any], _: Any) -> Distillation:
        settings = {name: value for name, value in values.items() if name != "kind"}
        return converter.structure(settings, kinds[values["kind"]])

    converter.register_unstructure_hook_func(lambda kind: kind is Distillation, store)
    converter.register_structure_hook_func(lambda kind: kind is Distillation, read)
    return converter


def to_json(value: Any, kind: Any = None) -> Any:
    """A configuration as JSON's values.

    Args:
        value: The dataclass.
        kind: The type it is declared as, where that is a union; else its own.
    """
    return _converter().unstructure(value, kind)


def from_json(values: Any, kind: Any) -> Any:
    """The inverse of `to_json`.

    Raises:
        ValueError: The values are not those of such a configuration; one line.
    """
    try:
        return _converter().structure(values, kind)
    except Exception as error:  # cattrs raises groups of the errors of all fields.
        from cattrs import transform_error

        raise ValueError("; ".join(transform_error(error, format_exception=_say))) from error


def _say(error: BaseException, kind: type | None) -> str:
    """What is wrong with one value; cattrs would drop what our own checks say."""
    from cattrs.v import format_exception

    own = type(error) in (ValueError, SettingError)
    return str(error) if own else format_exception(error, kind)


def describe_run(settings: RunSettings) -> dict[str, Any]:
    """Contents of a run's config.json: the settings, and what they are run with."""
    return {
        "format": FORMAT,
        "settings": to_json(settings),
        "made_with": {
            "versions": {name: _version(name) for name in _LIBRARIES},
            "commit": _commit(),
            "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
            "platform": jax.default_backend(),
            "begun": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
    }


def read_settings(saved: dict[str, Any], folder: Path) -> RunSettings:
    """The settings in the contents of a config.json, of this or an older format.

    Args:
        saved: What config.json holds.
        folder: Where it lies, for the messages.

    Raises:
        CheckpointError: It is not a run's, of a newer format, or damaged.
    """
    if is_old(saved):
        saved = upgrade(saved)
    if "settings" not in saved:
        raise CheckpointError(f"{folder} is not the folder of a run")
    if saved.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder} was written in format {saved.get('format')} by another version of this "
            f"package, which reads up to format {FORMAT}"
        )
    try:
        return from_json(saved["settings"], RunSettings)
    except ValueError as error:
        raise CheckpointError(f"the settings in {folder} cannot be read: {error}") from error


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the checkout that this package is imported from, if it is one."""
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    tracked = ["git", "-C", str(here), "ls-files", "--error-unmatch", "settings.py"]
    try:
        # An installed package may lie inside some other repository.
        subprocess.run(tracked, capture_output=True, check=True, timeout=10)
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None

"""What the pretrained priors share: how they are read from a folder in diffusers' layout."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax

from dreamfusion_jax.diffusion.checkpoints.checkpoint import Checkpoint
from dreamfusion_jax.diffusion.checkpoints.tensors import WeightsError
from dreamfusion_jax.diffusion.checkpoints.weights import (
    CheckpointModel,
    Params,
    param_shapes,
    read_params,
)
from dreamfusion_jax.diffusion.layers import Dtype
from dreamfusion_jax.diffusion.noise_schedule import NoiseSchedule
from dreamfusion_jax.diffusion.unet import UNet2DConditionModel
from dreamfusion_jax.diffusion.unet_config import UNetConfig
from dreamfusion_jax.priors.opened import OpenedPrior, Say, blank_embeddings
from dreamfusion_jax.priors.prior import Prior, PriorParams
from dreamfusion_jax.priors.text import TEXT_LENGTH, Embeddings
from dreamfusion_jax.priors.unet_prior import UNetPrior

_BETAS = ("beta_schedule", "beta_start", "beta_end")
# Parts of the names of schedulers whose z_t is something else: flow matching, and processes
# whose variance grows.
_OTHER_SCHEDULERS = ("FlowMatch", "EDM", "KarrasVe", "ScoreSdeVe", "CMStochastic", "Wuerstchen")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class PretrainedPrior(UNetPrior):
    """A `UNetPrior` whose text encoder is not in memory.

    Attributes:
        text: Prompts to their embeddings, such as a `CachedText`.
    """

    text: Callable[[Sequence[str]], Embeddings]

    def encode_text(self, params: PriorParams, prompts: Sequence[str]) -> Embeddings:
        """Embeddings of prompts; the text encoder's weights are not among `params`."""
        del params
        return self.text(prompts)


def read_unet(
    pipeline: Checkpoint, channels: int, dtype: Dtype
) -> tuple[UNet2DConditionModel, int]:
    """The UNet that a pipeline's configuration describes, without its weights.

    Args:
        pipeline: The checkpoint.
        channels: C of z_0.
        dtype: What it computes in.

    Returns:
        The UNet, and the height and width of z_0.

    Raises:
        WeightsError: It does not map noised images of C channels, and nothing else, to noise.
        ValueError: An option of the configuration is not supported.
    """
    config = UNetConfig.from_json(pipeline.config("unet"))
    if config.sample_size is None:
        raise WeightsError(f"the UNet of {pipeline.identity} does not state its sample_size")
    # With a learned variance, the outputs are twice as many.
    if config.in_channels != channels or config.out_channels not in (channels, 2 * channels):
        raise WeightsError(
            f"the UNet of {pipeline.identity} maps {config.in_channels} channels to "
            f"{config.out_channels}; a text-to-image model here maps {channels} to "
            f"{channels} or {2 * channels}"
        )
    return UNet2DConditionModel(config, dtype), config.sample_size


def open_parts(
    pipeline: Checkpoint,
    prior: Prior,
    text_width: int,
    parts: Mapping[str, tuple[CheckpointModel, Dtype]],
) -> OpenedPrior:
    """A prior whose weights are read one component after the other, when they are asked for.

    Args:
        pipeline: The checkpoint.
        prior: The prior.
        text_width: Numbers in the embedding of a token.
        parts: By component, the model and the type of its parameters.
    """

    def shape(model: CheckpointModel, dtype: Dtype) -> Params:
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), param_shapes(model)
        )

    def read(say: Say) -> PriorParams:
        return {
            name: _read_component(pipeline, name, model, dtype, say)
            for name, (model, dtype) in parts.items()
        }

    return OpenedPrior(
        prior,
        {name: shape(*part) for name, part in parts.items()},
        blank_embeddings(TEXT_LENGTH, text_width),
        None,
        read,
    )


def _read_component(
    pipeline: Checkpoint, name: str, model: CheckpointModel, dtype: Dtype, say: Say
) -> Params:
    """The parameters of a component, placed on the device.

    Raises:
        WeightsError: They cannot be had, or do not fit the model.
        OutOfMemoryError: The device has no room for them.
    """
    source = f"{pipeline.identity}/{name}"
    say(f"reading {source} ({pipeline.volume(name)})")
    return read_params(source, pipeline.tensors(name), model, dtype=dtype)


def read_schedule(pipeline: Checkpoint) -> NoiseSchedule:
    """The noise schedule of a pipeline.

    Raises:
        WeightsError: It is none that preserves variance, z_t = alpha_t x + sigma_t eps with
            alpha_t^2 + sigma_t^2 = 1; or an option of it is not supported.
    """
    values = pipeline.config("scheduler", "scheduler_config.json")
    name = str(values.get("_class_name", "a scheduler without a name"))
    refusal = (
        f"{pipeline.identity}: the scheduler is {name}; score distillation here needs a "
        "variance-preserving schedule, such as DDPM's"
    )
    if any(part in name for part in _OTHER_SCHEDULERS):
        raise WeightsError(f"{refusal}, not flow matching or another process")
    if values.get("use_flow_sigmas"):
        raise WeightsError(f"{refusal}, and use_flow_sigmas is flow matching")
    # Every variance-preserving scheduler says its betas, even where they are the defaults.
    missing = [key for key in _BETAS if key not in values]
    if missing and values.get("trained_betas") is None:
        raise WeightsError(f"{refusal}, and this one states no {', '.join(missing)}")
    try:
        return NoiseSchedule.from_config(values)
    except ValueError as error:
        raise WeightsError(f"{pipeline.identity}: {error}") from error

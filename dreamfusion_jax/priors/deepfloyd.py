"""DeepFloyd IF, stage I: a diffusion model of 64 x 64 pixels that reads T5's text.

The open counterpart of Imagen, the prior of the paper.
"""

import dataclasses
import functools
from typing import ClassVar

from jaxtyping import Array, Float

from dreamfusion_jax.devices import compute_dtype
from dreamfusion_jax.diffusion.checkpoints.pipeline import open_pipeline
from dreamfusion_jax.diffusion.layers import Dtype
from dreamfusion_jax.maths import from_symmetric, to_symmetric
from dreamfusion_jax.priors.opened import OpenedPrior, Say
from dreamfusion_jax.priors.pretrained import (
    PretrainedPrior,
    open_parts,
    read_schedule,
    read_unet,
)
from dreamfusion_jax.priors.prior import PriorParams
from dreamfusion_jax.priors.text import CachedText, encode_t5

DEFAULT_REPO = "DeepFloyd/IF-I-XL-v1.0"
"""What `load` takes unless told otherwise; its licence has to be accepted on the hub."""

_COMPONENTS = {"unet": ("UNet2DConditionModel",), "text_encoder": ("T5EncoderModel",)}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class DeepFloydPrior(PretrainedPrior):
    """See `dreamfusion_jax.priors.prior.Prior`. Made by `load`.

    Attributes:
        image_size: Height and width of its pictures, pixels.
    """

    image_size: int
    bounded: ClassVar[bool] = True

    def encode_image(
        self, params: PriorParams, image: Float[Array, "V H W 3"]
    ) -> Float[Array, "V H W 3"]:
        """Pixels scaled to [-1, 1]."""
        del params
        return to_symmetric(image)

    def decode_image(
        self, params: PriorParams, z: Float[Array, "V H W 3"]
    ) -> Float[Array, "V H W 3"]:
        """Pixels scaled back to [0, 1]."""
        del params
        return from_symmetric(z)


def open_prior(
    source: str = DEFAULT_REPO, *, dtype: Dtype = None, say: Say | None = None
) -> OpenedPrior:
    """Reads a stage-I checkpoint's configurations; weights and text encoder wait.

    Args:
        source: REPO_OR_FOLDER[@REVISION], in diffusers' layout.
        dtype: Type of the weights and of the computation; None for `compute_dtype()`.
        say: Is told when texts are encoded, and how far that is.

    Raises:
        WeightsError: The checkpoint cannot be had, or is not such a model.
        ValueError: An option of its configuration is not supported.
    """
    pipeline = open_pipeline(source, _COMPONENTS)
    dtype = compute_dtype() if dtype is None else dtype
    unet, size = read_unet(pipeline, 3, dtype)
    prior = DeepFloydPrior(
        unet=unet,
        schedule=read_schedule(pipeline),
        text=CachedText(pipeline, functools.partial(encode_t5, say=say)),
        image_size=size,
    )
    return open_parts(pipeline, prior, unet.config.text_dim, {"unet": (unet, dtype)})


def load(source: str = DEFAULT_REPO, *, dtype: Dtype = None) -> tuple[DeepFloydPrior, PriorParams]:
    """`open_prior`, and its parameters {"unet"}; the text encoder waits for a prompt.

    Raises:
        WeightsError: The checkpoint cannot be had, or is not such a model.
        ValueError: An option of its configuration is not supported.
    """
    opened = open_prior(source, dtype=dtype)
    assert isinstance(opened.prior, DeepFloydPrior)
    return opened.prior, opened.read(lambda phase: None)

"""Stable Diffusion 1.x and 2.x: diffusion of an autoencoder's latents, with CLIP's text.

Score distillation takes the derivative of the VAE's encoder, or renders latents and leaves
the VAE out of the loop (Latent-NeRF, 2211.07600).
"""

import dataclasses
import functools
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dreamfusion_jax.devices import compute_dtype
from dreamfusion_jax.diffusion.checkpoints.checkpoint import Checkpoint
from dreamfusion_jax.diffusion.checkpoints.known_kinds import FilePrediction
from dreamfusion_jax.diffusion.checkpoints.pipeline import open_pipeline
from dreamfusion_jax.diffusion.checkpoints.single_file import open_single_file
from dreamfusion_jax.diffusion.checkpoints.tensors import WeightsError
from dreamfusion_jax.diffusion.layers import Dtype
from dreamfusion_jax.diffusion.unet import UNet2DConditionModel
from dreamfusion_jax.diffusion.vae import AutoencoderKL, VaeConfig
from dreamfusion_jax.maths import from_symmetric, to_symmetric
from dreamfusion_jax.priors.opened import OpenedPrior, Say
from dreamfusion_jax.priors.pretrained import (
    PretrainedPrior,
    open_parts,
    read_schedule,
    read_unet,
)
from dreamfusion_jax.priors.prior import PriorParams
from dreamfusion_jax.priors.text import CachedText, encode_clip

DEFAULT_REPO = "stable-diffusion-v1-5/stable-diffusion-v1-5"
"""What `load` takes unless told otherwise."""

SIZES = (64, 512)
"""Least and greatest height and width of pixel renderings."""

_COMPONENTS = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
}


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class StableDiffusionPrior(PretrainedPrior):
    """See `dreamfusion_jax.priors.prior.Prior`. Made by `load`.

    Attributes:
        vae: The autoencoder; its parameters are `params["vae"]`.
        latent_size: Height and width of z_0.
        latent: Whether it is asked about latents instead of pixels.
        image_size: Height and width of the pixels or latents it is asked about. For other
            pixel sizes than `load` gives: `dataclasses.replace(prior, image_size=256)`.

    Raises:
        ValueError: Pixels whose `image_size` is not within `SIZES`.
    """

    vae: AutoencoderKL
    latent_size: int
    latent: bool = False
    image_size: int = SIZES[0]
    bounded: ClassVar[bool] = False

    def __post_init__(self) -> None:
        least, greatest = SIZES
        if not self.latent and not least <= self.image_size <= greatest:
            raise ValueError(
                f"Stable Diffusion takes renderings of {least} to {greatest} pixels, "
                f"not {self.image_size}"
            )

    def resized(self, size: int) -> "StableDiffusionPrior":
        """The same, asked about renderings of another size; latents have one.

        Raises:
            ValueError: The size is not within `SIZES`, or it is asked about latents.
        """
        if self.latent:
            raise ValueError("other sizes are for pixels: latents have one")
        return dataclasses.replace(self, image_size=size)

    def encode_image(
        self, params: PriorParams, image: Float[Array, "V H W K"]
    ) -> Float[Array, "V h w C"]:
        """Scaled mean of the latent of the image, enlarged to the VAE's size; or the latents.

        z_0 = s E(2 x - 1) with the scaling factor s (2112.10752, section 3.1 and appendix G).

        Raises:
            ValueError: A latent prior is given something else than latents.
        """
        if self.latent:
            channels = self.vae.config.latent_channels
            if image.shape[-1] != channels:
                raise ValueError(f"latents have {channels} channels, not {image.shape[-1]}")
            return image
        size = self.latent_size * 2 ** (self.vae.config.levels - 1)
        image = jax.image.resize(image, (image.shape[0], size, size, image.shape[-1]), "bilinear")
        mean, _ = self.vae.apply({"params": params["vae"]}, to_symmetric(image), method="encode")
        return self.vae.config.scaling_factor * mean.astype(jnp.float32)

    def decode_image(
        self, params: PriorParams, z: Float[Array, "V h w C"]
    ) -> Float[Array, "V H W 3"]:
        """The VAE's pictures at their own size, in [0, 1] but for the network's error.

        One after the other: of a picture of 512 x 512, a layer takes a quarter of a gigabyte.
        """

        def decode(latent: Float[Array, "h w C"]) -> Float[Array, "H W 3"]:
            image = self.vae.apply({"params": params["vae"]}, latent[None], method="decode")
            assert isinstance(image, jax.Array)
            return from_symmetric(image[0].astype(jnp.float32))

        return jax.lax.map(decode, z / self.vae.config.scaling_factor)


def open_checkpoint(
    source: str, *, prediction_type: FilePrediction | None = None, tokenizer: str | None = None
) -> Checkpoint:
    """Finds a checkpoint in diffusers' layout, or in one .safetensors file.

    Args:
        source: REPO_OR_FOLDER[@REVISION], or a file of SD 1.x or 2.x.
        prediction_type: What the UNet of a file predicts, where the file does not tell.
        tokenizer: Folder or repository of the tokenizer of a file; None for the usual one.

    Raises:
        WeightsError: It cannot be had, or is not such a model; or one of the last two arguments
            is given with a checkpoint that says it itself.
    """
    if Path(source).suffix == ".safetensors":
        return open_single_file(source, prediction_type=prediction_type, tokenizer=tokenizer)
    if prediction_type is not None or tokenizer is not None:
        raise WeightsError(f"{source} is no .safetensors file: it has its own scheduler, tokenizer")
    return open_pipeline(source, _COMPONENTS)


def open_prior(
    source: str | Checkpoint = DEFAULT_REPO,
    *,
    dtype: Dtype = None,
    latent: bool = False,
    image_size: int | None = None,
    say: Say | None = None,
) -> OpenedPrior:
    """Reads a checkpoint's configurations; weights and text encoder wait.

    Args:
        source: What `open_checkpoint` gives, or takes with its defaults.
        dtype: Type of the weights and of the computation; None for `compute_dtype()`.
        latent: Whether scenes render latents, of the UNet's size, instead of pixels.
        image_size: Height and width of the pixels; None for 64.
        say: Is told when texts are encoded.

    Raises:
        WeightsError: The checkpoint cannot be had, or is not such a model.
        ValueError: An option of its configuration is not supported, or the size is not.
    """
    pipeline = open_checkpoint(source) if isinstance(source, str) else source
    dtype = compute_dtype() if dtype is None else dtype
    vae = VaeConfig.from_json(pipeline.config("vae"))
    unet, size = read_unet(pipeline, vae.latent_channels, dtype)
    pixels = size if latent else image_size or SIZES[0]
    return assemble(
        StableDiffusionPrior, pipeline, unet, vae, dtype, latent=latent, image_size=pixels, say=say
    )


def assemble(
    kind: type[StableDiffusionPrior],
    pipeline: Checkpoint,
    unet: UNet2DConditionModel,
    vae_config: VaeConfig,
    dtype: Dtype,
    *,
    image_size: int,
    latent: bool = False,
    say: Say | None = None,
) -> OpenedPrior:
    """A prior with Stable Diffusion's autoencoder and text encoder around a UNet.

    Args:
        kind: Of the prior.
        pipeline: The checkpoint.
        unet: Of a stated sample size.
        vae_config: Of the autoencoder.
        dtype: Type of the UNet's weights.
        image_size: Height and width of the renderings.
        latent: Whether they are latents.
        say: Is told when texts are encoded.
    """
    # In float16 the encoder's activations overflow, and its gradient underflows.
    vae_dtype = jnp.float32 if dtype == jnp.float16 else dtype
    vae = AutoencoderKL(vae_config, vae_dtype)
    assert unet.config.sample_size is not None
    prior = kind(
        unet=unet,
        schedule=read_schedule(pipeline),
        text=CachedText(pipeline, functools.partial(encode_clip, say=say)),
        vae=vae,
        latent_size=unet.config.sample_size,
        latent=latent,
        image_size=image_size,
    )
    parts = {"unet": (unet, dtype), "vae": (vae, vae_dtype)}
    return open_parts(pipeline, prior, unet.config.text_dim, parts)


def load(
    source: str | Checkpoint = DEFAULT_REPO, *, dtype: Dtype = None, latent: bool = False
) -> tuple[StableDiffusionPrior, PriorParams]:
    """`open_prior`, and its parameters {"unet", "vae"}; the text encoder waits for a prompt.

    Raises:
        WeightsError: The checkpoint cannot be had, or is not such a model.
        ValueError: An option of its configuration is not supported.
    """
    opened = open_prior(source, dtype=dtype, latent=latent)
    assert isinstance(opened.prior, StableDiffusionPrior)
    return opened.prior, opened.read(lambda phase: None)

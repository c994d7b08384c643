"""Stable Diffusion at true size with random weights: as fast as the real one, and at hand."""

import json
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from dreamfusion_jax.devices import compute_dtype
from dreamfusion_jax.diffusion.checkpoints.weights import Params
from dreamfusion_jax.diffusion.noise_schedule import NoiseSchedule
from dreamfusion_jax.diffusion.random_weights import random_params
from dreamfusion_jax.diffusion.unet import UNet2DConditionModel
from dreamfusion_jax.diffusion.unet_config import UNetConfig
from dreamfusion_jax.diffusion.vae import AutoencoderKL, VaeConfig
from dreamfusion_jax.priors.prior import PriorParams
from dreamfusion_jax.priors.stable_diffusion import StableDiffusionPrior

_TOKENS = 77


def random_stable_diffusion(
    folder: Path, latent: bool = False
) -> tuple[StableDiffusionPrior, PriorParams]:
    """A prior whose networks are those of a folder's configurations.

    Args:
        folder: With unet/config.json, vae/config.json and scheduler/scheduler_config.json.
        latent: Whether it is asked about latents instead of pixels.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file is not JSON, or an option of it is not supported.
    """
    unet_config, vae_config, schedule = (
        json.loads((folder / file).read_text(encoding="utf-8"))
        for file in ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json")
    )
    config = UNetConfig.from_json(unet_config)
    if config.sample_size is None:
        raise ValueError(f"the UNet of {folder} does not state its sample_size")
    dtype = compute_dtype()
    unet = UNet2DConditionModel(config, dtype)
    # As `stable_diffusion.load`: in float16 the encoder's activations overflow.
    vae = AutoencoderKL(
        VaeConfig.from_json(vae_config), jnp.float32 if dtype == jnp.float16 else dtype
    )

    def text(prompts: Sequence[str]) -> jax.Array:
        return jax.random.normal(jax.random.key(1), (len(prompts), _TOKENS, config.text_dim))

    prior = StableDiffusionPrior(
        unet=unet,
        schedule=NoiseSchedule.from_config(schedule),
        text=text,
        vae=vae,
        latent_size=config.sample_size,
        latent=latent,
        image_size=config.sample_size if latent else 64,
    )
    return prior, {"unet": _random(unet), "vae": _random(vae)}


def _random(model: UNet2DConditionModel | AutoencoderKL) -> Params:
    """In the type that the model computes in, drawn on its device: there are a billion of them."""
    dtype = jnp.float32 if model.dtype is None else model.dtype
    return random_params(model, lambda n, shape: jax.random.normal(jax.random.key(n), shape), dtype)

"""Small checkpoints with random weights, written by PyTorch in diffusers' layout."""

import json

import diffusers
from transformers import CLIPTextConfig, CLIPTextModel

from dreamfusion_jax.toybox.tokenizer import build_tokenizer
from helpers.configs import SMALL_VAE, UNETS, reference_config
from helpers.torch_models import randomize

LATENT_SIZE = 8
"""Height and width of the latents; the VAE's images are 4 times as large."""

IF_SIZE = 16


def save_stable_diffusion(folder, version):
    """A miniature of SD "1.5" or "2.1", whole with text encoder and tokenizer."""
    name = {"1.5": "stable-diffusion-v1-5", "2.1": "stable-diffusion-2-1"}[version]
    unet = UNETS[f"sd-{version}"] | {"sample_size": LATENT_SIZE}
    tokenizer = build_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=unet["cross_attention_dim"],
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        eos_token_id=tokenizer.eos_token_id,
    )
    _save_models(
        folder,
        unet=diffusers.UNet2DConditionModel.from_config(unet),
        vae=diffusers.AutoencoderKL.from_config(SMALL_VAE | {"layers_per_block": 1}),
        text_encoder=CLIPTextModel(text),
    )
    tokenizer.save_pretrained(folder / "tokenizer")
    classes = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
    }
    _save_configs(folder, "StableDiffusionPipeline", classes, reference_config(name, "scheduler"))


def save_deepfloyd(folder):
    """A miniature of DeepFloyd IF's first stage, without its text encoder."""
    unet = UNETS["if"] | {"sample_size": IF_SIZE}
    _save_models(folder, unet=diffusers.UNet2DConditionModel.from_config(unet))
    classes = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "text_encoder": ["transformers", "T5EncoderModel"],
    }
    _save_configs(folder, "IFPipeline", classes, reference_config("IF-I-XL-v1.0", "scheduler"))


def _save_models(folder, **models):
    for name, model in models.items():
        randomize(model)
        model.save_pretrained(folder / name)


def _save_configs(folder, name, classes, scheduler):
    (folder / "scheduler").mkdir()
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(scheduler))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": name, **classes}))

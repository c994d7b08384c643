"""The configurations of the models that come without any: what their files leave unsaid."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

FilePrediction = Literal["epsilon", "v_prediction"]
"""What the UNets of Stable Diffusion predict, in diffusers' words."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of Stable Diffusion, as the config.json files of its diffusers layout say it.

    Attributes:
        name: What it is called.
        unet: The UNet, but for its `sample_size`.
        vae: The autoencoder.
        text_encoder: The text encoder.
        scheduler: The noise schedule, but for its `prediction_type`.
        pad_token: What texts are padded with.
        prediction_type: What the UNet predicts; None where the kind has both.
        sample_sizes: Height and width of the latents, by what the UNet predicts.
    """

    name: str
    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    text_encoder: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    pad_token: str
    prediction_type: str | None
    sample_sizes: Mapping[str, int]


_UNET = {
    "act_fn": "silu",
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": [*3 * ["CrossAttnDownBlock2D"], "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "up_block_types": ["UpBlock2D", *3 * ["CrossAttnUpBlock2D"]],
}
_VAE = {
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": 4 * ["DownEncoderBlock2D"],
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "scaling_factor": 0.18215,
    "up_block_types": 4 * ["UpDecoderBlock2D"],
}
_TEXT = {
    "eos_token_id": 2,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "vocab_size": 49408,
}
_SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
}

STABLE_DIFFUSION_1 = Kind(
    name="Stable Diffusion 1.x",
    unet=_UNET | {"attention_head_dim": 8, "cross_attention_dim": 768},
    vae=_VAE,
    text_encoder=_TEXT
    | {
        "hidden_act": "quick_gelu",
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
    },
    scheduler=_SCHEDULER,
    pad_token="<|endoftext|>",
    prediction_type="epsilon",
    sample_sizes={"epsilon": 64, "v_prediction": 64},
)

STABLE_DIFFUSION_2 = Kind(
    name="Stable Diffusion 2.x",
    unet=_UNET
    | {
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
    vae=_VAE,
    # OpenCLIP's ViT-H has 24 layers; Stable Diffusion 2 reads the last but one.
    text_encoder=_TEXT
    | {
        "hidden_act": "gelu",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 23,
    },
    scheduler=_SCHEDULER,
    pad_token="!",
    prediction_type=None,
    sample_sizes={"epsilon": 64, "v_prediction": 96},
)

KINDS = (STABLE_DIFFUSION_1, STABLE_DIFFUSION_2)
"""The kinds that `single_file` recognises."""

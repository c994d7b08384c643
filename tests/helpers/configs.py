"""Configurations of published models, and of small ones with the same options."""

import json
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "reference_configs"


def reference_config(model: str, part: str) -> dict:
    """A published model's configuration of a part: "unet", "vae", "scheduler", ..."""
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    return json.loads((FOLDER / model / part / name).read_text())


TINY_UNET = {
    "in_channels": 12,
    "out_channels": 12,
    "sample_size": 16,
    "block_out_channels": [32, 48, 64, 64],
    "norm_num_groups": 16,
    "down_block_types": ["DownBlock2D"] + 3 * ["CrossAttnDownBlock2D"],
    "up_block_types": 3 * ["CrossAttnUpBlock2D"] + ["UpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 32,
    "attention_head_dim": 4,
    "addition_embed_type": "text",
    "addition_embed_type_num_heads": 4,
    "resnet_time_scale_shift": "scale_shift",
}
UNETS = {
    # 8 heads; 1x1 convolutions around the transformers.
    "sd-1.5": reference_config("stable-diffusion-v1-5", "unet")
    | {"block_out_channels": [32, 48], "norm_num_groups": 16, "cross_attention_dim": 24}
    | {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}
    | {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"], "layers_per_block": 1},
    # Heads listed by level; matrices around the transformers.
    "sd-2.1": reference_config("stable-diffusion-2-1", "unet")
    | {"block_out_channels": [32, 48], "norm_num_groups": 16, "cross_attention_dim": 40}
    | {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}
    | {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]}
    | {"layers_per_block": [2, 1], "transformer_layers_per_block": [2, 1]}
    | {"attention_head_dim": [2, 3]},
    "if": reference_config("IF-I-M-v1.0", "unet")
    | {"block_out_channels": [32, 48], "norm_num_groups": 16, "cross_attention_dim": 64}
    | {"down_block_types": ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"]}
    | {"up_block_types": ["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"]}
    | {"layers_per_block": 1, "attention_head_dim": 16}
    | {"encoder_hid_dim": 40, "addition_embed_type_num_heads": 4},
    "toybox": TINY_UNET,
    # Every other option that is supported.
    "others": TINY_UNET
    | {"block_out_channels": [32, 48], "freq_shift": 1, "flip_sin_to_cos": False}
    | {"down_block_types": ["CrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D"]}
    | {"up_block_types": ["SimpleCrossAttnUpBlock2D", "CrossAttnUpBlock2D"]}
    | {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}
    | {"mid_block_scale_factor": 1.4, "resnet_out_scale_factor": 0.7, "norm_eps": 1e-2}
    | {"resnet_skip_time_act": True, "attention_head_dim": [4, 8], "downsample_padding": 0},
}
SMALL_VAE = reference_config("stable-diffusion-v1-5", "vae") | {
    "block_out_channels": [16, 24, 24],
    "norm_num_groups": 8,
    "down_block_types": 3 * ["DownEncoderBlock2D"],
    "up_block_types": 3 * ["UpDecoderBlock2D"],
}

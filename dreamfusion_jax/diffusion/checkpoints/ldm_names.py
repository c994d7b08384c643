"""Names of tensors in the files of CompVis' and Stability's code, from those of diffusers.

"LDM" is the code of latent diffusion (2112.10752), in which Stable Diffusion was written; its
files hold UNet, VAE and text encoder together, each under a prefix.
"""

import functools
import re
from collections.abc import Callable, Iterable

from dreamfusion_jax.diffusion.unet_config import UNetConfig

UNET = "model.diffusion_model."
"""Prefix of the UNet."""

VAE = "first_stage_model."
"""Prefix of the VAE."""

CLIP = "cond_stage_model.transformer."
"""Prefix of OpenAI's CLIP in transformers' layout, the text encoder of SD 1.x."""

OPEN_CLIP = "cond_stage_model.model."
"""Prefix of OpenCLIP in its own layout, the text encoder of SD 2.x."""

Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]

_RESNET: Rules = (
    (r"\.norm1\.", ".in_layers.0."),
    (r"\.conv1\.", ".in_layers.2."),
    (r"\.norm2\.", ".out_layers.0."),
    (r"\.conv2\.", ".out_layers.3."),
    (r"\.time_emb_proj\.", ".emb_layers.1."),
    (r"\.conv_shortcut\.", ".skip_connection."),
)
_UNET_ENDS: Rules = (
    (r"^time_embedding\.linear_1\.", "time_embed.0."),
    (r"^time_embedding\.linear_2\.", "time_embed.2."),
    (r"^camera_embedding\.linear_1\.", "camera_embed.0."),
    (r"^camera_embedding\.linear_2\.", "camera_embed.2."),
    (r"^conv_in\.", "input_blocks.0.0."),
    (r"^conv_norm_out\.", "out.0."),
    (r"^conv_out\.", "out.2."),
    (r"^mid_block\.attentions\.0\.", "middle_block.1."),
    (r"^mid_block\.resnets\.(\d)\.", lambda m: f"middle_block.{2 * int(m[1])}."),
)
_VAE: Rules = (
    (r"\.mid_block\.resnets\.(\d)\.", lambda m: f".mid.block_{int(m[1]) + 1}."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".proj_out."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.down_blocks\.(\d+)\.resnets\.", r".down.\1.block."),
    (r"\.down_blocks\.(\d+)\.downsamplers\.0\.", r".down.\1.downsample."),
)
_OPEN_CLIP: Rules = (
    (r"^text_model\.embeddings\.token_embedding\.", "token_embedding."),
    (r"^text_model\.embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^text_model\.final_layer_norm\.", "ln_final."),
    (r"^text_model\.encoder\.layers\.", "transformer.resblocks."),
    (r"\.layer_norm([12])\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.", ".attn."),
    (r"\.[qkv]_proj\.(weight|bias)$", r".in_proj_\1"),
)


def unet_name(name: str, layers: int, levels_with_attention: set[int]) -> str:
    """The LDM name of a UNet's tensor, without prefix.

    LDM counts the blocks of all levels through, diffusers within each level.

    Args:
        name: diffusers' name.
        layers: Residual blocks of a level, on the way down.
        levels_with_attention: The up blocks that hold transformers, by index.
    """
    is_resnet = ".resnets." in name
    down = functools.partial(_down_block, layers)
    up = functools.partial(_up_block, layers, levels_with_attention)
    name = re.sub(r"^down_blocks\.(\d+)\.(downsamplers)\.(\d+)\.conv\.", down, name, count=1)
    name = re.sub(r"^down_blocks\.(\d+)\.(\w+)\.(\d+)\.", down, name, count=1)
    name = re.sub(r"^up_blocks\.(\d+)\.(upsamplers)\.(\d+)\.conv\.", up, name, count=1)
    name = re.sub(r"^up_blocks\.(\d+)\.(\w+)\.(\d+)\.", up, name, count=1)
    name = _apply(_UNET_ENDS, name)
    return _apply(_RESNET, name) if is_resnet else name


def _down_block(layers: int, found: re.Match[str]) -> str:
    level, kind, index = int(found[1]), found[2], int(found[3])
    if kind == "downsamplers":
        return f"input_blocks.{(layers + 1) * (level + 1)}.0.op."
    part = 0 if kind == "resnets" else 1
    return f"input_blocks.{(layers + 1) * level + index + 1}.{part}."


def _up_block(layers: int, levels_with_attention: set[int], found: re.Match[str]) -> str:
    level, kind, index = int(found[1]), found[2], int(found[3])
    if kind == "upsamplers":
        part = 2 if level in levels_with_attention else 1
        return f"output_blocks.{(layers + 1) * level + layers}.{part}.conv."
    part = 0 if kind == "resnets" else 1
    return f"output_blocks.{(layers + 1) * level + index}.{part}."


def unet_names(config: UNetConfig, names: Iterable[str]) -> dict[str, str]:
    """The LDM names of a UNet's tensors, without prefix, by diffusers' names."""
    attention = {i for i, kind in enumerate(config.up_block_types) if "CrossAttn" in kind}
    return {name: unet_name(name, config.layers_per_block[0], attention) for name in names}


def vae_name(name: str, levels: int) -> str:
    """The LDM name of a VAE's tensor, without prefix.

    Args:
        name: diffusers' name.
        levels: How many resolutions the VAE has: LDM counts the decoder's from the finest.
    """
    up = functools.partial(_decoder_block, levels)
    name = _apply(_VAE, name)
    name = re.sub(r"\.up_blocks\.(\d+)\.(resnets)\.(\d+)", up, name)
    return re.sub(r"\.up_blocks\.(\d+)\.(upsamplers)\.(\d+)\.", up, name)


def _decoder_block(levels: int, found: re.Match[str]) -> str:
    part = "block." if found[2] == "resnets" else "upsample."
    index = found[3] if found[2] == "resnets" else ""
    return f".up.{levels - 1 - int(found[1])}.{part}{index}"


def open_clip_name(name: str) -> tuple[str, int | None]:
    """OpenCLIP's name of a text encoder's tensor, without prefix, and which third of it.

    OpenCLIP keeps the projections to query, key and value in one tensor; the third is 0, 1
    or 2 for these and None for all others.
    """
    part = re.search(r"\.([qkv])_proj\.", name)
    return _apply(_OPEN_CLIP, name), None if part is None else "qkv".index(part[1])


def _apply(rules: Rules, name: str) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name, count=1)
    return name

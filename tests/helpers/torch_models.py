"""What the parity tests share: random PyTorch weights, fast compilation, a measure."""

import json
from pathlib import Path

import diffusers
import jax
import numpy as np
import torch
import transformers


def randomize(module: torch.nn.Module, seed: int = 0) -> None:
    """Draws every parameter anew so that each one matters: no zero biases, no unit norms."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim <= 1:
                is_norm_weight = "norm" in name and name.endswith("weight")
                parameter.copy_(0.3 * noise + (1.0 if is_norm_weight else 0.0))
            elif "embed" in name and parameter.shape[0] > 4 * parameter.shape[1]:
                parameter.copy_(noise)
            else:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)


def compile_fast(function):
    """Compiles with less optimization: these tests spend their time in the compiler."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def relative_error(ours, theirs) -> float:
    """Norm of the difference over the norm of the truth."""
    ours = np.asarray(ours, np.float64)
    theirs = np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def toybox_pair(
    folder: Path,
) -> tuple[diffusers.UNet2DConditionModel, transformers.CLIPTextModel]:
    """The networks of a toybox prior whose configurations are in a folder, with fresh weights."""
    unet, text = (
        json.loads((folder / name / "config.json").read_text()) for name in ("unet", "text_encoder")
    )
    tower = transformers.CLIPTextModel(transformers.CLIPTextConfig(**text))
    return diffusers.UNet2DConditionModel.from_config(unet).eval(), tower.eval()


def save_random_toybox(folder: Path) -> None:
    """Random weights for a toybox prior whose configurations are in a folder."""
    for part, name in zip(toybox_pair(folder), ("unet", "text_encoder"), strict=True):
        randomize(part)
        part.save_pretrained(folder / name)

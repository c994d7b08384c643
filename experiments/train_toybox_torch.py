"""Trains the embedded prior with PyTorch: the fast route on a CPU with bfloat16 units.

    python -m experiments.train_toybox_torch --output outputs/toybox-prior

Same pictures, captions, configuration, loss and folder as `experiments.train_toybox`;
only the arithmetic is PyTorch's. Needs the extra `test` (torch, diffusers). A run that
was stopped goes on when the same command is given again.
"""

import copy
import dataclasses
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import torch
import tyro
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from dreamfusion_jax.diffusion.noise_schedule import NoiseSchedule
from dreamfusion_jax.toybox import architecture
from dreamfusion_jax.toybox.tokenizer import build_tokenizer
from dreamfusion_jax.toybox.training.data import (
    BETAS,
    CLIP_NORM,
    MAX_WEIGHT,
    TIME_POWER,
    WEIGHT_DECAY,
    Pictures,
    Settings,
    draw_batch,
    ema_decay,
    learning_rate,
    load_pictures,
)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """Settings of a training run.

    Attributes:
        threads: Cores to use.
    """

    threads: int = 1


class Miniature(torch.nn.Module):
    """UNet and text encoder, trained together."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        text = architecture.read_json(folder / "text_encoder/config.json")
        unet = UNet2DConditionModel.from_config(architecture.read_json(folder / "unet/config.json"))
        assert isinstance(unet, UNet2DConditionModel)
        unet.set_attn_processor(AttnProcessor())
        self.unet = unet
        self.text = CLIPTextModel(CLIPTextConfig(**text))

    def forward(self, z: torch.Tensor, step: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Predicts the clean picture [B, 12, h, w]."""
        return self.unet(z, step, self.text(ids).last_hidden_state).sample


def batches(config: Config, tokenizer):
    """Function from a step to (z_0 [B, 12, h, w], token ids [B, N]) as tensors."""
    pictures = load_pictures(
        config,
        tokenizer,
        lambda done, total: print(f"drawing objects {done}/{total}", flush=True),
    )

    @jax.jit
    def draw(step: jax.Array, pictures: Pictures):
        key = jax.random.fold_in(jax.random.key(config.optimization.seed), step)
        return draw_batch(key, pictures, config.optimization.batch_size)

    def as_tensors(step: int):
        z, ids = draw(jnp.asarray(step), pictures)
        z = torch.from_numpy(np.array(z)).permute(0, 3, 1, 2)
        return z, torch.from_numpy(np.array(ids)).long()

    return as_tensors


def loss_at(model: Miniature, step: int, z: torch.Tensor, ids: torch.Tensor, abar: torch.Tensor):
    """Clean-image loss, weight min(1 / sigma^2, 10), times leaning to high noise."""
    generator = torch.Generator().manual_seed(step)
    t = (1000 * torch.rand(len(z), generator=generator) ** TIME_POWER).long()
    noise = torch.randn(z.shape, generator=generator).contiguous(memory_format=torch.channels_last)
    a = abar[t].view(-1, 1, 1, 1)
    noised = a.sqrt() * z + (1 - a).sqrt() * noise
    with torch.autocast("cpu", torch.bfloat16):
        predicted = model(noised, t, ids)
    weight = torch.clamp(1 / (1 - a), max=MAX_WEIGHT)
    return (weight * (predicted.float() - z) ** 2).mean()


def save(config: Config, model: Miniature, ema: Miniature, optimizer, step: int) -> None:
    """Writes the averaged weights in half precision, and the state to go on from."""
    shipped = copy.deepcopy(ema).half()
    shipped.unet.save_pretrained(config.output / "unet")
    shipped.text.save_pretrained(config.output / "text_encoder")
    state = {"model": model.state_dict(), "ema": ema.state_dict(), "step": step}
    state["optimizer"] = optimizer.state_dict()
    torch.save(state, config.output / "state.part")
    (config.output / "state.part").rename(config.output / "state.pt")


def main(config: Config) -> None:
    """Trains, and reports the loss and the speed."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.optimization.seed)
    tokenizer = build_tokenizer()
    architecture.write_configs(config.output, config.model, config.vocabulary, tokenizer)
    draw = batches(config, tokenizer)
    model, ema = Miniature(config.output), Miniature(config.output)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    ema.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(
        model.parameters(), 1e-4, BETAS, weight_decay=WEIGHT_DECAY, fused=True
    )
    abar = torch.from_numpy(
        np.array(NoiseSchedule.from_config(architecture.SCHEDULER).alphas_cumprod)
    )
    first = 0
    if (config.output / "state.pt").exists():
        state = torch.load(config.output / "state.pt", weights_only=True)
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    began, total = time.time(), 0.0
    for step in range(first, config.optimization.steps):
        for group in optimizer.param_groups:
            group["lr"] = float(learning_rate(config.optimization, step))
        loss = loss_at(model, step, *draw(step), abar)
        if not torch.isfinite(loss):
            raise SystemExit(f"the loss is not finite at step {step}; the last state is kept")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        decay = float(ema_decay(config.optimization, step))
        with torch.no_grad():
            for mean, parameter in zip(ema.parameters(), model.parameters(), strict=True):
                mean.lerp_(parameter, 1 - decay)
        total += loss.item()
        if (step + 1) % 100 == 0:
            speed = (step + 1 - first) * config.optimization.batch_size / (time.time() - began)
            print(f"step {step + 1} loss {total / 100:.4f} {speed:.0f} images/s", flush=True)
            total = 0.0
        if (step + 1) % config.save_every == 0 or step + 1 == config.optimization.steps:
            save(config, model, ema, optimizer, step + 1)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))

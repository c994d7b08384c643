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
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextConfig, CLIPTextModel

from dreamfusion_jax.schedule import NoiseSchedule
from dreamfusion_jax.toybox import architecture, bank
from dreamfusion_jax.toybox.captions import Vocabulary, caption_table
from dreamfusion_jax.toybox.tokenizer import build_tokenizer


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a training run."""

    output: Path = Path("outputs/toybox-prior")
    steps: int = 6600
    batch_size: int = 64
    learning_rate: float = 5e-4
    warm_up: int = 300
    ema: float = 0.999
    save_every: int = 500
    threads: int = 1
    seed: int = 0
    vocabulary: Vocabulary = Vocabulary(
        categories=(
            "car",
            "duck",
            "rocket",
            "snowman",
            "penguin",
            "mushroom",
            "cactus",
            "house",
            "chair",
            "lamp",
            "teapot",
            "ice cream",
        ),
        colours=("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown"),
        modifiers=(),
    )
    model: architecture.MiniatureConfig = architecture.MiniatureConfig()
    pictures: bank.BankConfig = bank.BankConfig(size=32, views=3500)


class Miniature(torch.nn.Module):
    """UNet and text encoder, trained together."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        unet = architecture.read_json(folder / "unet/config.json")
        text = architecture.read_json(folder / "text_encoder/config.json")
        self.unet = UNet2DConditionModel.from_config(unet)
        self.unet.set_attn_processor(AttnProcessor())
        self.text = CLIPTextModel(CLIPTextConfig(**text))

    def forward(self, z: torch.Tensor, step: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Predicts the clean picture [B, 12, h, w]."""
        return self.unet(z, step, self.text(ids).last_hidden_state).sample


def load_bank(config: Config) -> bank.Bank:
    """Reads the traced views beside the output, or draws them."""
    path = config.output / "bank.npz"
    names = [f.name for f in dataclasses.fields(bank.Bank)]
    if not path.exists():
        drawn = bank.draw_bank(
            jax.random.key(config.seed + 1),
            config.vocabulary,
            config.pictures,
            report=lambda done, total: print(f"drawing objects {done}/{total}", flush=True),
        )
        np.savez(path, **{name: getattr(drawn, name) for name in names})
    with np.load(path) as stored:
        return bank.Bank(**{name: jnp.asarray(stored[name]) for name in names})


def batches(config: Config, tokenizer):
    """Function from a step to (z_0 [B, 12, h, w], token ids [B, N]) as tensors."""
    views = load_bank(config)
    table = caption_table(config.vocabulary, lambda texts: architecture.tokenize(tokenizer, texts))
    allowed = jnp.asarray(bank.allowed_colours(config.vocabulary))
    palette = jnp.asarray(bank.palette_of(config.vocabulary))

    @jax.jit
    def draw(step: jax.Array, views: bank.Bank):
        key = jax.random.fold_in(jax.random.key(config.seed), step)
        images, ids = bank.sample_batch(
            key,
            views,
            *bank.table_arrays(table),
            allowed,
            palette,
            batch_size=config.batch_size,
        )
        return architecture.space_to_depth(2 * images - 1), ids

    def as_tensors(step: int):
        z, ids = draw(jnp.asarray(step), views)
        z = torch.from_numpy(np.array(z)).permute(0, 3, 1, 2)
        return z, torch.from_numpy(np.array(ids)).long()

    return as_tensors


def loss_at(model: Miniature, step: int, z: torch.Tensor, ids: torch.Tensor, abar: torch.Tensor):
    """Clean-image loss, weight min(1 / sigma^2, 10), times leaning to high noise."""
    generator = torch.Generator().manual_seed(step)
    t = (1000 * torch.rand(len(z), generator=generator) ** (2 / 3)).long()
    noise = torch.randn(z.shape, generator=generator).contiguous(memory_format=torch.channels_last)
    a = abar[t].view(-1, 1, 1, 1)
    noised = a.sqrt() * z + (1 - a).sqrt() * noise
    with torch.autocast("cpu", torch.bfloat16):
        predicted = model(noised, t, ids)
    weight = torch.clamp(1 / (1 - a), max=10.0)
    return (weight * (predicted.float() - z) ** 2).mean()


def learning_rate(config: Config, step: int) -> float:
    """Linear warm-up, cosine decay to zero."""
    decay = 0.5 * (1 + np.cos(np.pi * step / config.steps))
    return config.learning_rate * min(1.0, (step + 1) / config.warm_up) * float(decay)


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
    torch.manual_seed(config.seed)
    tokenizer = build_tokenizer()
    architecture.write_configs(config.output, config.model, config.vocabulary, tokenizer)
    draw = batches(config, tokenizer)
    model, ema = Miniature(config.output), Miniature(config.output)
    model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    ema.load_state_dict(model.state_dict())
    optimizer = torch.optim.AdamW(
        model.parameters(), 1e-4, (0.9, 0.99), weight_decay=0.01, fused=True
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
    for step in range(first, config.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        loss = loss_at(model, step, *draw(step), abar)
        if not torch.isfinite(loss):
            raise SystemExit(f"the loss is not finite at step {step}; the last state is kept")
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(config.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)
        total += loss.item()
        if (step + 1) % 100 == 0:
            speed = (step + 1 - first) * config.batch_size / (time.time() - began)
            print(f"step {step + 1} loss {total / 100:.4f} {speed:.0f} images/s", flush=True)
            total = 0.0
        if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            save(config, model, ema, optimizer, step + 1)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))

"""Trains the embedded prior with PyTorch: the fast route on a CPU with bfloat16 units.

    python -m experiments.draw_bank --folder outputs/prior/bank
    python -m experiments.train_toybox_torch --output outputs/prior

Same pictures, captions, configuration, loss and folder as `experiments.train_toybox`; only the
arithmetic is PyTorch's. Needs the extra `test` (torch, diffusers). A run that was stopped goes
on when the same command is given again; `--start FOLDER` with a new output begins with the
averaged weights of a prior, with a new warm-up. What was done is told in training.json.
"""

import copy
import dataclasses
import shutil
import time
from pathlib import Path
from typing import Annotated

import jax
import numpy as np
import torch
import tyro
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from rich.console import Console
from transformers import CLIPTextConfig, CLIPTextModel

from dreamfusion_jax.diffusion.noise_schedule import NoiseSchedule
from dreamfusion_jax.runs.loop import Moment, Values, iterate, stop_on_signals
from dreamfusion_jax.toybox import architecture
from dreamfusion_jax.toybox.tokenizer import build_tokenizer
from dreamfusion_jax.toybox.training.data import (
    BETAS,
    CLIP_NORM,
    ENDS,
    MAX_WEIGHT,
    TIME_POWER,
    WEIGHT_DECAY,
    WHOLE,
    Batches,
    Settings,
    ema_decay,
    learning_rate,
    to_latents,
)
from dreamfusion_jax.toybox.training.history import History
from dreamfusion_jax.toybox.training.report import Report
from dreamfusion_jax.toybox.training.start import start_from
from experiments.command_line import as_program, one_line_errors, parsed
from experiments.torch_muon import Muon
from experiments.torch_samples import draw_grid, losses_by_time
from experiments.train_toybox import PRESETS, PresetName, chosen_preset


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a training run.

    Attributes:
        preset: "whole" is the whole world at 64 x 64 pixels, "small" twelve toys at 32 x 32.
        threads: Cores to use.
        bfloat16: Multiply in half precision; if None, where the processor has units for it.
            Without them, PyTorch's convolutions in half precision are nine times slower.
        compile: Compile the step first: some minutes, then a quarter faster.
        save_minutes: Save by the clock, too; 0 for by the steps alone.
        copy_to: A second folder that gets weights and state at every save.
        report_every: Steps between lines of the log.
        settings: Of the training.
    """

    preset: PresetName = "whole"
    threads: int = 1
    bfloat16: bool | None = None
    compile: bool = False
    save_minutes: float = 0.0
    copy_to: Path | None = None
    report_every: int = 100
    settings: Annotated[Settings, tyro.conf.arg(name="")] = WHOLE


class Miniature(torch.nn.Module):
    """UNet and text encoder, trained together.

    Args:
        folder: Of the configurations.
        bfloat16: Whether to multiply in half precision.
    """

    def __init__(self, folder: Path, bfloat16: bool) -> None:
        super().__init__()
        self.mixed = bfloat16
        text = architecture.read_json(folder / "text_encoder/config.json")
        unet = UNet2DConditionModel.from_config(architecture.read_json(folder / "unet/config.json"))
        assert isinstance(unet, UNet2DConditionModel)
        unet.set_attn_processor(AttnProcessor())
        self.unet = unet
        self.text = CLIPTextModel(CLIPTextConfig(**text))

    def forward(self, z: torch.Tensor, step: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Predicts the clean picture [B, C, h, w]."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed):
            return self.unet(z, step, self.text(ids).last_hidden_state).sample.float()


def has_bfloat16_units() -> bool:
    """Whether this processor multiplies numbers of bfloat16 in hardware."""
    units = torch.cpu.get_capabilities()
    return bool(units.get("amx_bf16") or units.get("avx512_bf16"))


def loss_at(model, step: int, z: torch.Tensor, ids: torch.Tensor, abar: torch.Tensor):
    """Clean-image loss, weight min(1 / sigma^2, 10), times leaning to high noise."""
    generator = torch.Generator().manual_seed(step)
    t = (1000 * torch.rand(len(z), generator=generator) ** TIME_POWER).long()
    noise = torch.randn(z.shape, generator=generator).contiguous(memory_format=torch.channels_last)
    a = abar[t].view(-1, 1, 1, 1)
    noised = a.sqrt() * z + (1 - a).sqrt() * noise
    weight = torch.clamp(1 / (1 - a), max=MAX_WEIGHT)
    return (weight * (model(noised, t, ids) - z) ** 2).mean()


def make_optimizers(model: torch.nn.Module) -> tuple[Muon, torch.optim.AdamW]:
    """Muon for matrices and convolutions, AdamW for what is read, drawn, added and scaled."""
    inner = [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
        and name.rpartition(".")[2] not in ENDS
    ]
    known = {id(weight) for weight in inner}
    others = [weight for weight in model.parameters() if id(weight) not in known]
    adam = torch.optim.AdamW(others, 1e-4, BETAS, weight_decay=WEIGHT_DECAY, fused=True)
    return Muon(inner, 1e-4, WEIGHT_DECAY), adam


class Training:
    """The loop: trains, reports, saves, and draws samples.

    Args:
        config: Of the run.
    """

    def __init__(self, config: Config) -> None:
        self.config, self.settings = config, config.settings
        self.folder, self.optimization = self.settings.output, self.settings.optimization
        torch.manual_seed(self.optimization.seed)
        self.tokenizer = build_tokenizer()
        architecture.write_configs(
            self.folder, self.settings.model, self.settings.vocabulary, self.tokenizer
        )
        self.batches = Batches(self.settings, self.tokenizer)
        self.paint = jax.jit(to_latents, static_argnums=1)
        half = has_bfloat16_units() if config.bfloat16 is None else config.bfloat16
        self.model, self.ema = (Miniature(self.folder, half) for _ in range(2))
        self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.optimizers = make_optimizers(self.model)
        schedule = NoiseSchedule.from_config(architecture.SCHEDULER)
        self.abar = torch.from_numpy(np.array(schedule.alphas_cumprod))
        self.history = History.read(self.folder)
        self.step = self.begin = 0
        self.start: str | None = None
        self._saved = time.monotonic()
        self._begin()
        self.forward = torch.compile(self.model) if config.compile else self.model

    def _begin(self) -> None:
        """Goes on from the state, or begins with the weights of another prior, or afresh."""
        start, state_file = self.settings.start, self.folder / "state.pt"
        if state_file.exists():
            state = torch.load(state_file, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.ema.load_state_dict(state["ema"])
            for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(values)
            self.step, self.begin = state["step"], state["begin"]
            return
        if start is not None:
            block = self.settings.model.block
            unet, text = (
                {name: x.numpy() for name, x in part.state_dict().items()}
                for part in (self.model.unet, self.model.text)
            )
            unet, text, share = start_from(start, unet, text, block, self.tokenizer)
            for part, weights in ((self.model.unet, unet), (self.model.text, text)):
                part.load_state_dict({name: torch.from_numpy(x) for name, x in weights.items()})
            print(f"{share:.1%} of the weights are those of {start}", flush=True)
            self.history, self.start = History.read(start), start.name
            self.step = self.begin = self.history.steps
        self.ema.load_state_dict(self.model.state_dict())

    def draw(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The batch of a step: z_0 [B, C, h, w], token ids [B, N]."""
        paints, ids = self.batches.plan(step)
        z = torch.from_numpy(np.array(self.paint(paints, self.settings.model.block)))
        return z.permute(0, 3, 1, 2), torch.from_numpy(ids).long()

    def run(self) -> None:
        """Trains to the last step, or to Ctrl-C.

        Raises:
            Stopped: A signal came before the last step; the state is saved.
            SystemExit: The loss was not finite.
        """
        total = self.optimization.steps
        self.history.enter(self.settings, self.step, len(self.batches.bank.kinds), self.start)
        batch_size = self.optimization.batch_size
        with (
            stop_on_signals() as stop,
            Report(Console(), self.step, total, batch_size) as report,
        ):
            iterate(
                self._advance,
                self.step,
                first=self.step,
                total=total,
                observers=[lambda moment: self._watch(moment, report)],
                stop=stop,
            )

    def _watch(self, moment: Moment[int], report: Report) -> None:
        """Reports and saves when their turn has come."""
        report.add(moment.values["loss"])
        by_step = not self.config.save_minutes and moment.due(self.settings.save_every)
        by_clock = 0 < 60 * self.config.save_minutes < time.monotonic() - self._saved
        saving = by_step or by_clock or moment.last or moment.stopping
        if saving or moment.due(self.config.report_every):
            self.history.add(moment.step, report.write(moment.step), report.speed)
        if saving:
            with report.paused():
                self.save()
            self._saved = time.monotonic()

    def _advance(self, step: int) -> tuple[int, Values]:
        """One step of the optimizers."""
        rate = float(learning_rate(self.optimization, step, self.begin))
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        loss = loss_at(self.forward, step, *self.draw(step), self.abar)
        if not torch.isfinite(loss):
            raise SystemExit(f"the loss is not finite at step {step}; the last state is kept")
        self.model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        for optimizer in self.optimizers:
            optimizer.step()
        decay = float(ema_decay(self.optimization, step, self.begin))
        with torch.no_grad():
            for mean, new in zip(self.ema.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(new, 1 - decay)
        self.step = step + 1
        return self.step, {"loss": loss.item()}

    def save(self) -> None:
        """Writes averaged weights in half precision, the state, the history and samples."""
        shipped = copy.deepcopy(self.ema).half()
        shipped.unet.save_pretrained(self.folder / "unet")
        shipped.text.save_pretrained(self.folder / "text_encoder")
        state = {"model": self.model.state_dict(), "ema": self.ema.state_dict()}
        state |= {"optimizers": [optimizer.state_dict() for optimizer in self.optimizers]}
        state |= {"step": self.step, "begin": self.begin}
        torch.save(state, self.folder / "state.part")
        (self.folder / "state.part").rename(self.folder / "state.pt")
        self.batches.reopen()
        self.history.leave(self.step, len(self.batches.bank.kinds))
        self.history.write(self.folder)
        found = losses_by_time(self.ema, self.batches, self.paint, self.abar)
        told = " ".join(f"{time:.2f}: {loss:.5f}" for time, loss in found.items())
        print(f"step {self.step} saved; error by time {told}", flush=True)
        samples = self.folder / "samples" / f"{self.step:07d}.png"
        draw_grid(samples, self.ema, self.settings, self.tokenizer, self.abar)
        if self.config.copy_to is not None:
            ignore = shutil.ignore_patterns("bank", "*.part")
            shutil.copytree(self.folder, self.config.copy_to, ignore=ignore, dirs_exist_ok=True)


def main(argv: list[str] | None = None) -> None:
    """Trains from the command line."""
    with one_line_errors():
        config = parsed(lambda: _read(argv))
        torch.set_num_threads(config.threads)
        Training(config).run()


def _read(argv: list[str] | None) -> Config:
    preset = chosen_preset(argv)
    default = Config(preset=preset, settings=PRESETS[preset])
    return tyro.cli(Config, args=argv, default=default, description=__doc__)


if __name__ == "__main__":
    as_program(main)

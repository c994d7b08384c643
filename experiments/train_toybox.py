"""Trains the embedded prior: a small text-to-image diffusion model of the toybox.

    python -m experiments.train_toybox
    python -m experiments.train_toybox --preset full --bfloat16

The first command makes the prior that comes with the package, on a CPU; the second
learns the whole toy world and wants a large GPU. The output folder has the layout of
PyTorch diffusers; use it with `--weights FOLDER` of experiments.run and
experiments.sample. Stop with Ctrl-C at any time: the same command goes on from there.
"""

import contextlib
import dataclasses
import functools
import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dreamfusion_jax.diffusion.checkpoints.weights import save_params
from dreamfusion_jax.diffusion.noise_schedule import NoiseSchedule
from dreamfusion_jax.looks.media import contact_sheet, enlarge, save_png
from dreamfusion_jax.priors.sampling import sample_texts
from dreamfusion_jax.priors.toybox import ToyboxPrior
from dreamfusion_jax.runs.checkpoint import Checkpointer, load_config, save_config
from dreamfusion_jax.toybox import architecture
from dreamfusion_jax.toybox.tokenizer import build_tokenizer
from dreamfusion_jax.toybox.training.data import FULL, SMALL, Settings, grid_captions, load_pictures
from dreamfusion_jax.toybox.training.model import State, init_state, make_networks, train_step
from experiments.command_line import one_line_errors

PRESETS = {"small": SMALL, "full": FULL}
GRID_VIEWS = ("front view", "left view", "back view", "right view", "overhead view")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to train and what to show meanwhile.

    Attributes:
        preset: "small" is the prior that comes with the package, hours on a CPU; "full" is
            the whole world at 64 x 64 pixels, for a GPU with 40 GB or more.
        bfloat16: Compute in half precision: much faster on a GPU, no faster on most CPUs.
        log_every: Steps between reports of the loss.
        sample_every: Steps between grids of sampled pictures, in the folder samples/.
        guidance_weight: omega of those samples.
        sample_steps: Denoising steps of those samples.
        settings: Every setting of the preset.
    """

    preset: Literal["small", "full"] = "small"
    bfloat16: bool = False
    log_every: int = 20
    sample_every: int = 1000
    guidance_weight: float = 3.0
    sample_steps: int = 25
    settings: Annotated[Settings, tyro.conf.arg(name="")] = SMALL


@dataclasses.dataclass(frozen=True)
class _Preset:
    """The one argument on which the defaults of the others depend."""

    preset: Literal["small", "full"] = "small"


def parse(argv: list[str]) -> Arguments:
    """Reads the command line.

    Raises:
        ValueError: Unknown options, or values that make no sense.
    """
    chosen, _ = tyro.cli(_Preset, args=argv, add_help=False, return_unknown_args=True)
    arguments, unknown = tyro.cli(
        Arguments,
        args=argv,
        default=Arguments(preset=chosen.preset, settings=PRESETS[chosen.preset]),
        description=__doc__,
        return_unknown_args=True,
    )
    if unknown:
        raise ValueError(f"unknown option {unknown[0]}; --help lists them all")
    _check(arguments)
    return arguments


def _check(arguments: Arguments) -> None:
    settings = arguments.settings
    positive = {
        "--steps": settings.optimization.steps,
        "--batch-size": settings.optimization.batch_size,
        "--save-every": settings.save_every,
        "--log-every": arguments.log_every,
        "--sample-every": arguments.sample_every,
        "--sample-steps": arguments.sample_steps,
        "--pictures.views": settings.pictures.views,
    }
    for name, value in positive.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if settings.model.image_size != settings.pictures.size:
        raise ValueError("--model.image-size and --pictures.size must be the same")


def open_folder(arguments: Arguments) -> None:
    """Makes the output folder, or makes sure that it is of the same training.

    Raises:
        ValueError: It holds something else.
    """
    folder, settings = arguments.settings.output, dataclasses.asdict(arguments.settings)
    decisive = {k: v for k, v in settings.items() if k not in ("output", "save_every")}
    decisive = json.loads(json.dumps({**decisive, "bfloat16": arguments.bfloat16}))
    if (folder / "config.json").exists():
        begun = load_config(folder)
        changed = [name for name in decisive if begun.get(name) != decisive[name]]
        if changed:
            raise ValueError(
                f"{folder} was begun with other settings ({', '.join(changed)}): "
                "give the same ones, or another --output"
            )
    elif (folder / "model_index.json").exists():
        raise ValueError(f"{folder} holds a prior of another origin; choose another --output")
    else:
        save_config(folder, decisive)


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Lets Ctrl-C finish the step in hand; a second one ends at once.

    Yields:
        A function that says whether Ctrl-C was pressed.
    """
    pressed = []

    def press(*_: object) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(True)

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


class Training:
    """The loop: trains, reports, saves, and draws samples.

    Args:
        arguments: What to train and what to show meanwhile.
    """

    def __init__(self, arguments: Arguments) -> None:
        self.arguments, self.settings = arguments, arguments.settings
        self.folder, self.console = self.settings.output, Console()
        self.tokenizer = build_tokenizer()
        architecture.write_configs(
            self.folder, self.settings.model, self.settings.vocabulary, self.tokenizer
        )
        dtype = jnp.bfloat16 if arguments.bfloat16 else jnp.float32
        self.networks = make_networks(self.settings.model, self.tokenizer, dtype)
        self.schedule = NoiseSchedule.from_config(architecture.SCHEDULER)
        self.prior = ToyboxPrior(
            unet=self.networks.unet,
            schedule=self.schedule,
            text_encoder=self.networks.text_encoder,
            tokenizer=self.tokenizer,
            vocabulary=self.settings.vocabulary,
            image_size=self.settings.model.image_size,
        )

    def run(self) -> None:
        """Trains to the last step, or to Ctrl-C.

        Raises:
            ValueError: The loss was not finite.
            CheckpointError: The saved state cannot be read.
        """
        pictures = self._load_pictures()
        with Checkpointer(self.folder) as checkpoints, deferred_interrupt() as interrupted:
            state = self._begin(checkpoints)
            first, total = int(state.step), self.settings.optimization.steps
            with _Report(self.console, first, total, self._batch_size) as report:
                for step in range(first + 1, total + 1):
                    state, loss = train_step(
                        state,
                        pictures,
                        self.schedule,
                        networks=self.networks,
                        config=self.settings.optimization,
                    )
                    report.add(loss)
                    saving = step % self.settings.save_every == 0 or step == total or interrupted()
                    if saving or step % self.arguments.log_every == 0:
                        self._check_finite(report.write(step), state, checkpoints)
                    if saving:
                        self._save(state, checkpoints)
                    if step == total or step % self.arguments.sample_every == 0:
                        self._draw_samples(state, step)
                    if interrupted():
                        print("stopped; the same command goes on from here", file=sys.stderr)
                        raise SystemExit(130)
        self.console.print(f"done: {self.folder}")

    def _begin(self, checkpoints: Checkpointer) -> State:
        """The state saved last, or a fresh one."""
        begin = functools.partial(init_state, self.networks, self.settings.optimization)
        if checkpoints.latest_step() is None:
            return begin()
        state = checkpoints.restore(jax.eval_shape(begin))
        self.console.print(f"going on from step {int(state.step)}")
        return state

    @property
    def _batch_size(self) -> int:
        return self.settings.optimization.batch_size

    def _load_pictures(self):
        with self.console.status("reading or drawing the training pictures") as status:
            return load_pictures(
                self.settings,
                self.tokenizer,
                lambda done, total: status.update(f"drawing objects {done}/{total}"),
            )

    def _check_finite(self, loss: float, state: State, checkpoints: Checkpointer) -> None:
        if not np.isfinite(loss):
            self._save(state, checkpoints)
            raise ValueError(
                f"the loss or its gradient is not finite after step {int(state.step)}; the "
                "state before is saved: lower --learning-rate and train into another --output"
            )

    def _save(self, state: State, checkpoints: Checkpointer) -> None:
        """Writes the mean weights in half precision, and the state to go on from."""
        save_params(state.ema["unet"], self.folder / "unet/diffusion_pytorch_model.safetensors")
        save_params(state.ema["text_encoder"], self.folder / "text_encoder/model.safetensors")
        if int(state.step) > (checkpoints.latest_step() or 0):
            checkpoints.save(int(state.step), state)

    def _draw_samples(self, state: State, step: int) -> None:
        """Writes a grid of pictures that the mean weights draw; the same noise every time."""
        rows = grid_captions(self.settings.vocabulary)
        images = sample_texts(
            jax.random.key(0),
            self.prior,
            state.ema,
            [f"{text}, {view}" for text in rows for view in GRID_VIEWS],
            steps=self.arguments.sample_steps,
            guidance_weight=self.arguments.guidance_weight,
        )
        size = self.prior.image_size
        table = images.reshape(len(rows), len(GRID_VIEWS), size, size, 3)
        path = self.folder / "samples" / f"{step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        save_png(path, contact_sheet(enlarge(table), [*rows.values()]))


class _Report(contextlib.AbstractContextManager):
    """The progress bar: step, mean loss since the last report, images per second, time left."""

    def __init__(self, console: Console, first: int, total: int, batch_size: int) -> None:
        self.console, self.batch_size, self.losses = console, batch_size, []
        self.step, self.mean, self.began = first, float("nan"), (first, 0.0)
        self.bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self.task = self.bar.add_task("", total=total, completed=first, note="compiling")

    def __enter__(self) -> "_Report":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def add(self, loss: jax.Array) -> None:
        """Takes the loss of a step, without waiting for it."""
        self.losses.append(loss)
        if self.began[1] == 0.0:
            loss.block_until_ready()  # The clock starts when all is compiled.
            self.began = (self.step + 1, time.perf_counter())

    def write(self, step: int) -> float:
        """Waits for the steps so far, shows them, and returns the mean loss."""
        if self.losses:
            self.mean = float(np.mean(jax.device_get(self.losses)))
            images = (step - self.began[0]) * self.batch_size
            speed = images / (time.perf_counter() - self.began[1])
            note = f"loss {self.mean:.4f}  {speed:.0f} images/s"
            self.bar.update(self.task, completed=step, note=note)
            if not self.console.is_terminal:
                self.console.print(f"step {step} {note}")
            self.step, self.losses = step, []
        return self.mean


def main(argv: list[str] | None = None) -> None:
    """Trains from the command line."""
    with one_line_errors():
        arguments = parse(sys.argv[1:] if argv is None else argv)
        open_folder(arguments)
        Training(arguments).run()


if __name__ == "__main__":
    main()

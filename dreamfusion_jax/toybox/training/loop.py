"""The training loop of the embedded prior in JAX, without a command line.

Needs no more than jax, flax, optax, orbax, numpy and transformers' tokenizer, so that it runs
on machines that have nothing else; grids of samples are drawn where Pillow is.
"""

import contextlib
import dataclasses
import functools
import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from safetensors.numpy import save_file

from dreamfusion_jax.diffusion.checkpoints.weights import load_params, save_params
from dreamfusion_jax.diffusion.noise_schedule import NoiseSchedule
from dreamfusion_jax.priors.sampling import sample_texts
from dreamfusion_jax.priors.toybox import ToyboxPrior
from dreamfusion_jax.runs.checkpoint import Checkpointer, load_config, save_config
from dreamfusion_jax.runs.loop import Moment, Stopped, Values, iterate, stop_on_signals
from dreamfusion_jax.toybox import architecture
from dreamfusion_jax.toybox.pictures import looked_up
from dreamfusion_jax.toybox.tokenizer import build_tokenizer, read_tokenizer
from dreamfusion_jax.toybox.training.compiled import Step
from dreamfusion_jax.toybox.training.data import Batches, Settings, grid_captions
from dreamfusion_jax.toybox.training.feed import drawn_ahead, drawn_elsewhere
from dreamfusion_jax.toybox.training.history import History
from dreamfusion_jax.toybox.training.model import (
    State,
    begin_with,
    init_state,
    make_networks,
    train_step,
)
from dreamfusion_jax.toybox.training.report import Report
from dreamfusion_jax.toybox.training.start import read_weights, start_from

_looked_up = jax.jit(looked_up, static_argnames="size")

GRID_VIEWS = ("front view", "left view", "back view", "right view", "overhead view")


@dataclasses.dataclass(frozen=True)
class Running:
    """What to show and to keep while a prior is trained.

    Attributes:
        bfloat16: Compute in half precision: much faster on a GPU, no faster on most CPUs.
        log_every: Steps between reports of the loss.
        sample_every: Steps between grids of sampled pictures, in the folder samples/; 0 for none.
        guidance_weight: omega of those samples.
        sample_steps: Denoising steps of those samples.
        minutes: After so many, save and stop as after Ctrl-C; 0 for never.
        fit: Let the training be complete when the minutes are over, should the last step not
            have come by then: the step that the learning rate falls towards follows from the
            speed.
        workers: Processes that draw the batches, while the bank is in the device's memory; 0
            draws them in the program itself.
        saved: Called with the folder when weights and state have been written there.
    """

    bfloat16: bool = False
    log_every: int = 20
    sample_every: int = 1000
    guidance_weight: float = 3.0
    sample_steps: int = 25
    minutes: float = 0.0
    fit: bool = False
    workers: int = 0
    saved: Callable[[Path], object] = lambda _: None


def open_folder(settings: Settings, bfloat16: bool) -> None:
    """Makes the output folder, or makes sure that it is of the same training.

    Raises:
        ValueError: It holds something else.
    """
    free = ("output", "bank", "save_every")
    folder, values = settings.output, dataclasses.asdict(settings)
    decisive = {name: value for name, value in values.items() if name not in free}
    decisive = json.loads(json.dumps({**decisive, "bfloat16": bfloat16}, default=str))
    if (folder / "config.json").exists():
        begun = load_config(folder)
        changed = [name for name in decisive if begun.get(name) != decisive[name]]
        if changed:
            raise ValueError(
                f"{folder} was begun with other settings ({', '.join(changed)}): "
                "give the same ones, or another folder"
            )
    elif (folder / "model_index.json").exists():
        raise ValueError(f"{folder} holds a prior of another origin; choose another folder")
    else:
        save_config(folder, decisive)


class Training:
    """The loop: trains, reports, saves, and draws samples.

    Args:
        settings: What to train.
        running: What to show meanwhile.
        step: Of `compiled.Trial`, for these settings; compiled when it is first needed if
            None.

    Raises:
        FileNotFoundError: There are no traced views to colour.
    """

    def __init__(self, settings: Settings, running: Running, step: Step | None = None) -> None:
        self.settings, self.running = settings, running
        self.folder, self.console = settings.output, Console()
        self.tokenizer = build_tokenizer()
        self.batches = Batches(settings, self.tokenizer)
        architecture.write_configs(self.folder, settings.model, settings.vocabulary, self.tokenizer)
        dtype = jnp.bfloat16 if running.bfloat16 else jnp.float32
        self.networks = make_networks(settings.model, self.tokenizer, dtype)
        self.step = step or functools.partial(
            train_step,
            networks=self.networks,
            config=settings.optimization,
            block=settings.model.block,
        )
        self.schedule = NoiseSchedule.from_config(architecture.SCHEDULER)
        self.history = History.read(self.folder)
        self.start: str | None = None
        self.last = settings.optimization.steps
        self.prior = ToyboxPrior(
            unet=self.networks.unet,
            schedule=self.schedule,
            text_encoder=self.networks.text_encoder,
            tokenizer=read_tokenizer(self.folder / "tokenizer"),
            vocabulary=settings.vocabulary,
            image_size=settings.model.image_size,
            block=settings.model.block,
        )

    def run(self) -> None:
        """Trains to the last step, to Ctrl-C, or until the time is over.

        Raises:
            ValueError: The loss was not finite.
            CheckpointError: The saved state cannot be read.
            Stopped: It was to end before the last step; the state is saved.
        """
        began, limit = time.monotonic(), 60 * self.running.minutes
        with Checkpointer(self.folder) as checkpoints, stop_on_signals() as signalled:
            state = self._begin(checkpoints)
            first, total = int(state.step), self.settings.optimization.steps
            self.history.enter(self.settings, first, len(self.batches.bank.kinds), self.start)

            def late() -> bool:
                return 0 < limit < time.monotonic() - began

            def stop() -> int:
                return signalled() or (signal.SIGINT if late() else 0)

            def fit(moment: Moment[State], report: Report) -> None:
                """Where the training will have come to when its time is over."""
                if self.running.fit and report.pace and moment.due(self.running.log_every):
                    left = limit - (time.monotonic() - began)
                    self.last = min(moment.step + max(int(left * report.pace), 1), total)
                    self.history.stages[-1].settings["steps"] = self.last

            with (
                Report(self.console, first, total, self._batch_size) as report,
                self._plans(first, total) as drawn,
            ):
                batches = report.waiting(drawn)
                try:
                    iterate(
                        lambda state: self._improve(state, next(batches)),
                        state,
                        first=first,
                        total=total,
                        observers=[
                            lambda moment: self._watch(moment, report, checkpoints),
                            lambda moment: fit(moment, report),
                        ],
                        stop=stop,
                    )
                except Stopped:
                    if not (self.running.fit and late()):
                        raise
        self.console.print(f"done: {self.folder}")

    def _watch(self, moment: Moment[State], report: Report, checkpoints: Checkpointer) -> None:
        """Reports, saves and draws when their turn has come."""
        report.add(moment.values["loss"])
        saving = moment.due(self.settings.save_every) or moment.last or moment.stopping
        if saving or moment.due(self.running.log_every):
            mean = report.write(moment.step)
            self._check_finite(mean, moment.state, checkpoints)
            self.history.add(moment.step, report.mean, report.speed)
        if saving:
            with report.paused():
                self._save(moment.state, checkpoints)
        every = self.running.sample_every
        if every and (moment.last or moment.due(every)):
            with report.paused():
                self._draw_samples(moment.state, moment.step)

    @contextlib.contextmanager
    def _plans(self, first: int, total: int) -> Iterator[Iterator[tuple]]:
        """The batches of steps, drawn on the host while those before are learned from."""
        if self.running.workers:
            bank = self.batches.bank
            views = jax.device_put(bank.everything())
            with drawn_elsewhere(self.settings, first, self.running.workers) as batches:
                yield ((_looked_up(paints, views, size=bank.size), ids) for paints, ids in batches)
        else:
            with drawn_ahead(self.batches.plan, first, total) as batches:
                yield batches

    def _improve(self, state: State, batch: tuple) -> tuple[State, Values]:
        paints, ids = batch
        state, loss = self.step(state, paints, ids, self.schedule, last=np.int32(self.last))
        return state, {"loss": loss}

    def _begin(self, checkpoints: Checkpointer) -> State:
        """The state saved last, or another prior's weights, or fresh ones."""
        if checkpoints.latest_step() is not None:
            shapes = jax.eval_shape(begin_with, self.networks.shapes(), 0)
            state = checkpoints.restore(shapes)
            self.console.print(f"going on from step {int(state.step)}")
            return state
        fresh = init_state(self.networks, self.settings.optimization)
        if self.settings.start is None:
            return fresh
        return self._begin_with_weights_of(self.settings.start, fresh)

    def _begin_with_weights_of(self, start: Path, fresh: State) -> State:
        """Writes the weights to begin with, and reads them as a trained prior's are read."""
        self._write_weights(fresh.params, jnp.float32)
        unet, text, share = start_from(
            start, *read_weights(self.folder), self.settings.model.block, self.tokenizer
        )
        self.console.print(f"{share:.1%} of the weights are those of {start}")
        self.history, self.start = History.read(start), start.name
        parts = {"unet": unet, "text_encoder": text}
        for name, weights in parts.items():
            save_file(weights, self.folder / name / "model.safetensors", metadata={"format": "pt"})
        params = {
            name: load_params(
                self.folder / name / "model.safetensors", getattr(self.networks, name)
            )
            for name in parts
        }
        (self.folder / "unet/model.safetensors").unlink()
        return begin_with(params, self.history.steps)

    @property
    def _batch_size(self) -> int:
        return self.settings.optimization.batch_size

    def _check_finite(self, loss: float, state: State, checkpoints: Checkpointer) -> None:
        if not np.isfinite(loss):
            self._save(state, checkpoints)
            raise ValueError(
                f"the loss or its gradient is not finite after step {int(state.step)}; the "
                "state before is saved: lower the learning rate and train into another folder"
            )

    def _save(self, state: State, checkpoints: Checkpointer) -> None:
        """Writes the mean weights in half precision, the history, and the state to go on from."""
        self._write_weights(state.ema, jnp.float16)
        self.history.leave(int(state.step), len(self.batches.bank.kinds))
        self.history.write(self.folder)
        if int(state.step) > (checkpoints.latest_step() or 0):
            checkpoints.save(int(state.step), state)
        self.running.saved(self.folder)

    def _write_weights(self, params, dtype) -> None:
        file = self.folder / "unet/diffusion_pytorch_model.safetensors"
        save_params(params["unet"], file, dtype=dtype)
        file = self.folder / "text_encoder/model.safetensors"
        save_params(params["text_encoder"], file, dtype=dtype)

    def _draw_samples(self, state: State, step: int) -> None:
        """Writes a grid of pictures that the mean weights draw; the same noise every time."""
        rows = grid_captions(self.settings.vocabulary)
        images = sample_texts(
            jax.random.key(0),
            self.prior,
            state.ema,
            [f"{text}, {view}" for text in rows for view in GRID_VIEWS],
            steps=self.running.sample_steps,
            guidance_weight=self.running.guidance_weight,
        )
        size = self.prior.image_size
        table = images.reshape(len(rows), len(GRID_VIEWS), size, size, 3)
        path = self.folder / "samples" / f"{step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        write_grid(path, table, [*rows.values()])


def write_grid(path: Path, table: jax.Array, labels: list[str]) -> None:
    """Writes a table of pictures as PNG; without Pillow as the array, in a .npy file."""
    try:
        from dreamfusion_jax.looks.media import contact_sheet, enlarge, save_png
    except ImportError:
        np.save(path.with_suffix(".npy"), np.asarray(255 * table).astype(np.uint8))
    else:
        save_png(path, contact_sheet(enlarge(table), labels))

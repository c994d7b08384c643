"""A run: from settings and a folder to a trained scene, in a way that cannot be lost.

    with Run.start(folder, settings) as run:
        scene = run.train()
        run.write_results(scene)

Whatever ends the program in between, `Run.resume(folder)` goes on to the same result.
"""

import contextlib
import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from dreamfusion_jax.devices import device_errors
from dreamfusion_jax.distillation.demand import LESS_MEMORY, Demand, demand_of
from dreamfusion_jax.distillation.showing import Shown, pictures, show_next
from dreamfusion_jax.distillation.stages import stage_at, stages
from dreamfusion_jax.distillation.train import (
    Model,
    TrainState,
    check_groups,
    init_state,
    train_step,
)
from dreamfusion_jax.looks.latents import Decoder
from dreamfusion_jax.priors.opened import OpenedPrior, Say
from dreamfusion_jax.priors.prior import Prior, PriorParams, encode_prompts
from dreamfusion_jax.runs.checkpoint import Checkpointer, CheckpointError, load_config, save_config
from dreamfusion_jax.runs.files import CONFIG, LAST, METRICS, PREVIEWS, locked
from dreamfusion_jax.runs.loop import Moment, Observer, Values, iterate, stop_on_signals
from dreamfusion_jax.runs.metrics import Metrics
from dreamfusion_jax.runs.results import write_preview, write_results
from dreamfusion_jax.runs.settings import RunSettings, describe_run, read_settings
from dreamfusion_jax.runs.trained_scene import TrainedScene, load_scene
from dreamfusion_jax.runs.watch import Watch
from dreamfusion_jax.scene.fields.protocol import Params
from dreamfusion_jax.sharing import agreed, at_hand, replicate, spread_weights

LoadedPrior = tuple[Prior, PriorParams]
"""A prior with its parameters, where many runs share one that is in memory already."""


class RunExistsError(ValueError):
    """There is a run in the folder already.

    Attributes:
        folder: Where.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(f"{folder} holds a run already")
        self.folder = folder


def run_folder(output: Path, prompt: str, seed: int) -> Path:
    """The folder of a run of a prompt and a seed, below an output folder."""
    return output / f"{slug(prompt)}-seed{seed}"


def slug(prompt: str) -> str:
    """A prompt as part of a file name."""
    return re.sub("[^a-z0-9]+", "-", prompt.lower()).strip("-")


def is_finished(folder: Path) -> bool:
    """Whether a run has written everything."""
    return (folder / LAST).exists()


class Run:
    """One scene in training, and its folder. Made by `start` or `resume`.

    No other program can write to the folder until `close`, or the end of a `with` block.

    Args:
        folder: Locked, with its config.json.
        settings: What it was asked for.
        opened: The prior; its weights are read last.
        lock: What holds the folder.
        say: Is told of phases.
    """

    def __init__(
        self,
        folder: Path,
        settings: RunSettings,
        opened: OpenedPrior,
        lock: contextlib.ExitStack,
        say: Say,
    ) -> None:
        self.folder, self.settings, self.config = folder, settings, settings.config
        self.say, self._lock = say, lock
        prior = opened.prior
        self.model = Model(self.config.scene, prior)
        self._stages = stages(self.model, self.config.train)
        say("encoding the prompt")
        # Before the weights: the text encoder is the larger one, and is freed.
        self.text = encode_prompts(
            prior,
            opened.text_params,
            settings.prompt,
            self.config.train.prompts,
            settings.negative_prompt,
        )
        self._prior_params = opened.read(say)
        self._decoder = Decoder(*self.loaded) if self.config.scene.latent else None

    @classmethod
    def start(
        cls,
        folder: Path | str,
        settings: RunSettings,
        loaded: LoadedPrior | None = None,
        say: Say = lambda phase: None,
        *,
        take_the_time: bool = False,
    ) -> "Run":
        """Begins a run; writes nothing before all that can be refused has been accepted.

        Args:
            folder: Its new folder.
            settings: What to make.
            loaded: The prior, if it is in memory already.
            say: Is told of phases.
            take_the_time: Whether a run may take longer than over night.

        Raises:
            RunExistsError: There is a run in the folder.
            TooLongError: It would take very long on the device at hand.
            OutOfMemoryError: The device has too little memory for it.
            CheckpointError: The folder cannot be written, or is in use; or there is no scene to
                begin with that fits.
            ValueError: A request that cannot be carried out.
            OSError: Weights that cannot be read.
        """
        folder = Path(folder)
        if (folder / CONFIG).exists():
            raise RunExistsError(folder)
        opened = _open(settings, loaded, say)
        settings.config.train.distillation.check(opened.prior)
        check_groups(settings.config.train, opened.prior)
        if loaded is None:
            demand = _demand(settings, opened)
            demand.check_memory()
            if not take_the_time:
                demand.check_time()
        with contextlib.ExitStack() as lock:
            run = cls(folder, settings, opened, lock, say)
            run._scene_to_begin_with()
            try:
                folder.mkdir(parents=True, exist_ok=True)
                lock.enter_context(locked(folder))
                if (folder / CONFIG).exists():  # Another program was quicker.
                    raise RunExistsError(folder)
                save_config(folder, describe_run(settings))
            except OSError as error:
                raise CheckpointError(f"cannot write to {folder}: {error.strerror}") from error
            run._lock = lock.pop_all()
        return run

    @classmethod
    def resume(
        cls, folder: Path | str, loaded: LoadedPrior | None = None, say: Say = lambda phase: None
    ) -> "Run":
        """Goes on with a run that was stopped, from its last checkpoint.

        Args:
            folder: Of the run.
            loaded: The prior, if it is in memory already.
            say: Is told of phases.

        Raises:
            CheckpointError: The folder is missing, not a run's, or in use.
            ValueError: See `start`.
            OSError: See `start`.
        """
        folder = Path(folder)
        settings = read_settings(load_config(folder), folder)
        with contextlib.ExitStack() as lock:
            lock.enter_context(locked(folder))
            run = cls(folder, settings, _open(settings, loaded, say), lock, say)
            run._lock = lock.pop_all()
        return run

    @property
    def loaded(self) -> LoadedPrior:
        """The prior, and its parameters."""
        return self.model.prior, self._prior_params

    def close(self) -> None:
        """Lets other programs write to the folder."""
        self._lock.close()

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def train(
        self,
        observers: Sequence[Observer[TrainState]] = (),
        mesh: Mesh | None = None,
        shared: Path | None = None,
    ) -> TrainedScene:
        """Trains from the last checkpoint, or from the start, to the end.

        SIGINT (Ctrl-C) and SIGTERM end it after the step in hand, which is then saved.

        Args:
            observers: Told of every step, after the run has written what it writes.
            mesh: Devices that share the views and the prior (see `sharing.make_mesh`).
            shared: Folder of the run that several hosts train, for its checkpoints; this one's
                folder is its own. None for the same.

        Raises:
            Stopped: A signal came; the state is saved.
            NotFiniteError: The loss or its gradient was not finite.
            CheckpointError: A checkpoint cannot be written, or none can be read.
            OutOfMemoryError: The device has no room for a step.
            DeviceError: The device refuses a step.
            OSError: Another file cannot be written.
        """
        with (
            Checkpointer(shared or self.folder) as checkpoints,
            stop_on_signals() as stop,
            device_errors("a training step", LESS_MEMORY),
        ):
            state, total = self.begin(checkpoints, mesh), self.config.train.steps
            first = int(state.step)
            prior_params, text = self._prior_params, self.text
            if mesh is not None:
                prior_params, text = spread_weights(prior_params, mesh), replicate(text, mesh)
                if jax.process_count() == 1:  # Else a host looks at its scene on its own.
                    self._prior_params, self.text = at_hand((prior_params, text))
            step = functools.partial(
                train_step,
                prior_params=prior_params,
                text=text,
                config=self.config.train,
                mesh=mesh,
            )
            if first < total:
                self.say("compiling")
            state = iterate(
                self.advance_from(first, step),
                state,
                first=first,
                total=total,
                observers=[*self.keepers(checkpoints, first), *observers],
                stop=agreed(stop),
            )
        return self.scene(state)

    def keepers(self, checkpoints: Checkpointer, first: int) -> list[Observer[TrainState]]:
        """The observers that write what a run writes while it trains.

        Args:
            checkpoints: Of this run.
            first: Steps that are done.
        """
        output = self.config.output
        watch = Watch(
            self.folder,
            first,
            output.preview_every,
            model=self.model,
            config=self.config.train,
            prior_params=self._prior_params,
            text=self.text,
        )
        metrics = Metrics(self.folder / METRICS, first, output.checkpoint_every)
        return [metrics, watch, _Keeper(self, checkpoints)]

    def state(self) -> TrainState:
        """The state of the last checkpoint; where there is none, that of the start.

        Raises:
            CheckpointError: No checkpoint, or not the scene to begin with, can be read.
        """
        with Checkpointer(self.folder) as checkpoints:
            return self.begin(checkpoints)

    def scene(self, state: TrainState) -> TrainedScene:
        """The scene of a state; it lives as long as the state, which the next step takes."""
        train = self.config.train
        blur = train.variance.at_end(train.steps)
        return TrainedScene(
            self.config.scene, at_hand(state.params), blur, self._decoder, self.settings.about
        )

    def show_next(self, state: TrainState) -> Shown:
        """What the prior will be asked in the step after a state."""
        asked = at_hand((state, self._prior_params, self.text))
        return show_next(*asked, model=self.model, config=self.config.train)

    def pictures(self, *rows: Float[Array, "V h w C"]) -> Float[np.ndarray, "rows V H W 3"]:
        """Small pictures of z, the images of this run's prior."""
        return pictures(self.model.prior, self._prior_params, rows)

    def write_results(self, scene: TrainedScene) -> None:
        """Draws preview.png, turntable.mp4 and mesh.glb.

        Raises:
            ValueError: The scene is empty.
        """
        self.say("drawing the turntable and the mesh")
        write_results(self.folder, scene, self.config.output)

    def begin(self, checkpoints: Checkpointer, mesh: Mesh | None = None) -> TrainState:
        """The state to go on from, as `state`; says which that is.

        Args:
            checkpoints: Of this run.
            mesh: Where it is to be; None for the usual device.

        Raises:
            CheckpointError: See `state`.
        """
        state = init_state(self.model, self.config.train, self.settings.seed)
        fresh = checkpoints.latest_step() is None
        params = self._scene_to_begin_with() if fresh else None
        if params is not None:
            state = dataclasses.replace(state, params=params)
        if mesh is not None:
            state = replicate(state, mesh)
        if fresh:
            return state
        state, note = checkpoints.restore_newest(state)
        if note:
            self.say(note)
        self.say(f"going on from step {int(state.step)}")
        return state

    def _scene_to_begin_with(self) -> Params | None:
        """Parameters of another run's scene, if this one begins with it."""
        other = self.settings.init_from
        if other is None:
            return None
        scene = TrainedScene.load(other, self._decoder)
        if scene.model != self.config.scene:
            raise CheckpointError(
                f"the scene of {other} has another field, background or sampling than this run"
            )
        return scene.params

    def advance_from(
        self, first: int, step: Callable[..., tuple[TrainState, Values]]
    ) -> Callable[[TrainState], tuple[TrainState, Values]]:
        """What takes a state one step further; steps are counted here, and not waited for.

        Args:
            first: Steps that are done.
            step: Of a state and the model of its stage.
        """
        count = itertools.count(first)

        def advance(state: TrainState) -> tuple[TrainState, Values]:
            return step(state, model=stage_at(self._stages, next(count)).model)

        return advance


class _Keeper:
    """Writes previews and checkpoints when their turn has come; an observer."""

    def __init__(self, run: Run, checkpoints: Checkpointer) -> None:
        self.run, self.checkpoints = run, checkpoints

    def __call__(self, moment: Moment[TrainState]) -> None:
        output = self.run.config.output
        if moment.due(output.preview_every) and not moment.last:
            path = self.run.folder / PREVIEWS / f"{moment.step:06d}.png"
            write_preview(path, self.run.scene(moment.state), output, output.preview_size)
        if moment.due(output.checkpoint_every) or moment.last or moment.stopping:
            self.checkpoints.save(moment.step, moment.state)


def _open(settings: RunSettings, loaded: LoadedPrior | None, say: Say) -> OpenedPrior:
    if loaded is not None:
        return OpenedPrior.whole(*loaded)
    weights = f" ({settings.weights})" if settings.weights else ""
    say(f"loading the prior {settings.prior}{weights}")
    return settings.open_prior(say)


def _demand(settings: RunSettings, opened: OpenedPrior) -> Demand:
    train = settings.config.train
    texts = opened.text_shapes(settings.prompt, train.prompts, settings.negative_prompt)
    model = Model(settings.config.scene, opened.prior)
    return demand_of(model, train, opened.shapes, texts)


def load_finished(folder: Path) -> tuple[RunSettings, TrainedScene]:
    """Settings and scene of a run that was trained to its end.

    Raises:
        CheckpointError: The folder is not that of a run, or it is not finished.
    """
    settings = read_settings(load_config(folder), folder)
    with Checkpointer(folder) as checkpoints:
        step = checkpoints.latest_step() or 0
    if step < settings.config.train.steps:
        raise CheckpointError(f"{folder} is at step {step} of {settings.config.train.steps}")
    return settings, load_scene(folder, settings)

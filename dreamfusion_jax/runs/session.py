"""One run, from its first step to its files: the loop of `experiments.run`."""

import csv
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from dreamfusion_jax.distillation.train import Model, TrainState, init_state, train_step
from dreamfusion_jax.export.mesh import extract_mesh, save_mesh
from dreamfusion_jax.looks.latents import Decoder, scene_colours
from dreamfusion_jax.looks.media import contact_sheet, save_png, save_video, side_by_side
from dreamfusion_jax.looks.views import Looks, look_around
from dreamfusion_jax.presets import RunConfig
from dreamfusion_jax.priors.prior import Prior, PriorParams
from dreamfusion_jax.priors.prompts import Text
from dreamfusion_jax.runs.checkpoint import Checkpointer
from dreamfusion_jax.scene.camera import Camera, orbit

_LOG_EVERY = 10
_PREVIEW_VIEWS = 8
_FPS = 24.0


class Session:
    """Trains one scene and writes everything a run writes.

    Args:
        text: The encoded prompt.
        config: Settings.
        folder: Where files go; a checkpoint found there is gone on from.
        prior: The diffusion model.
        prior_params: Its parameters.
        seed: Of everything random.
    """

    def __init__(
        self,
        text: Text,
        config: RunConfig,
        folder: Path,
        prior: Prior,
        prior_params: PriorParams,
        seed: int,
    ) -> None:
        self.config, self.folder = config, folder
        self.model = Model(config.scene, prior)
        self.prior_params = prior_params
        self.decoder = Decoder(prior, prior_params) if config.scene.latent else None
        self.text, self.seed = text, seed
        self.console = Console()

    def run(self) -> None:
        """Trains to the end, or to Ctrl-C, and writes the results.

        Raises:
            ValueError: The loss was not finite, or the finished scene is empty.
        """
        with Checkpointer(self.folder) as checkpoints:
            state = init_state(self.model, self.config.train, self.seed)
            if checkpoints.latest_step() is not None:
                state = checkpoints.restore(state)
                self.console.print(f"going on from step {int(state.step)}")
            state = self._train(state, checkpoints)
        self.console.print("drawing the turntable and the mesh")
        self._write_results(state)
        self.console.print(f"done: {self.folder}")

    def _train(self, state: TrainState, checkpoints: Checkpointer) -> TrainState:
        total, first = self.config.train.steps, int(state.step)
        with _progress(self.console) as progress, _Metrics(self.folder, first) as metrics:
            task = progress.add_task("compiling", total=total, completed=first, note="")
            try:
                for step in range(first + 1, total + 1):
                    state, values = train_step(
                        state,
                        self.prior_params,
                        self.text,
                        model=self.model,
                        config=self.config.train,
                    )
                    if step % _LOG_EVERY == 0 or step in (1, total):
                        note = metrics.write(step, values)
                        progress.update(task, completed=step, description="distilling", note=note)
                    self._keep(state, step, values, metrics, checkpoints)
            except KeyboardInterrupt:
                self._stop(state, checkpoints)
        return state

    def _keep(
        self,
        state: TrainState,
        step: int,
        values: dict[str, jax.Array],
        metrics: "_Metrics",
        checkpoints: Checkpointer,
    ) -> None:
        """Writes a preview and a checkpoint when their turn has come."""
        output, last = self.config.output, step == self.config.train.steps
        if step % output.preview_every == 0 and not last:
            path = self.folder / "previews" / f"{step:06d}.png"
            self._write_preview(state, path, output.preview_size)
        if step % output.checkpoint_every == 0 or last:
            metrics.write(step, values)  # Refuses what is not finite.
            checkpoints.save(step, state)

    def _stop(self, state: TrainState, checkpoints: Checkpointer) -> None:
        """Saves what there is, says how to go on, and ends the program."""
        whole = not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))
        if whole and int(state.step) > (checkpoints.latest_step() or 0):
            checkpoints.save(int(state.step), state)
        print(f"stopped; go on with --resume {self.folder}", file=sys.stderr)
        raise SystemExit(130)

    def _cameras(self, views: int) -> Camera:
        output = self.config.output
        return orbit(views, math.radians(output.elevation), output.distance, output.focal)

    def _looks(self, state: TrainState, views: int, size: int) -> Looks:
        train = self.config.train
        return look_around(
            self.config.scene,
            state.params,
            self._cameras(views),
            size=size,
            variance=train.variance(train.steps, train.steps),
            backdrop=self.config.output.backdrop,
            decoder=self.decoder,
        )

    def _write_preview(self, state: TrainState, path: Path, size: int) -> None:
        looks = self._looks(state, _PREVIEW_VIEWS, size)
        path.parent.mkdir(exist_ok=True)
        rows = np.stack([looks.color, looks.shaded, looks.textureless, looks.normals])
        labels = ["colour", "shaded", "textureless", "normals"]
        save_png(path, contact_sheet(rows, labels))

    def _write_results(self, state: TrainState) -> None:
        output = self.config.output
        self._write_preview(state, self.folder / "preview.png", output.size)
        looks = self._looks(state, output.frames, output.size)
        video = side_by_side(looks.color, looks.textureless, looks.normals)
        save_video(self.folder / "turntable.mp4", video, _FPS)
        self._write_mesh(state)

    def _write_mesh(self, state: TrainState) -> None:
        scene, train = self.config.scene, self.config.train
        variance, colours = train.variance(train.steps, train.steps), None
        if self.decoder is not None:
            cameras = self._cameras(_PREVIEW_VIEWS)
            colours = scene_colours(self.decoder, scene, state.params, cameras, variance=variance)

        @jax.jit
        def query(points: jax.Array) -> tuple[jax.Array, jax.Array]:
            spread = jnp.broadcast_to(variance, points.shape[:-1])
            density, albedo = scene.field(state.params["field"], points, spread)
            return density, albedo if colours is None else colours(albedo)

        mesh = extract_mesh(
            lambda points: query(points)[0],
            lambda points: query(points)[1],
            radius=scene.sampling.radius,
            resolution=self.config.output.mesh_resolution,
        )
        save_mesh(mesh, self.folder / "mesh.glb")


class _Metrics:
    """metrics.csv: a row every few steps; a resumed run drops the rows it does again."""

    def __init__(self, folder: Path, first: int) -> None:
        self.path = folder / "metrics.csv"
        self.rows: list[dict[str, float]] = []
        if self.path.exists():
            with self.path.open(newline="") as file:
                rows = [
                    {"step": int(row.pop("step"))} | {k: float(v) for k, v in row.items()}
                    for row in csv.DictReader(file)
                ]
            self.rows = [row for row in rows if row["step"] <= first]
        self.last = first

    def __enter__(self) -> "_Metrics":
        self._rewrite()
        return self

    def __exit__(self, *_: object) -> None:
        self._rewrite()

    def _rewrite(self) -> None:
        if self.rows:
            with self.path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(self.rows[0]))
                writer.writeheader()
                writer.writerows(self.rows)

    def write(self, step: int, values: dict[str, jax.Array]) -> str:
        """Keeps a row and returns what the progress bar says of it.

        Raises:
            ValueError: The step was not finite.
        """
        numbers = {name: float(value) for name, value in values.items()}
        if not numbers.pop("finite"):
            raise ValueError(
                f"the loss or its gradient is not finite near step {step}; the last checkpoint "
                "is kept: lower the learning rate or the guidance weight"
            )
        if step > self.last:
            self.rows.append({"step": step, **numbers})
            self.last = step
            if len(self.rows) % 10 == 0:
                self._rewrite()
        return f"opacity {numbers['opacity']:.2f} residual {numbers['residual']:.3f}"


class _Speed(TextColumn):
    """Steps per second since the first finished steps."""

    def __init__(self) -> None:
        super().__init__("{task.speed}")

    def render(self, task):
        """The speed as text."""
        from rich.text import Text as RichText

        return RichText(f"{task.speed:.1f} steps/s" if task.speed else "")


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )

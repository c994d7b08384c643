"""Finished runs of toybox prompts, measured against the truth."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dreamfusion_jax.distillation.train import Model, TrainState, init_state
from dreamfusion_jax.evaluation import truth_metrics as metrics
from dreamfusion_jax.evaluation.judge import Judge, Params, load_judge
from dreamfusion_jax.evaluation.truth_metrics import AZIMUTHS, Measures, Portrait
from dreamfusion_jax.looks.media import contact_sheet
from dreamfusion_jax.looks.views import Looks, look_around
from dreamfusion_jax.presets import RunConfig
from dreamfusion_jax.priors import toybox
from dreamfusion_jax.priors.loading import load_prior
from dreamfusion_jax.priors.prior import Prior, PriorParams
from dreamfusion_jax.runs.checkpoint import Checkpointer, CheckpointError
from dreamfusion_jax.scene.camera import Camera, orbit
from dreamfusion_jax.toybox.captions import Vocabulary
from dreamfusion_jax.toybox.world import Scene
from experiments import run

_RING_VIEWS = (0, 1, 1, 2, 2, 1, 1, 0)
"""What the judge should say of the lower ring: 22.5 degrees is a front, 67.5 a side."""


_BRIEF = ("--output.preview-every", "100000", "--output.frames", "4", "--output.size", "64")
"""The measures look at the objects themselves, and need no turntables."""


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What the judge says of the lower ring of a portrait's views.

    Attributes:
        category: Number of azimuths at which it names the category.
        colour: The colour it names most often.
        view: Number of azimuths at which it names the view.
    """

    category: int
    colour: str
    view: int


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    scene: Scene
    measures: Measures
    judgement: Judgement | None


Jury = Callable[[Portrait, Scene], Judgement | None]


def make_jury(judge: Judge, params: Params) -> Jury:
    """A function that judges portraits over a light grey.

    Args:
        judge: The classifier.
        params: Its parameters.
    """
    config, look = judge.config, jax.jit(judge)

    def decide(portrait: Portrait, scene: Scene) -> Judgement:
        grey = jnp.asarray(portrait.color) - 0.15 * (1 - jnp.asarray(portrait.opacity)[..., None])
        verdict = look(params, grey[:AZIMUTHS])
        category, colour, view = (
            np.asarray(jnp.argmax(x, axis=-1))
            for x in (verdict.category, verdict.colour, verdict.view)
        )
        names = np.array(config.answers)[category]
        return Judgement(
            category=int((names == scene.category).sum()),
            colour=config.colours[np.bincount(colour).argmax()],
            view=int((view == np.array(_RING_VIEWS)).sum()),
        )

    return decide


def no_jury(portrait: Portrait, scene: Scene) -> None:
    """Judges nothing."""
    del portrait, scene


def load_jury(folder: Path | None) -> Jury:
    """The judge in a folder, or none.

    Raises:
        FileNotFoundError: There is no judge in the folder.
    """
    return make_jury(*load_judge(folder)) if folder else no_jury


def measure(name: str, scene: Scene, portrait: Portrait, jury: Jury) -> Row:
    """A line of the table."""
    return Row(name, scene, metrics.measure(scene, portrait), jury(portrait, scene))


def make_objects(
    prompts: Sequence[str],
    seeds: Sequence[int],
    output: Path,
    settings: Sequence[str] = (),
    loaded: tuple[Prior, PriorParams] | None = None,
) -> tuple[Path, ...]:
    """Runs every prompt with every seed, as experiments.run does, with one prior for all.

    What is finished is left alone, and what was stopped is gone on with.

    Args:
        prompts: What to make.
        seeds: One object of each prompt for each.
        output: Folder of the runs' folders.
        settings: Options of experiments.run for all of them.
        loaded: The prior and its parameters; the embedded one if not given.

    Returns:
        The folders.
    """
    folders = []
    for seed, prompt in itertools.product(seeds, prompts):
        folder = output / f"{run.slug(prompt)}-seed{seed}"
        folders.append(folder)
        if (folder / run.LAST_FILE).exists():
            continue
        argv = ["--prompt", prompt, "--seed", str(seed), "--output", str(output)]
        argv += [*_BRIEF, *settings]
        if (folder / "config.json").exists():
            argv = ["--resume", str(folder)]
        loaded = loaded or toybox.load()
        run.start(argv, loaded).run()
    return tuple(folders)


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """What is known of a finished run.

    Attributes:
        prompt: Of the run.
        seed: Of the run.
        config: Its settings.
        state: Its last state.
    """

    prompt: str
    seed: int
    config: RunConfig
    state: TrainState

    @property
    def scene(self) -> Scene:
        """The toybox object that the prompt names."""
        return Vocabulary().scene(self.prompt)


def load_run(folder: Path) -> FinishedRun:
    """Reads a run's folder.

    Raises:
        CheckpointError: The folder is not that of a finished run.
    """
    begun = run.resumed(folder)
    # The state does not depend on the prior, so the one that is quickest to make will do.
    prior, _ = load_prior("oracle", begun.prompt)
    model, train = Model(begun.config.scene, prior), begun.config.train
    with Checkpointer(folder) as checkpoints:
        state = checkpoints.restore(jax.eval_shape(lambda: init_state(model, train, begun.seed)))
    if int(state.step) < train.steps:
        raise CheckpointError(f"{folder} is at step {int(state.step)} of {train.steps}; resume it")
    return FinishedRun(begun.prompt, begun.seed, begun.config, state)


def look_at_run(finished: FinishedRun, size: int, cameras: Camera | None = None) -> Looks:
    """What the measuring cameras, or others, see of a run's object, over white."""
    config = finished.config
    return look_around(
        config.scene,
        finished.state.params,
        cameras or metrics.measuring_cameras(),
        size=size,
        variance=config.train.variance(config.train.steps, config.train.steps),
        backdrop=1.0,
    )


def portrait_of(looks: Looks) -> Portrait:
    """The part of the looks that is measured."""
    return Portrait(looks.color, looks.opacity[..., 0])


def draw_sheet(looks: Looks, truth: Portrait) -> np.ndarray:
    """The truth above the object: colour, shaded, textureless and normals of eight azimuths."""
    rows = [truth.color, looks.color, looks.shaded, looks.textureless, looks.normals]
    labels = ["truth", "colour", "shaded", "textureless", "normals"]
    return contact_sheet(np.stack([np.asarray(row)[:AZIMUTHS] for row in rows]), labels)


def glance(finished: FinishedRun, size: int = 128) -> np.ndarray:
    """Four sides, in colour and then shaded [8, size, size, 3]: a row of a picture of many."""
    sides = orbit(4, math.radians(20.0), 1.3, 1.1, azimuth=math.radians(30.0))
    looks = look_at_run(finished, size, sides)
    return np.concatenate([looks.color, looks.shaded])

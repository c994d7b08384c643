"""Measures finished runs of toybox prompts against the truth.

    python -m experiments.evaluate --runs outputs/a-red-car-seed0 outputs/a-red-car-seed1

Writes table.md and a contact sheet for each run to --output. The same measures are printed
for the true object, for the empty scene and for the best-fitting sphere, which says what
they are worth.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from dreamfusion_jax.checkpoint import Checkpointer, CheckpointError
from dreamfusion_jax.config import RunConfig
from dreamfusion_jax.media import contact_sheet, save_png
from dreamfusion_jax.priors import load_prior
from dreamfusion_jax.toybox import metrics
from dreamfusion_jax.toybox.captions import UnknownWordsError, Vocabulary
from dreamfusion_jax.toybox.judge import SHIPPED, Judge, Params, load_judge
from dreamfusion_jax.toybox.metrics import AZIMUTHS, Measures, Portrait
from dreamfusion_jax.toybox.world import CATEGORIES, HELD_OUT, Scene
from dreamfusion_jax.train import Model, TrainState, init_state
from dreamfusion_jax.views import Looks, look_around
from experiments import run
from experiments.run import fail

_RING_VIEWS = (0, 1, 1, 2, 2, 1, 1, 0)
"""What the judge should say of the lower ring: 22.5 degrees is a front, 67.5 a side."""

_CLEAR_LEAD = 0.10
_ENOUGH_AZIMUTHS = 6


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to measure and where to put it.

    Attributes:
        runs: Folders of finished runs.
        output: Folder of the table and the contact sheets.
        judge: Folder of the judge; "None" leaves its columns empty.
        size: Height and width of the measured views, pixels.
    """

    runs: tuple[Path, ...] = ()
    output: Path = Path("outputs/evaluation")
    judge: Path | None = SHIPPED
    size: int = 64


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
        names = np.array(config.categories)[category]
        return Judgement(
            category=int((names == scene.category).sum()),
            colour=config.colours[np.bincount(colour).argmax()],
            view=int((view == np.array(_RING_VIEWS)).sum()),
        )

    return decide


def _no_jury(portrait: Portrait, scene: Scene) -> None:
    del portrait, scene


def load_run(folder: Path) -> tuple[str, int, RunConfig, TrainState]:
    """Prompt, seed, settings and last state of a finished run.

    Raises:
        CheckpointError: The folder is not that of a finished run.
    """
    begun, _ = run.open_folder(run.Arguments(resume=folder), ["--resume", str(folder)])
    # The state does not depend on the prior, so the one that is quickest to make will do.
    prior, _ = load_prior("oracle", begun.prompt, None)
    model, train = Model(begun.config.scene, prior), begun.config.train
    with Checkpointer(folder) as checkpoints:
        state = checkpoints.restore(jax.eval_shape(lambda: init_state(model, train)))
    if int(state.step) < train.steps:
        raise CheckpointError(f"{folder} is at step {int(state.step)} of {train.steps}; resume it")
    return begun.prompt, begun.seed, begun.config, state


def look_at_run(config: RunConfig, state: TrainState, size: int) -> Looks:
    """What the measuring cameras see of a run's object, over white."""
    train = config.train
    return look_around(
        config.scene,
        state.params,
        metrics.measuring_cameras(),
        size=size,
        variance=train.variance(train.steps),
        backdrop=1.0,
    )


def draw_sheet(looks: Looks, truth: Portrait) -> np.ndarray:
    """The truth above the object: colour, shaded, textureless and normals of eight azimuths."""
    rows = [truth.color, looks.color, looks.shaded, looks.textureless, looks.normals]
    labels = ["truth", "colour", "shaded", "textureless", "normals"]
    return contact_sheet(np.stack([np.asarray(row)[:AZIMUTHS] for row in rows]), labels)


def evaluate(folders: tuple[Path, ...], output: Path, jury: Jury, size: int) -> str:
    """Measures the runs, draws their sheets and returns the table.

    Args:
        folders: Of the runs.
        output: Folder of the sheets.
        jury: Judges portraits.
        size: Of the measured views.
    """
    rows: list[Row] = []
    seen: dict[Scene, list[Row]] = {}
    for number, folder in enumerate(folders, 1):
        print(f"{number}/{len(folders)} {folder}", flush=True)
        prompt, seed, config, state = load_run(folder)
        scene, looks = Vocabulary().scene(prompt), look_at_run(config, state, size)
        truth = metrics.truth_portrait(scene, size=size)
        output.mkdir(parents=True, exist_ok=True)
        save_png(output / f"{run.slug(prompt)}-seed{seed}.png", draw_sheet(looks, truth))
        if scene not in seen:
            marks = {
                "truth": truth,
                "empty": metrics.empty_portrait(size=size),
                "sphere": metrics.sphere_portrait(scene, size=size),
            }
            seen[scene] = [_row(name, scene, p, jury) for name, p in marks.items()]
        portrait = Portrait(looks.color, looks.opacity[..., 0])
        rows.append(_row(f"{prompt}, seed {seed}", scene, portrait, jury))
    return write_table(rows, seen)


def _row(name: str, scene: Scene, portrait: Portrait, jury: Jury) -> Row:
    return Row(name, scene, metrics.measure(scene, portrait), jury(portrait, scene))


_HEADER = (
    "| object | IoU | PSNR | main colour | facing | opacity | haze "
    "| judge: category | judge: colour | judge: view |\n" + "| --- " * 10 + "|\n"
)


def write_table(rows: list[Row], marks: dict[Scene, list[Row]]) -> str:
    """Markdown: the runs, what their measures are worth, and the summary.

    Args:
        rows: Of the runs.
        marks: Of the truth, the empty scene and the best sphere for each scene, in this order.
    """
    others = [
        dataclasses.replace(row, name=f"{scene.colour} {scene.category}: {row.name}")
        for scene, three in marks.items()
        for row in three
    ]
    return (
        "## Runs\n\n"
        + _HEADER
        + "".join(map(_line, rows))
        + "\n## What the measures are worth\n\n"
        + _HEADER
        + "".join(map(_line, others))
        + "\n## Summary\n\n"
        + "".join(f"- {line}\n" for line in summary(rows, marks))
    )


def _line(row: Row) -> str:
    m, j, has_front = row.measures, row.judgement, CATEGORIES[row.scene.category].has_front
    held = " (held out)" if (row.scene.category, row.scene.colour) in HELD_OUT else ""
    cells = [
        row.name + held,
        f"{m.iou:.2f}",
        f"{m.psnr:.1f}",
        m.colour or "none",
        f"{m.facing:+.2f}" if has_front else "-",
        f"{m.opacity:.3f}",
        f"{m.haze:.2f}",
        f"{j.category}/{AZIMUTHS}" if j else "-",
        j.colour if j else "-",
        f"{j.view}/{AZIMUTHS}" if j and has_front else "-",
    ]
    return f"| {' | '.join(cells)} |\n"


def summary(rows: list[Row], marks: dict[Scene, list[Row]]) -> list[str]:
    """Counts over the runs, a line each."""
    total, fronts = len(rows), [r for r in rows if CATEGORIES[r.scene.category].has_front]
    lead = [r.measures.iou - marks[r.scene][2].measures.iou for r in rows]
    right = [r for r in rows if r.measures.colour == r.scene.colour]
    facing = [r for r in fronts if r.measures.facing > 0]
    lines = [
        f"mean silhouette IoU {np.mean([r.measures.iou for r in rows]):.3f}",
        f"IoU at least {_CLEAR_LEAD:.2f} above the best sphere: "
        f"{sum(x >= _CLEAR_LEAD for x in lead)} of {total}",
        f"main colour right: {len(right)} of {total}",
        f"nearer to the truth than to its back: {len(facing)} of {len(fronts)}",
    ]
    judged = [(r, r.judgement) for r in rows if r.judgement]
    if judged:
        clear = sum(j.category >= _ENOUGH_AZIMUTHS for _, j in judged)
        hue = sum(j.colour == r.scene.colour for r, j in judged)
        lines += [
            f"judge names the category from {_ENOUGH_AZIMUTHS} of {AZIMUTHS} azimuths: "
            f"{clear} of {total}",
            f"judge names the colour: {hue} of {total}",
        ]
    return lines + _differences(rows)


def _differences(rows: list[Row]) -> list[str]:
    """How far apart the seeds of one scene are."""
    scenes = dict.fromkeys(row.scene for row in rows)
    found = [[row.measures.iou for row in rows if row.scene == scene] for scene in scenes]
    apart = [max(ious) - min(ious) for ious in found if len(ious) > 1]
    if not apart:
        return []
    return [
        f"IoU between seeds differs by {np.mean(apart):.3f} on average, {max(apart):.3f} at most"
    ]


def main(argv: list[str] | None = None) -> None:
    """Evaluates from the command line."""
    arguments = tyro.cli(Arguments, args=argv, description=__doc__)
    try:
        if not arguments.runs:
            raise ValueError("--runs is empty; name the folders of finished runs")
        if arguments.size < 16:
            raise ValueError(f"--size must be at least 16, not {arguments.size}")
        jury = make_jury(*load_judge(arguments.judge)) if arguments.judge else _no_jury
        table = evaluate(arguments.runs, arguments.output, jury, arguments.size)
    except (CheckpointError, UnknownWordsError, ValueError, OSError) as error:
        fail(str(error))
    (arguments.output / "table.md").write_text(table, encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()

"""Table 1: CLIP R-Precision of many objects, by colour and by shape, beside the truth's own.

    python -m experiments.figures.table1
    python -m experiments.figures.table1 --clip clip-vit-base-patch32 --captions captions.txt

Without CLIP the judge of the toy world judges. --baseline FOLDER adds objects in the manner of
Dream Fields (2112.01455), which have another judge's score optimised instead of following a
diffusion model; that judge, of another seed, is trained by experiments.train_judge and not
shipped. 48 objects (those of experiments.evaluate), a minute and a half each on a CPU core, 12 of
the baseline one minute each.
Writes table1.md, table1.json, a plot of the table as table1.png and table1.pdf, and the objects
as table1-pictures.png (the baseline's as table1-baseline.png), .pdf and .json.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from dreamfusion_jax.evaluation import r_precision
from dreamfusion_jax.evaluation.dream_fields import make_baseline
from dreamfusion_jax.evaluation.judge import Judge, Params, load_judge
from dreamfusion_jax.evaluation.prompts import TWELVE, drawn_prompts
from dreamfusion_jax.evaluation.r_precision import Kind, Subject, ViewingConfig
from dreamfusion_jax.files import write_whole
from dreamfusion_jax.looks.figures import bars, save_figure, tiles
from experiments.command_line import as_program, say
from experiments.figures.making import Making, run
from experiments.scoring import Scoring

KINDS: tuple[Kind, ...] = ("colour", "textureless")
"""The paper's colour and geometry."""


@dataclasses.dataclass(frozen=True)
class Arguments(Making):
    """What to measure.

    Attributes:
        prompts: What to make.
        seeds: Of each of them.
        baseline_prompts: What the baseline makes.
        baseline: Folder of a judge whose score is optimised for the baseline, with the first of
            the seeds; without one there is no baseline.
        azimuths: Views of each object.
        scoring: Who judges.
    """

    prompts: tuple[str, ...] = drawn_prompts()
    seeds: tuple[int, ...] = (0, 1)
    baseline_prompts: tuple[str, ...] = TWELVE
    baseline: Path | None = None
    azimuths: int = 8
    scoring: Annotated[Scoring, tyro.conf.arg(name="")] = Scoring()


def draw(arguments: Arguments) -> Path:
    """Makes the objects and the baseline's, and lets everyone judge.

    Raises:
        ValueError: A request that cannot be carried out.
    """
    config = ViewingConfig(azimuths=arguments.azimuths, size=arguments.size)
    panel = arguments.scoring.read()
    other = load_judge(arguments.baseline) if arguments.baseline is not None else None
    folders = arguments.make(arguments.prompts, arguments.seeds)
    subjects = [r_precision.subject(folder, config) for folder in folders]
    made = {"ours": subjects}
    if other is not None:
        made["baseline"] = _baseline(arguments, config, *other)
    rows = {name: panel.ask(those, KINDS) for name, those in made.items()}
    _draw_pictures(arguments, "table1-pictures", arguments.prompts, subjects)
    if "baseline" in made:
        _draw_pictures(arguments, "table1-baseline", arguments.baseline_prompts, made["baseline"])
    text = "".join(f"## {name}\n\n{r_precision.table(found)}\n" for name, found in rows.items())
    heights = {name: [100 * row.objects.value for row in found] for name, found in rows.items()}
    truth = [100 * row.truth.value for row in rows["ours"] if row.truth]
    if len(truth) == len(rows["ours"]):
        heights["truth"] = truth
    figure = bars([f"{r.scorer}, {r.kind}" for r in rows["ours"]], heights, "R-Precision, %")
    numbers = {name: [dataclasses.asdict(row) for row in found] for name, found in rows.items()}
    path = save_figure(arguments.output, "table1", figure, numbers)
    write_whole(arguments.output / "table1.md", text.encode())
    say(text)
    return path


def _draw_pictures(
    arguments: Arguments, name: str, prompts: Sequence[str], subjects: Sequence[Subject]
) -> None:
    """The objects of the first seed, in colour and as shapes."""
    # Two opposite ones of the views all around, half to the side.
    first = arguments.azimuths // 8
    views = (first, first + arguments.azimuths // 2)
    rows = [
        [subject.pictures[kind][view] for kind in KINDS for view in views]
        for subject in subjects[: len(prompts)]
    ]
    columns = [text for kind in KINDS for text in (kind, "")]
    save_figure(arguments.output, name, tiles(rows, prompts, columns), {"prompts": prompts})


def _baseline(
    arguments: Arguments, config: ViewingConfig, judge: Judge, params: Params
) -> list[Subject]:
    preset, seed = arguments.chosen, arguments.seeds[0]
    folder = (arguments.runs or arguments.output / "runs") / "dream-fields"
    subjects = []
    for prompt in arguments.baseline_prompts:
        say(f"making {prompt}, baseline")
        scene = make_baseline(folder, prompt, seed, preset.config, judge, params)
        subjects.append(r_precision.subject_of(scene, prompt, seed, config))
    return subjects


def main(argv: list[str] | None = None) -> None:
    """Draws from the command line."""
    run(Arguments, draw, __doc__, argv)


if __name__ == "__main__":
    as_program(main)

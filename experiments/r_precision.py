"""Measures CLIP R-Precision of finished runs: is the prompt found among many captions?

    python -m experiments.r_precision --runs outputs/a-red-car-seed0 outputs/a-blue-car-seed0
    python -m experiments.r_precision --runs outputs/*-seed* --clip clip-vit-base-patch32 \
        --captions captions.txt

Objects are drawn from 30 degrees above, all around, in colour and without texture. With
--clip, checkpoints of CLIP in transformers' layout judge (B/32, B/16, L/14); without it, the
judge of the toy world, which needs no download. The paper's captions are 153 of MS-COCO that
show one object; Dream Fields has published them as `queries` in the repository
google-research/google-research, file dreamfields/dreamfields/config/coco_queries_val.py. Write
them to a file, one a line. Prints a table, and writes table.md and precision.json to --output.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import tyro

from dreamfusion_jax.checks import SHARE
from dreamfusion_jax.evaluation import r_precision
from dreamfusion_jax.evaluation.r_precision import Kind, Row, ViewingConfig
from dreamfusion_jax.files import write_whole
from experiments.command_line import UsageError, as_program, one_line_errors, parsed, say
from experiments.scoring import Scoring


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to judge, by whom, and where to put it.

    Attributes:
        runs: Folders of finished runs.
        scoring: Who judges.
        kinds: How the objects are drawn.
        output: Folder of the table.
        pictures: From where.
    """

    runs: tuple[Path, ...]
    scoring: Annotated[Scoring, tyro.conf.arg(name="")] = Scoring()
    kinds: tuple[Kind, ...] = ("colour", "textureless")
    output: Path = Path("outputs/r-precision")
    pictures: Annotated[ViewingConfig, tyro.conf.arg(name="")] = ViewingConfig()


def _check(arguments: Arguments) -> None:
    pictures = arguments.pictures
    if not arguments.runs or not arguments.kinds:
        raise UsageError("--runs and --kinds must not be empty")
    if pictures.azimuths < 1 or pictures.size < 8:
        raise UsageError("--azimuths must be at least 1, and --size at least 8")
    if pictures.backdrop not in SHARE:
        raise UsageError(f"--backdrop must be {SHARE}, not {pictures.backdrop}")


def judge(arguments: Arguments) -> list[Row]:
    """Draws all runs, lets everyone judge, and writes the results.

    Raises:
        CheckpointError: A folder is not that of a finished run.
        ValueError: Prompts and captions do not fit each other, or the judges.
        OSError: A file cannot be read or written.
    """
    panel = arguments.scoring.read()
    subjects = []
    for number, folder in enumerate(arguments.runs, 1):
        say(f"drawing {number}/{len(arguments.runs)} {folder}")
        subjects.append(r_precision.subject(folder, arguments.pictures))
    rows = panel.ask(subjects, arguments.kinds)
    arguments.output.mkdir(parents=True, exist_ok=True)
    numbers = r_precision.to_json(rows, subjects, arguments.pictures)
    write_whole(arguments.output / "precision.json", json.dumps(numbers, indent=2).encode())
    write_whole(arguments.output / "table.md", r_precision.table(rows).encode())
    return rows


def main(argv: list[str] | None = None) -> None:
    """Judges from the command line."""
    with one_line_errors():
        arguments = parsed(lambda: tyro.cli(Arguments, args=argv, description=__doc__))
        _check(arguments)
        print(r_precision.table(judge(arguments)))


if __name__ == "__main__":
    as_program(main)

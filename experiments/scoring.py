"""Who judges R-Precision, as a command line asks for it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from dreamfusion_jax.evaluation import r_precision
from dreamfusion_jax.evaluation.caption_judge import JudgeScorer, load_scorer, shape_of
from dreamfusion_jax.evaluation.clip_score import ClipScorer, load_clip
from dreamfusion_jax.evaluation.judge import SHIPPED
from dreamfusion_jax.evaluation.r_precision import Kind, Row, Subject
from experiments.command_line import UsageError


@dataclasses.dataclass(frozen=True)
class Scoring:
    """Judges and captions.

    Attributes:
        clip: Folders of CLIP checkpoints, each of which judges.
        captions: A text file to choose from, a caption a line, all prompts among them; without
            one, every colour and category that the judge knows; of textureless pictures every
            category, because no colour is to be seen there.
        judge: Folder of the judge of the toy world, which judges where no CLIP is given. One
            that was trained to read compares captions with pictures; one that was not is asked
            for the product of the probabilities of category and colour.
    """

    clip: tuple[Path, ...] = ()
    captions: Path | None = None
    judge: Path = SHIPPED

    def read(self) -> "Panel":
        """Reads judges and captions, before anything is made or drawn for them.

        Raises:
            ValueError: CLIP without captions, or weights that do not fit.
            FileNotFoundError: There is no judge in the folder.
            OSError: A file cannot be read.
        """
        if self.clip and self.captions is None:
            raise UsageError("--clip needs --captions; experiments.r_precision says where some are")
        scorers = [load_clip(folder) for folder in self.clip] or [load_scorer(self.judge)]
        return Panel(tuple(scorers), _listed(self.captions))


@dataclasses.dataclass(frozen=True)
class Panel:
    """Judges and captions, in memory.

    Attributes:
        scorers: The judges.
        captions: What they choose from; empty for all that a judge knows.
    """

    scorers: tuple[ClipScorer | JudgeScorer, ...]
    captions: list[str]

    def ask(self, subjects: Sequence[Subject], kinds: Sequence[Kind]) -> list[Row]:
        """Lets every judge choose among the captions, for every kind of picture.

        Raises:
            ValueError: Prompts and captions do not fit each other, or the judges.
        """
        return [
            _retrieve(subjects, kind, scorer, self.captions)
            for scorer in self.scorers
            for kind in kinds
        ]


def _listed(file: Path | None) -> list[str]:
    if file is None:
        return []
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _retrieve(
    subjects: Sequence[Subject], kind: Kind, scorer: ClipScorer | JudgeScorer, captions: list[str]
) -> Row:
    """Chooses among the captions, or else among all that the judge knows."""
    prompts = [subject.prompt for subject in subjects]
    if captions or isinstance(scorer, ClipScorer):
        return r_precision.retrieve(subjects, kind, scorer, captions)
    if kind == "textureless":
        return r_precision.retrieve(subjects, kind, scorer, scorer.shapes(prompts), shape_of)
    return r_precision.retrieve(subjects, kind, scorer, scorer.captions(prompts))

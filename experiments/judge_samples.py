"""Lets the judge say what a toybox prior draws: category, colour and view of its samples.

    python -m experiments.judge_samples --weights outputs/toybox-prior

Draws captions that the prior was trained on, pairs that were held out and, if the prior knows
them, objects with modifiers, from each of the paper's four views; for a prior that knows such
words as medium shots (today's cameras) and as long shots and close ups (the paper's cameras).
Prints how often the judge names what was asked for.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from dreamfusion_jax.evaluation.judge import SHIPPED, Judge, load_judge, modifiers_named
from dreamfusion_jax.looks.media import contact_sheet, enlarge, save_png
from dreamfusion_jax.priors import toybox
from dreamfusion_jax.priors.sampling import sample_texts
from dreamfusion_jax.scene.views import FRAMINGS, VIEWS
from dreamfusion_jax.toybox.bank import allowed_colours
from dreamfusion_jax.toybox.captions import Description, Vocabulary, caption
from dreamfusion_jax.toybox.world import CATEGORIES, HELD_OUT_MODIFIED, Scene
from experiments.command_line import as_program, one_line_errors, parsed, say_devices

TODAY, PAPER = "today's", "the paper's"
_BATCH = 24


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What to draw and who judges.

    Attributes:
        weights: Folder of the prior.
        judge: Folder of the judge.
        rounds: Pictures of each held-out pair and view, and of as many seen pairs.
        steps: Denoising steps.
        guidance_weight: omega of classifier-free guidance.
        seed: Of the noise and of the seen pairs.
        paper: Whether to draw from the paper's cameras, too.
        output: A PNG file for pictures of each kind of object from each view.
    """

    weights: Path = toybox.SHIPPED
    judge: Path = SHIPPED
    rounds: int = 4
    steps: int = 30
    guidance_weight: float = 3.0
    seed: int = 0
    paper: bool = True
    output: Path | None = None


def pairs_of(vocabulary: Vocabulary, *, held_out: bool) -> list[Scene]:
    """Scenes of all pairs for training, or of all that were held out of it."""
    allowed = allowed_colours(vocabulary, held_out=held_out)
    return [Scene(vocabulary.categories[c], vocabulary.colours[k]) for c, k in np.argwhere(allowed)]


def modified_scenes(vocabulary: Vocabulary, *, held_out: bool) -> list[Scene]:
    """One scene for each category and modifier, in a main colour of the training.

    Args:
        vocabulary: Of a prior.
        held_out: Whether the modifier's colour is the one that was held out.
    """
    scenes = []
    allowed = allowed_colours(vocabulary)
    for number, category in enumerate(vocabulary.categories):
        for at, modifier in enumerate(vocabulary.modifiers):
            accents = [
                colour
                for colour in vocabulary.colours
                if ((category, modifier, colour) in HELD_OUT_MODIFIED) == held_out
            ]
            main = np.flatnonzero(allowed[number])
            if accents:
                colour = vocabulary.colours[main[(number + 3 * at) % len(main)]]
                accent = accents[(number + at) % len(accents)]
                scenes.append(Scene(category, colour, modifier, accent))
    return scenes


def groups_of(vocabulary: Vocabulary, config: Arguments) -> dict[str, list[Scene]]:
    """The scenes to draw under each title."""
    unseen = pairs_of(vocabulary, held_out=True)
    seen = pairs_of(vocabulary, held_out=False)
    order = np.random.default_rng(config.seed).permutation(len(seen) * 9)
    count = len(unseen) * config.rounds
    groups = {
        "seen": [seen[i] for i in order[:count] % len(seen)],
        "held out": unseen * config.rounds,
    }
    for title, held_out in (("modified", False), ("modified, held out", True)):
        if scenes := modified_scenes(vocabulary, held_out=held_out):
            groups[title] = scenes
    return groups


def draw(prior: toybox.ToyboxPrior, params: Any, texts: list[str], config: Arguments) -> np.ndarray:
    """Pictures of texts, a batch at a time."""
    padded = texts + [texts[-1]] * (-len(texts) % _BATCH)
    pictures = []
    for at in range(0, len(padded), _BATCH):
        print(f"drawing {at}/{len(texts)}", flush=True)
        pictures.append(
            sample_texts(
                jax.random.fold_in(jax.random.key(config.seed), at),
                prior,
                params,
                padded[at : at + _BATCH],
                steps=config.steps,
                guidance_weight=config.guidance_weight,
            )
        )
    return np.concatenate(pictures)[: len(texts)]


def accuracy(
    judge: Judge, params: Any, images: np.ndarray, scenes: list[Scene], views: list[int]
) -> dict[str, float]:
    """Shares of pictures on which the judge sees what was asked for.

    Args:
        judge: The classifier.
        params: Its parameters.
        images: [B, H, W, 3].
        scenes: What each should show.
        views: Index into `VIEWS` of each; counts where a thing has a front.

    Returns:
        "category", "colour", "view" and, where there are modifiers and the judge knows them,
        "modifier" (the right one in the right colour); only what could be asked.
    """
    verdict = jax.tree.map(np.asarray, jax.jit(judge)(params, jnp.asarray(images)))
    category, colour, view = (
        x.argmax(axis=-1) for x in (verdict.category, verdict.colour, verdict.view)
    )
    fronts = np.array([CATEGORIES[s.category].has_front for s in scenes])
    names, hues = np.array(judge.config.answers), np.array(judge.config.colours)
    right = {
        "category": names[category] == [s.category for s in scenes],
        "colour": hues[colour] == [s.colour for s in scenes],
        "view": (view == views)[fronts],
    }
    modified = np.array([s.modifier is not None for s in scenes])
    named = modifiers_named(verdict, judge.config)
    if named is not None and modified.any():
        there = named[0] == [s.modifier or "" for s in scenes]
        there &= named[1] == [s.modifier_colour or "" for s in scenes]
        right["modifier"] = there[modified]
    return {name: float(np.mean(hits)) for name, hits in right.items() if hits.size}


def asked_of(
    scenes: Sequence[Scene], vocabulary: Vocabulary, cameras: str
) -> tuple[list[str], list[Scene], list[int]]:
    """Captions, what each should show, and the index of its view, four in a row for each scene."""
    texts, shown, views = [], [], []
    for number, scene in enumerate(scenes):
        framing = None
        if vocabulary.framings:
            # From the paper's cameras things are small or large; today's lie between.
            framing = FRAMINGS[1] if cameras == TODAY else FRAMINGS[2 * (number % 2)]
        for view, name in enumerate(VIEWS):
            said = (scene.category, scene.colour, scene.modifier, scene.modifier_colour)
            texts.append(Description(*said, view=name, framing=framing).text)
            shown.append(scene)
            views.append(view)
    return texts, shown, views


def judge_samples(config: Arguments) -> str:
    """Draws, judges, and returns a table as Markdown.

    Raises:
        FileNotFoundError: There is no prior or no judge in the folder.
    """
    prior, params = toybox.load(config.weights)
    judge, judge_params = load_judge(config.judge)
    lines = [
        "| captions | cameras | pictures | category | colour | view | modifier and its colour |\n",
        "| --- " * 7 + "|\n",
    ]
    wide = config.paper and prior.vocabulary.framings
    for cameras in (TODAY, PAPER) if wide else (TODAY,):
        for title, scenes in groups_of(prior.vocabulary, config).items():
            texts, shown, views = asked_of(scenes, prior.vocabulary, cameras)
            images = draw(prior, params, texts, config)
            found = accuracy(judge, judge_params, images, shown, views)
            names = ("category", "colour", "view", "modifier")
            shares = " | ".join(f"{found[name]:.1%}" if name in found else "" for name in names)
            lines.append(f"| {title} | {cameras} | {len(texts)} | {shares} |\n")
            if config.output:
                _write_sheet(config.output, f"{title} {cameras}", images, scenes)
    return "".join(lines)


def _write_sheet(file: Path, title: str, images: np.ndarray, scenes: list[Scene]) -> None:
    """Writes the pictures of the first scenes, a row each."""
    sheet = images.reshape(len(scenes), len(VIEWS), *images.shape[1:])[:16]
    words = "-".join(title.replace(",", "").replace("'", "").split())
    path = file.with_stem(f"{file.stem}-{words}")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(path, contact_sheet(enlarge(jnp.asarray(sheet)), [*map(caption, scenes[:16])]))


def main(argv: list[str] | None = None) -> None:
    """Judges from the command line."""
    with one_line_errors():
        arguments = parsed(lambda: tyro.cli(Arguments, args=argv, description=__doc__))
        say_devices()
        if min(arguments.rounds, arguments.steps) < 1:
            raise ValueError("--rounds and --steps must be at least 1")
        print(judge_samples(arguments))


if __name__ == "__main__":
    as_program(main)

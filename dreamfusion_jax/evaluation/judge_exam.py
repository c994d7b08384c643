"""What a judge gets right on true pictures that it was not trained on."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from dreamfusion_jax.evaluation.judge import Judge, Params
from dreamfusion_jax.evaluation.judge_data import (
    PICTURES,
    JudgeTraining,
    add_nonsense,
    codes_of,
    vocabulary_of,
)
from dreamfusion_jax.toybox.bank import FACTS, Bank, kinds_of
from dreamfusion_jax.toybox.captions import caption
from dreamfusion_jax.toybox.pictures import PictureConfig, draw_plan, paint
from dreamfusion_jax.toybox.world import CATEGORIES, Scene

Exam = dict[str, float]

GATES = {"category": 0.96, "colour": 0.95, "view": 0.85, "modifier": 0.90, "ranking": 0.90}
"""Shares under today's cameras from which a judge is good enough."""

_BATCH = 100


@functools.partial(jax.jit, static_argnames="judge")
def _look(judge: Judge, params: Params, paints):
    return judge.look(params, paint(paints))


def examine(
    judge: Judge, params: Params, bank: Bank, *, pictures: int = 4000, seed: int = 7
) -> dict[str, Exam]:
    """Shares of right answers on unseen pictures, by the cameras they were taken with.

    Args:
        judge: The judge.
        params: Its parameters.
        bank: Views that it was not trained on.
        pictures: How many to ask about.
        seed: Of the choice of views, colours and backgrounds.

    Returns:
        {"today's cameras", "the paper's cameras"} of {"category", "colour", "view" (where a
        thing has a front)} and, of a judge that knows modifiers, {"modifier" (and its colour,
        where there is one), "none" (no modifier seen where there is none)}; {"something else"}
        of {"category"}.
    """
    rng = np.random.default_rng(seed)
    vocabulary, config = vocabulary_of(judge.config), judge.config
    fronts = np.array([CATEGORIES[name].has_front for name in config.categories])
    hits: dict[str, list] = {name: [] for name in ("category", "colour", "view", "mod", "accent")}
    truths, wide, nonsense = [], [], []
    for _ in range(-(-pictures // _BATCH)):
        plan = draw_plan(rng, bank, vocabulary, _BATCH, PICTURES, held_out=True)
        verdict = jax.tree.map(np.asarray, _look(judge, params, plan.paints)[0])
        truth = codes_of(
            [_bare(description) for description in plan.truths],
            config,
        )
        # No modifier is the first of the answers, and -1 of the truth.
        for name, answers, right in (
            ("category", verdict.category, truth[:, 0]),
            ("colour", verdict.colour, truth[:, 1]),
            ("view", verdict.view, truth[:, 4]),
            ("accent", verdict.modifier_colour, truth[:, 3]),
            ("mod", verdict.modifier, truth[:, 2] + 1),
        ):
            if answers is not None:
                hits[name].append(answers.argmax(axis=-1) == right)
        truths.append(truth)
        wide.append(plan.facts[:, FACTS.index("wide")] > 0.5)
        odd, _ = add_nonsense(rng, plan.paints, np.zeros(_BATCH, bool))
        said = np.asarray(_look(judge, params, odd)[0].category).argmax(axis=-1)
        nonsense.append(said == len(config.categories))
    truth, far = np.concatenate(truths), np.concatenate(wide)
    right = {name: np.concatenate(parts) for name, parts in hits.items() if parts}
    found = {}
    for name, chosen in (("today's cameras", ~far), ("the paper's cameras", far)):
        modified = chosen & (truth[:, 2] >= 0)
        found[name] = {
            "category": _share(right["category"][chosen]),
            "colour": _share(right["colour"][chosen]),
            "view": _share(right["view"][chosen & fronts[truth[:, 0]]]),
        }
        if config.modifiers:
            found[name] |= {
                "modifier": _share((right["mod"] & right["accent"])[modified]),
                "none": _share(right["mod"][chosen & ~modified]),
            }
    found["something else"] = {"category": _share(np.concatenate(nonsense))}
    return found


def rank_captions(
    judge: Judge,
    params: Params,
    bank: Bank,
    *,
    pictures: int = 1000,
    elevation: tuple[float, float] = (25.0, 35.0),
    seed: int = 8,
) -> float:
    """How often the right one of all "a colour category" captions fits a picture best.

    Args:
        judge: The judge.
        params: Its parameters.
        bank: Views that it was not trained on; those of plain objects, from today's cameras
            and between these elevations (degrees), are asked about.
        pictures: How many.
        elevation: Smallest and largest.
        seed: Of the choice of views, colours and backgrounds.

    Returns:
        The share of pictures.
    """
    rng = np.random.default_rng(seed)
    config = judge.config
    scenes = [Scene(c, k) for c in config.categories for k in config.colours]
    ids = jnp.asarray(judge.read([caption(scene) for scene in scenes]))
    plain = PictureConfig(modified=0.0, spoilt=0.0)
    hits: list[np.ndarray] = []
    low, high = np.deg2rad(elevation)
    while sum(map(len, hits)) < pictures:
        plan = draw_plan(rng, bank, vocabulary_of(config), _BATCH, plain, held_out=True)
        facts = dict(zip(FACTS, plan.facts.T, strict=True))
        height = facts["elevation"]
        asked = (height > low) & (height < high) & (facts["wide"] < 0.5)
        asked &= np.array([truth.modifier is None for truth in plan.truths])
        _, vectors = _look(judge, params, plan.paints)
        best = np.asarray(judge.compare(params, vectors, ids)).argmax(axis=-1)
        chosen = [(scenes[i].category, scenes[i].colour) for i in best]
        right = [c == (t.noun, t.colour) for c, t in zip(chosen, plan.truths, strict=True)]
        hits.append(np.array(right)[asked])
    return _share(np.concatenate(hits))


def _bare(description):
    """Without what the judge has no words for."""
    return dataclasses.replace(description, height=None, framing=None, light=None, quality=None)


def _share(hits: np.ndarray) -> float:
    return float(hits.mean()) if hits.size else 1.0


def describe(found: dict[str, Exam]) -> str:
    """An exam as a table in Markdown."""
    names = ("category", "colour", "view", "modifier", "none")
    lines = [
        "| pictures | category | colour | view | modifier and its colour | no modifier |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for title, shares in found.items():
        cells = (f"{shares[name]:.1%}" if name in shares else "" for name in names)
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def passes(found: dict[str, Exam], ranking: float | None) -> bool:
    """Whether a judge is good enough in what it can tell: `GATES`.

    Args:
        found: What `examine` says.
        ranking: What `rank_captions` says, or None of a judge that does not read.
    """
    shares = found["today's cameras"] | ({} if ranking is None else {"ranking": ranking})
    return all(share >= GATES[name] for name, share in shares.items() if name in GATES)


def open_bank(training: JudgeTraining, *, unseen: bool) -> Bank:
    """The views to learn from, or those to test on."""
    folder = training.unseen if unseen else training.bank
    return Bank(folder, kinds_of(vocabulary_of(training.judge)))

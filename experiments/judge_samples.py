"""Lets the judge say what a toybox prior draws: category, colour and view of its samples.

    python -m experiments.judge_samples --weights outputs/toybox-prior

Draws captions that the prior was trained on and pairs that were held out, from each of the
paper's four views, and prints how often the judge names what was asked for.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from dreamfusion_jax.evaluation.judge import SHIPPED, Judge, load_judge
from dreamfusion_jax.looks.media import contact_sheet, enlarge, save_png
from dreamfusion_jax.priors import toybox
from dreamfusion_jax.priors.sampling import sample_texts
from dreamfusion_jax.scene.views import VIEWS
from dreamfusion_jax.toybox.bank import allowed_colours
from dreamfusion_jax.toybox.captions import Vocabulary, caption
from dreamfusion_jax.toybox.world import CATEGORIES, Scene
from experiments.command_line import one_line_errors

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
        output: A PNG file for pictures of each kind of object from each view.
    """

    weights: Path = toybox.SHIPPED
    judge: Path = SHIPPED
    rounds: int = 4
    steps: int = 30
    guidance_weight: float = 3.0
    seed: int = 0
    output: Path | None = None


def pairs_of(vocabulary: Vocabulary, *, held_out: bool) -> list[Scene]:
    """Scenes of all pairs for training, or of all that were held out of it."""
    allowed = allowed_colours(vocabulary, held_out=held_out)
    return [Scene(vocabulary.categories[c], vocabulary.colours[k]) for c, k in np.argwhere(allowed)]


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
    """
    verdict = jax.jit(judge)(params, jnp.asarray(images))
    category, colour, view = (
        np.asarray(jnp.argmax(x, axis=-1)) for x in (verdict.category, verdict.colour, verdict.view)
    )
    fronts = np.array([CATEGORIES[s.category].has_front for s in scenes])
    names, hues = np.array(judge.config.answers), np.array(judge.config.colours)
    right = {
        "category": names[category] == [s.category for s in scenes],
        "colour": hues[colour] == [s.colour for s in scenes],
        "view": (view == views)[fronts],
    }
    return {name: float(np.mean(hits)) for name, hits in right.items()}


def judge_samples(config: Arguments) -> str:
    """Draws, judges, and returns a table as Markdown.

    Raises:
        FileNotFoundError: There is no prior or no judge in the folder.
    """
    prior, params = toybox.load(config.weights)
    judge, judge_params = load_judge(config.judge)
    unseen = pairs_of(prior.vocabulary, held_out=True)
    seen = pairs_of(prior.vocabulary, held_out=False)
    rng = np.random.default_rng(config.seed)
    some = [
        seen[i] for i in rng.permutation(len(seen) * 9)[: len(unseen) * config.rounds] % len(seen)
    ]
    lines = [
        "| captions | pictures | category | colour | view |\n| --- | --- | --- | --- | --- |\n"
    ]
    for title, scenes in (("seen", some), ("held out", unseen * config.rounds)):
        asked = [(scene, view) for scene in scenes for view in range(len(VIEWS))]
        texts = [caption(scene, VIEWS[view]) for scene, view in asked]
        images = draw(prior, params, texts, config)
        found = accuracy(judge, judge_params, images, *map(list, zip(*asked, strict=True)))
        shares = " | ".join(f"{share:.1%}" for share in found.values())
        lines.append(f"| {title} | {len(texts)} | {shares} |\n")
        if config.output:
            sheet = images.reshape(len(scenes), len(VIEWS), *images.shape[1:])[:16]
            path = config.output.with_stem(f"{config.output.stem}-{title.replace(' ', '-')}")
            path.parent.mkdir(parents=True, exist_ok=True)
            save_png(path, contact_sheet(enlarge(sheet), [*map(caption, scenes[:16])]))
    return "".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Judges from the command line."""
    arguments = tyro.cli(Arguments, args=argv, description=__doc__)
    with one_line_errors():
        if min(arguments.rounds, arguments.steps) < 1:
            raise ValueError("--rounds and --steps must be at least 1")
        print(judge_samples(arguments))


if __name__ == "__main__":
    main()

"""CLIP R-Precision (DreamFusion, section 4; 2112.01455): is the caption found from the pictures?

Of all captions of a list, the one that fits a rendering best should be the one that the object
was made from. What judges is CLIP, or the judge of the toy world in its place. Every number comes
with an interval, with what chance gives, and, where the truth is known, with the truth's own.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from dreamfusion_jax.runs.run import load_finished
from dreamfusion_jax.runs.trained_scene import TrainedScene
from dreamfusion_jax.scene.camera import Camera, orbit
from dreamfusion_jax.scene.lighting import LIGHT_GREY, headlight, plain_albedo
from dreamfusion_jax.toybox.captions import UnknownWordsError, Vocabulary
from dreamfusion_jax.toybox.renderer import draw_truth
from dreamfusion_jax.toybox.world import Scene

Kind = Literal["colour", "shaded", "textureless"]
"""Ways of drawing an object: albedo alone; lit; lit and white, so that only the shape tells."""

Pictures = dict[Kind, Float[np.ndarray, "V H W 3"]]
"""Views of an object, in [0, 1]."""

_DRAWS = 10_000
"""Of bootstraps, and of shuffled captions."""
_LEVEL = (2.5, 97.5)
"""Percentiles between which 95 of 100 draws lie."""


@runtime_checkable
class Scorer(Protocol):
    """Says how well captions fit pictures."""

    @property
    def name(self) -> str:
        """For tables."""
        ...

    def __call__(
        self, pictures: Float[np.ndarray, "B H W 3"], captions: Sequence[str]
    ) -> Float[np.ndarray, "B P"]:
        """A number for every pair, larger where they fit better.

        Raises:
            ValueError: A caption that it cannot read.
        """
        ...


@dataclasses.dataclass(frozen=True)
class ViewingConfig:
    """From where objects are looked at (DreamFusion, section 4).

    Attributes:
        azimuths: Number of views, evenly around the object.
        elevation: Of the cameras, degrees.
        distance: Of the cameras from the origin.
        focal: Of the cameras, image widths.
        size: Height and width, pixels.
        backdrop: Grey behind the object.
    """

    azimuths: int = 8
    elevation: float = 30.0
    distance: float = 1.3
    focal: float = 1.1
    size: int = 128
    backdrop: float = LIGHT_GREY

    @property
    def cameras(self) -> Camera:
        """[azimuths] cameras, the first one at the front."""
        return orbit(self.azimuths, math.radians(self.elevation), self.distance, self.focal)


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is judged.

    Attributes:
        prompt: What it was made from.
        seed: Of the run.
        pictures: Of the object.
        truth: Of the true object, where the prompt is one of the toy world.
    """

    prompt: str
    seed: int
    pictures: Pictures
    truth: Pictures | None = None


@dataclasses.dataclass(frozen=True)
class Precision:
    """R-Precision of many objects.

    Attributes:
        value: Share of the views whose best caption is the right one.
        low: Lower end of a 95 % interval, by a bootstrap over prompts.
        high: Upper end.
        shuffled: Mean with captions drawn at random from the list in the right ones' place.
        shuffled_low: 2.5 % of those draws are below.
        shuffled_high: 2.5 % of them are above.
        of_each: Share of the views of each object.
    """

    value: float
    low: float
    high: float
    shuffled: float
    shuffled_low: float
    shuffled_high: float
    of_each: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        scorer: Who judged.
        kind: Of the pictures.
        objects: The result.
        truth: Of the true objects, as far as they are known.
        captions: Number of captions to choose from; chance is its inverse.
    """

    scorer: str
    kind: Kind
    objects: Precision
    truth: Precision | None
    captions: int


def picture(scene: TrainedScene, config: ViewingConfig) -> Pictures:
    """The views of a trained scene."""
    looks = scene.look(config.cameras, size=config.size, backdrop=config.backdrop)
    seen: dict[Kind, Array] = {
        "colour": looks.colour,
        "shaded": looks.shaded,
        "textureless": looks.textureless,
    }
    return {kind: np.asarray(images) for kind, images in seen.items()}


def true_pictures(scene: Scene, config: ViewingConfig) -> Pictures:
    """The same views of the true object."""
    cameras = config.cameras
    lamps = jax.vmap(headlight)(cameras.position)
    plain = plain_albedo(*cameras.focal.shape)
    white = dataclasses.replace(lamps, textureless=jnp.ones_like(lamps.textureless))
    lights = jax.tree.map(lambda *x: jnp.concatenate(x), plain, lamps, white)
    colours, _ = draw_truth(
        scene,
        jax.tree.map(lambda x: jnp.concatenate([x] * 3), cameras),
        lights,
        size=config.size,
        backdrop=config.backdrop,
    )
    colour, shaded, textureless = np.split(colours, 3)
    return {"colour": colour, "shaded": shaded, "textureless": textureless}


def true_scene(prompt: str) -> Scene | None:
    """The object of the toy world that a prompt names; None for all other prompts."""
    try:
        return Vocabulary().scene(prompt)
    except UnknownWordsError:
        return None


def subject(folder: Path, config: ViewingConfig) -> Subject:
    """Draws a finished run, and the truth where it is known.

    Raises:
        CheckpointError: The folder is not that of a finished run.
    """
    settings, trained = load_finished(folder)
    return subject_of(trained, settings.prompt, settings.seed, config)


def subject_of(trained: TrainedScene, prompt: str, seed: int, config: ViewingConfig) -> Subject:
    """Draws a scene, and the truth where it is known."""
    scene = true_scene(prompt)
    truth = true_pictures(scene, config) if scene else None
    return Subject(prompt, seed, picture(trained, config), truth)


def normal_form(caption: str) -> str:
    """A caption as Dream Fields writes it: lower case, one full stop at the end."""
    return " ".join(caption.lower().split()).strip(" .,") + "."


def places(prompts: Sequence[str], captions: Sequence[str]) -> Int[np.ndarray, "S"]:
    """Where the prompts are in a list of captions.

    Raises:
        ValueError: The list is too short, has a caption twice, or lacks a prompt.
    """
    known = {normal_form(caption): place for place, caption in enumerate(captions)}
    if len(captions) < 2 or len(known) < len(captions):
        raise ValueError(
            f"there must be at least two captions, and none twice; {len(captions)} were given, "
            f"{len(known)} of them different"
        )
    for prompt in prompts:
        if normal_form(prompt) not in known:
            raise ValueError(f"the prompt {prompt!r} is not among the {len(captions)} captions")
    return np.array([known[normal_form(prompt)] for prompt in prompts], np.int64)


def hits(
    scores: Float[np.ndarray, "S V P"], right: Int[np.ndarray, "S"]
) -> Float[np.ndarray, "S V"]:
    """1 where the right caption of an object fits a view best; 1/n where n fit equally well."""
    best = scores == scores.max(axis=-1, keepdims=True)
    found = np.take_along_axis(best, right[:, None, None], axis=-1)[..., 0]
    return found / best.sum(axis=-1)


def precision(
    scores: Float[np.ndarray, "S V P"], right: Int[np.ndarray, "S"], seed: int = 0
) -> Precision:
    """R-Precision with its uncertainty, and what captions drawn at random give.

    Seeds of one prompt succeed and fail together, so the bootstrap draws prompts.

    Args:
        scores: Of the views of each object with each caption.
        right: The place of each object's caption.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    each = hits(scores, right).mean(axis=1)
    prompts, group = np.unique(right, return_inverse=True)
    sums, counts = np.bincount(group, weights=each), np.bincount(group)
    drawn = rng.integers(len(prompts), size=(_DRAWS, len(prompts)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    # Of each caption the share of an object's views that it would be right for.
    best = scores == scores.max(axis=-1, keepdims=True)
    shares = (best / best.sum(axis=-1, keepdims=True)).mean(axis=1)
    chosen = rng.integers(scores.shape[-1], size=(_DRAWS, len(prompts)))[:, group]
    shuffled = shares[np.arange(len(right)), chosen].mean(axis=1)
    low, high = np.percentile(means, _LEVEL)
    shuffled_low, shuffled_high = np.percentile(shuffled, _LEVEL)
    return Precision(
        value=float(each.mean()),
        low=float(low),
        high=float(high),
        shuffled=float(shuffled.mean()),
        shuffled_low=float(shuffled_low),
        shuffled_high=float(shuffled_high),
        of_each=tuple(float(x) for x in each),
    )


def retrieve(
    subjects: Sequence[Subject],
    kind: Kind,
    scorer: Scorer,
    captions: Sequence[str],
    said: Callable[[str], str] = str,
) -> Row:
    """Looks for the captions of objects, and of the true objects, from their pictures.

    Args:
        subjects: The objects.
        kind: Which of their pictures to show.
        scorer: Who judges.
        captions: To choose from.
        said: From a prompt to its caption; the prompt itself if not given.

    Raises:
        ValueError: A prompt is not among the captions, or the scorer cannot read one of them.
    """

    def judged(prompts: list[str], pictures: list[Pictures]) -> Precision:
        right = places([said(prompt) for prompt in prompts], captions)
        seen = np.stack([views[kind] for views in pictures])
        scores = scorer(seen.reshape(-1, *seen.shape[2:]), captions)
        return precision(np.reshape(scores, (*seen.shape[:2], -1)), right)

    true = {s.prompt: s.truth for s in subjects if s.truth is not None}
    return Row(
        scorer.name,
        kind,
        judged([s.prompt for s in subjects], [s.pictures for s in subjects]),
        judged(list(true), list(true.values())) if true else None,
        len(captions),
    )


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown, in percent."""
    lines = [
        "| judge | pictures | R-Precision | 95 % interval | truth | shuffled captions | chance |",
        "| --- " * 7 + "|",
    ]
    for row in rows:
        found, chance = row.objects, 100 / row.captions
        cells = [
            row.scorer,
            row.kind,
            f"{found.value:.1%}",
            f"{found.low:.1%} to {found.high:.1%}",
            f"{row.truth.value:.1%}" if row.truth else "-",
            f"{found.shuffled:.1%} ({found.shuffled_low:.1%} to {found.shuffled_high:.1%})",
            f"{chance:.2g}% of {row.captions}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def to_json(
    rows: Sequence[Row], subjects: Sequence[Subject], config: ViewingConfig
) -> dict[str, Any]:
    """Everything that the table is made of, and the share of each object."""
    return {
        "pictures": dataclasses.asdict(config),
        "objects": [{"prompt": s.prompt, "seed": s.seed} for s in subjects],
        "rows": [dataclasses.asdict(row) for row in rows],
    }

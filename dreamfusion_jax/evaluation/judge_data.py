"""What the judge is trained on: true pictures, spoilt a little, and captions right and wrong."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dreamfusion_jax import draws
from dreamfusion_jax.evaluation.judge import JudgeConfig
from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.scene.views import VIEWS
from dreamfusion_jax.toybox.bank import Bank
from dreamfusion_jax.toybox.captions import Description, Vocabulary
from dreamfusion_jax.toybox.pictures import Numbers, Paints, PictureConfig, draw_plan
from dreamfusion_jax.toybox.tokenizer import build_tokenizer
from dreamfusion_jax.toybox.world import CATEGORIES, MODIFIERS

PICTURES = PictureConfig(modified=0.5, spoilt=0.0)
"""Every colour, over grey and coloured backgrounds; `augment` spoils the pictures."""

EXTRA_CAPTIONS = 100
"""Captions of random colours and categories in every step, most of them wrong."""


@dataclasses.dataclass(frozen=True)
class JudgeTraining:
    """A training of the judge; the defaults are the judge that is shipped.

    Attributes:
        output: Folder of the judge; training goes on from what is found there.
        bank: Traced views to learn from.
        unseen: Traced views to test on, drawn with another seed.
        steps: Length of the training.
        batch_size: Pictures per step.
        learning_rate: At its highest.
        seed: Of everything random; not one of the prior's.
        nonsense: Share of pictures that show something else.
        report_every: Steps between reports and saved states.
        judge: What it tells apart, and its size.
    """

    output: Path = Path("outputs/toybox-judge")
    bank: Path = Path("outputs/bank")
    unseen: Path = Path("outputs/bank-unseen")
    steps: int = 8000
    batch_size: int = 96
    learning_rate: float = 1e-3
    seed: int = 20_000
    nonsense: float = 0.08
    report_every: int = 200
    judge: JudgeConfig = JudgeConfig(
        modifiers=MODIFIERS,
        image_size=64,
        block=2,
        channels=(32, 64, 112, 160),
        meeting=96,
        words=len(build_tokenizer()),
    )


@pytree
class Labels:
    """What is on pictures [B], and which of captions [P] are true of them.

    Attributes:
        category: Index into `JudgeConfig.answers`.
        colour: Index into its colours.
        view: Index into `VIEWS`.
        modifier: 0 for none, else 1 + index into its modifiers.
        modifier_colour: Index into its colours; 0 without a modifier.
        real: Whether there is an object.
        has_front: Whether the view can be told.
        captions: Token ids [P, N].
        true: [B, P], whether all that a caption says is so.
    """

    category: Numbers
    colour: Numbers
    view: Numbers
    modifier: Numbers
    modifier_colour: Numbers
    real: Numbers
    has_front: Numbers
    captions: Numbers
    true: Numbers


def vocabulary_of(config: JudgeConfig) -> Vocabulary:
    """What a judge tells apart."""
    return Vocabulary(config.categories, config.colours, config.modifiers)


def codes_of(descriptions: list[Description], config: JudgeConfig) -> np.ndarray:
    """[B, 5] of category, colour, modifier, its colour and view as numbers; -1 for unsaid."""
    names = (
        config.categories,
        config.colours,
        config.modifiers,
        config.colours,
        VIEWS,
    )
    rows = [
        [
            -1 if word is None else known.index(word)
            for word, known in zip(
                (d.noun, d.colour, d.modifier, d.modifier_colour, d.view), names, strict=True
            )
        ]
        for d in descriptions
    ]
    return np.array(rows, np.int32)


def true_of(said: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """[B, P] of bool: whether all that captions [P, 5] say is so of pictures [B, 5]."""
    return np.all((said[None] == -1) | (said[None] == truth[:, None]), axis=-1)


def draw(
    rng: np.random.Generator, bank: Bank, training: JudgeTraining, ids_of
) -> tuple[Paints, Labels]:
    """A batch of pictures and captions; some pictures show something else.

    Args:
        rng: Of all randomness.
        bank: Traced views.
        training: Its settings.
        ids_of: Function from captions to token ids.
    """
    config, count = training.judge, training.batch_size
    vocabulary = vocabulary_of(config)
    plan = draw_plan(rng, bank, vocabulary, count, PICTURES, held_out=True)
    # Names of heights, framings and lights are none of the judge's words.
    truths = [dataclasses.replace(t, height=None, framing=None, light=None) for t in plan.truths]
    paints, real = add_nonsense(rng, plan.paints, rng.random(count) >= training.nonsense)
    truth = codes_of(truths, config)
    captions = [_shortened(rng, d) for d in truths] + [_changed(rng, d, config) for d in truths]
    captions += [
        Description(str(rng.choice(config.categories)), str(rng.choice(config.colours)))
        for _ in range(EXTRA_CAPTIONS)
    ]
    true = true_of(codes_of(captions, config), truth) & real[:, None]
    fronts = np.array([CATEGORIES[name].has_front for name in config.categories])
    labels = Labels(
        category=np.where(real, truth[:, 0], len(config.categories)),
        colour=truth[:, 1],
        view=truth[:, 4],
        modifier=truth[:, 2] + 1,
        modifier_colour=np.maximum(truth[:, 3], 0),
        real=real,
        has_front=fronts[truth[:, 0]] & real,
        captions=ids_of([caption.text for caption in captions]),
        true=true,
    )
    return paints, labels


def _shortened(rng: np.random.Generator, truth: Description) -> Description:
    """A true caption that leaves out the view half of the time, and a modifier now and then."""
    view, modifier = rng.random(2)
    said = dataclasses.replace(truth, view=truth.view if view < 0.5 else None)
    if modifier < 0.3:
        said = dataclasses.replace(said, modifier=None, modifier_colour=None)
    return said


def _changed(rng: np.random.Generator, truth: Description, config: JudgeConfig) -> Description:
    """The same caption with one word that is another (by chance, now and then, the same)."""
    said = _shortened(rng, truth)
    choices = {"noun": config.categories, "colour": config.colours}
    if said.view is not None:
        choices["view"] = VIEWS
    if said.modifier is not None:
        choices |= {"modifier": config.modifiers, "modifier_colour": config.colours}
    name = str(rng.choice(list(choices)))
    return dataclasses.replace(said, **{name: str(rng.choice(choices[name]))})


def add_nonsense(
    rng: np.random.Generator, paints: Paints, real: np.ndarray
) -> tuple[Paints, np.ndarray]:
    """Makes the pictures that are not `real` [B] show something else.

    A third each: nothing, the squares of the picture in another order, an egg.

    Returns:
        The pictures, and `real` as it was.
    """
    layers = np.array(paints.layers)
    for at in np.flatnonzero(~real):
        kind = rng.integers(3)
        if kind == 0:
            layers[at] = 0
        elif kind == 1:
            layers[at] = _shuffled(rng, layers[at])
        else:
            layers[at] = _egg(rng, layers.shape[1])
    return dataclasses.replace(paints, layers=layers), real


def _shuffled(rng: np.random.Generator, layers: np.ndarray, cuts: int = 4) -> np.ndarray:
    size = layers.shape[0] // cuts
    squares = (
        layers.reshape(cuts, size, cuts, size, -1).swapaxes(1, 2).reshape(cuts**2, size, size, -1)
    )
    squares = rng.permutation(squares).reshape(cuts, cuts, size, size, -1)
    return squares.swapaxes(1, 2).reshape(layers.shape)


def _egg(rng: np.random.Generator, size: int) -> np.ndarray:
    """A shaded ellipsoid of the main colour."""
    x, y = np.meshgrid(*2 * (np.linspace(-1, 1, size),))
    angle, (a, b) = rng.uniform(0, np.pi), rng.uniform(0.25, 0.8, 2)
    u = (np.cos(angle) * x + np.sin(angle) * y) / a
    v = (np.cos(angle) * y - np.sin(angle) * x) / b
    inside = u**2 + v**2 < 1
    light = 1 - rng.uniform(0, 0.6) * np.clip(u**2 + v**2, 0, 1)
    layers = np.zeros((size, size, 6))
    layers[..., 0], layers[..., 5] = inside * light, inside
    return np.round(255 * layers).astype(np.uint8)


def augment(key: jax.Array, images: jax.Array) -> jax.Array:
    """Blurs, tints and shifts pictures [B, H, W, 3] a little, and adds noise."""
    keys = jax.random.split(key, 5)
    count = images.shape[0]
    for blur_key in jax.random.split(keys[0], 2):
        # Each pass mixes a picture with its binomial blur, by an amount of its own.
        amount = jax.random.uniform(blur_key, (count, 1, 1, 1))
        padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
        tall = (padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]) / 4
        soft = (tall[:, :, :-2] + 2 * tall[:, :, 1:-1] + tall[:, :, 2:]) / 4
        images = (1 - amount) * images + amount * soft
    gain = jax.random.uniform(keys[1], (count, 1, 1, 3), minval=0.9, maxval=1.1)
    offset = jax.random.uniform(keys[2], (count, 1, 1, 3), minval=-0.05, maxval=0.05)
    strength = jax.random.uniform(keys[3], (count, 1, 1, 1), maxval=0.06)
    noise = draws.normal(keys[4], images.shape)
    return jnp.clip(gain * images + offset + strength * noise, 0.0, 1.0)

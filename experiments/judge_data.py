"""What the judge is trained on: traced views, coloured and spoilt a little at every draw."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dreamfusion_jax.evaluation.judge import JudgeConfig
from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.scene.camera import CameraConfig
from dreamfusion_jax.scene.lighting import LightingConfig, sample_backdrop
from dreamfusion_jax.toybox.bank import Bank, BankConfig, palette_of
from dreamfusion_jax.toybox.captions import Vocabulary
from dreamfusion_jax.toybox.renderer import Layers, colourise
from dreamfusion_jax.toybox.training.data import SMALL, Optimization, Settings, load_bank
from dreamfusion_jax.toybox.world import CATEGORIES

_CAMERAS = CameraConfig(
    elevation=(-10.0, 80.0),
    distance=(1.15, 1.5),
    position_jitter=0.05,
    look_at_std=0.04,
    gaussians="std",
    focal=(1.0, 1.25),
)
_LIGHTING = LightingConfig(
    albedo_until=0.0,
    textureless_probability=0.0,
    diffuse_probability=0.5,
    ambient=0.35,
    diffuse=0.65,
)


@dataclasses.dataclass(frozen=True)
class Arguments:
    """A training of the judge; the defaults are the judge that is shipped.

    Attributes:
        output: Folder of the judge; training goes on from what is found there.
        steps: Length of the training.
        batch_size: Pictures per step.
        learning_rate: At its highest.
        seed: Of everything random; not one of the prior's.
        views: Traced views of each category, without and with each modifier.
        unseen: How many of them are kept from training, to test on.
        other_views: Traced views of each of the world's other categories ("something else");
            the same share of them is kept, and as many empty pictures are added as there
            are views of one category.
        report_every: Steps between reports and saved states.
        modifiers: Whether objects with pedestals and hats are drawn as well.
        judge: What it tells apart, and its size.
    """

    output: Path = Path("outputs/toybox-judge")
    steps: int = 4000
    batch_size: int = 96
    learning_rate: float = 1e-3
    seed: int = 20_000
    views: int = 3500
    unseen: int = 100
    other_views: int = 500
    report_every: int = 100
    modifiers: bool = False
    judge: JudgeConfig = JudgeConfig(
        categories=SMALL.vocabulary.categories, channels=(24, 48, 96, 160)
    )


@pytree
class Labels:
    """What is on pictures [B]; `has_front` says whether the view can be told."""

    category: jax.Array
    colour: jax.Array
    view: jax.Array
    has_front: jax.Array


def settings_of(arguments: Arguments) -> Settings:
    """What is drawn, in the words of the prior's trainer."""
    rate = arguments.learning_rate
    return Settings(
        output=arguments.output,
        optimization=Optimization(
            steps=arguments.steps, learning_rate=rate, warm_up=100, seed=arguments.seed
        ),
        vocabulary=Vocabulary(
            arguments.judge.categories,
            arguments.judge.colours,
            Vocabulary().modifiers if arguments.modifiers else (),
        ),
        pictures=BankConfig(arguments.judge.image_size, arguments.views, _CAMERAS, _LIGHTING),
    )


def load_views(arguments: Arguments, report: Callable[[int, int], None]) -> tuple[Bank, np.ndarray]:
    """All traced views, those of other categories and the empty ones behind the judge's own.

    Args:
        arguments: Of the training.
        report: Called with (done, total) after each kind of object that is drawn.

    Returns:
        The views, and [M] of bool: those that are kept from training.
    """
    settings = settings_of(arguments)
    own = load_bank(settings, report)
    empty = jax.tree.map(lambda x: jnp.zeros_like(x[: arguments.views]), own)
    banks, kept = [own, _nameless(empty, settings)], [_kept(own, arguments.views, arguments)]
    kept.append(np.zeros(arguments.views, bool))
    others = tuple(name for name in CATEGORIES if name not in settings.vocabulary.categories)
    if others:
        other_settings = dataclasses.replace(
            settings,
            output=settings.output / "others",
            vocabulary=dataclasses.replace(settings.vocabulary, categories=others),
            pictures=dataclasses.replace(settings.pictures, views=arguments.other_views),
        )
        other_settings.output.mkdir(exist_ok=True)
        banks.append(_nameless(load_bank(other_settings, report), settings))
        kept.append(_kept(banks[-1], arguments.other_views, arguments))
    together = jax.tree.map(lambda *parts: jnp.concatenate(parts), *banks)
    return together, np.concatenate(kept)


def _nameless(bank: Bank, settings: Settings) -> Bank:
    """The same views as "something else"."""
    last = len(settings.vocabulary.categories)
    return dataclasses.replace(bank, category=jnp.full_like(bank.category, last))


def _kept(bank: Bank, views: int, arguments: Arguments) -> np.ndarray:
    """The first of every `views` rows, as many as the share that is kept from training."""
    rows = np.arange(bank.category.shape[0])
    return rows % views < arguments.unseen * views / arguments.views


def draw(
    key: jax.Array, bank: Bank, rows: jax.Array, config: JudgeConfig
) -> tuple[jax.Array, Labels]:
    """Pictures of rows [B] of the bank in random colours over random plain backdrops."""
    colour_key, accent_key, backdrop_key = jax.random.split(key, 3)
    palette = jnp.asarray(palette_of(Vocabulary(config.categories, config.colours)))
    count = (rows.shape[0],)
    colour = jax.random.randint(colour_key, count, 0, len(config.colours))
    accent = jax.random.randint(accent_key, count, 0, len(config.colours))
    coded = bank.layers[rows].astype(jnp.float32) / 255
    layers = Layers(coefficients=coded[..., :5], alpha=coded[..., 5])
    backdrop = sample_backdrop(backdrop_key, count)
    images = colourise(layers, palette[colour], palette[accent], backdrop)
    fronts = jnp.asarray([*(CATEGORIES[name].has_front for name in config.categories), False])
    category = bank.category[rows]
    return images, Labels(category, colour, bank.view[rows], fronts[category])


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
    noise = jax.random.normal(keys[4], images.shape)
    return jnp.clip(gain * images + offset + strength * noise, 0.0, 1.0)

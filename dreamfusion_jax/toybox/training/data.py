"""What all trainers of the embedded prior share: settings, batches, schedules, captions to show."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ScalarLike
from transformers import CLIPTokenizer

from dreamfusion_jax.maths import to_symmetric
from dreamfusion_jax.toybox import architecture
from dreamfusion_jax.toybox.bank import Bank, Rows, allowed_colours, kinds_of
from dreamfusion_jax.toybox.captions import WHOLE_WORLD, Vocabulary, caption
from dreamfusion_jax.toybox.pictures import Paints, PictureConfig, draw_plan, paint
from dreamfusion_jax.toybox.tokenizer import WordIds
from dreamfusion_jax.toybox.world import HELD_OUT_MODIFIED, Scene

TIME_POWER = 2 / 3
"""t ~ U^(2/3) leans towards high noise, where the shape of the object is decided."""

MAX_WEIGHT = 10.0
"""The loss of the clean image is weighted by min(1 / sigma_t^2, MAX_WEIGHT)."""

WEIGHT_DECAY = 0.01
CLIP_NORM = 1.0

MOMENTUM = 0.95
"""Of Muon, which finds the matrices and convolutions but for `ENDS`."""

ENDS = ("conv_in", "conv_out")
"""The first and the last convolution."""

MUON_RMS = 0.2
"""Root mean square of Muon's updates over the rate: that of AdamW's, whose rates it can take."""

BETAS = (0.9, 0.99)
"""Of AdamW, which finds the other weights."""


@dataclasses.dataclass(frozen=True)
class Optimization:
    """How the weights are found.

    Attributes:
        steps: Number of the last step.
        batch_size: Pictures per step.
        learning_rate: At its highest.
        warm_up: Steps of linear rise, from the first step or from a new start.
        decay: Length of the cosine that takes the rate to zero at the last step; before it
            the rate is constant. None decays all the way; 0 never, for a training whose
            length is not known yet.
        ema: Decay of the running mean of the weights, which is what is kept.
        seed: Of everything random.
    """

    steps: int = 12_000
    batch_size: int = 64
    learning_rate: float = 5e-4
    warm_up: int = 300
    decay: int | None = None
    ema: float = 0.999
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Settings:
    """A training of the embedded prior.

    Attributes:
        output: Folder of the prior; training goes on from what is found there.
        bank: Folder of the traced views, of `experiments.draw_bank`; the folder `bank` of the
            output if None.
        start: Folder of a prior whose weights to begin with, as far as they fit.
        save_every: Steps between saved states.
        optimization: How the weights are found.
        vocabulary: What the prior learns to draw and to read.
        model: Sizes of the networks.
        pictures: What is drawn of the views, and what is said of it.
    """

    output: Path = Path("outputs/toybox-prior")
    bank: Path | None = None
    start: Path | None = None
    save_every: int = 500
    optimization: Optimization = Optimization()
    vocabulary: Vocabulary = WHOLE_WORLD
    model: architecture.MiniatureConfig = architecture.MiniatureConfig()
    pictures: PictureConfig = PictureConfig()

    @property
    def bank_folder(self) -> Path:
        """Where the traced views are."""
        return self.bank or self.output / "bank"


SMALL = Settings(
    vocabulary=Vocabulary(
        categories=(
            *("car", "duck", "rocket", "snowman", "penguin", "mushroom"),
            *("cactus", "house", "chair", "lamp", "teapot", "ice cream"),
        ),
        colours=("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown"),
        modifiers=(),
    ),
    pictures=PictureConfig(coloured=0.0),
)
"""Twelve kinds of toy at 32 x 32 pixels: a few hours on a CPU."""

BY_FOUR = architecture.MiniatureConfig(image_size=64, block=4)
"""64 x 64 pixels in squares of 4: a UNet as large as that of 32 x 32 in squares of 2."""

BY_TWO = architecture.MiniatureConfig(
    image_size=64,
    block=2,
    channels=(32, 64, 128, 160, 160),
    attention=(False, False, False, True, False),
    time_width=256,
)
"""64 x 64 pixels in squares of 2, with a thin first level."""

WHOLE = Settings(
    output=Path("outputs/toybox-prior-whole"),
    optimization=Optimization(steps=62_500, decay=10_000),
    model=BY_FOUR,
)
"""The whole world at 64 x 64 pixels: 4 million pictures."""


class Batches:
    """Draws the batches of a training: z_0 [B, h, w, C] in [-1, 1], and token ids [B, N].

    The batch of a step follows from seed and step, and from what is in the bank.

    Args:
        settings: Of the training.
        tokenizer: Of `build_tokenizer`.
        by_number: Whether the paints hold the views' numbers in place of their layers.

    Raises:
        FileNotFoundError: The bank holds no views that fit.
        ValueError: They are not of the prior's size.
    """

    def __init__(
        self, settings: Settings, tokenizer: CLIPTokenizer, *, by_number: bool = False
    ) -> None:
        self.settings, self.ids, self.by_number = settings, WordIds(tokenizer), by_number
        self.reopen()

    def reopen(self) -> None:
        """Looks at the bank again, which may have grown."""
        folder, size = self.settings.bank_folder, self.settings.model.image_size
        self.bank = Bank(folder, kinds_of(self.settings.vocabulary))
        if self.bank.size != size:
            raise ValueError(
                f"{folder} holds views of {self.bank.size} pixels; the prior draws {size}"
            )
        self._drawn_from = Rows(self.bank) if self.by_number else self.bank

    def plan(self, step: int) -> tuple[Paints, np.ndarray]:
        """What `to_latents` needs, and the token ids."""
        settings = self.settings
        rng = np.random.default_rng((settings.optimization.seed, step))
        count = settings.optimization.batch_size
        plan = draw_plan(rng, self._drawn_from, settings.vocabulary, count, settings.pictures)
        return plan.paints, self.ids(plan.captions)


def to_latents(paints: Paints, block: int) -> jax.Array:
    """Painted pictures as z_0 [B, h, w, 3 block^2] in [-1, 1]; for use inside jit."""
    return architecture.space_to_depth(to_symmetric(paint(paints)), block)


def learning_rate(
    config: Optimization,
    step: ScalarLike,
    begin: ScalarLike = 0,
    last: ScalarLike | None = None,
) -> jax.Array:
    """Linear warm-up from step `begin`; constant; then a cosine to zero at step `last`.

    The last step is that of the configuration if None; a training whose end is a time of the
    clock learns its number on the way.
    """
    last = jnp.asarray(config.steps if last is None else last)
    rise = jnp.minimum((jnp.asarray(step) - begin + 1) / max(config.warm_up, 1), 1.0)
    if config.decay == 0:
        return config.learning_rate * rise
    length = last if config.decay is None else config.decay
    gone = jnp.clip((jnp.asarray(step) - (last - length)) / length, 0.0, 1.0)
    return config.learning_rate * rise * 0.5 * (1 + jnp.cos(jnp.pi * gone))


def ema_decay(config: Optimization, step: ScalarLike, begin: ScalarLike = 0) -> jax.Array:
    """Decay of the mean of the weights; short at first, so that it forgets where it began."""
    done = jnp.asarray(step) - begin
    return jnp.minimum(config.ema, (done + 1) / (done + 10))


def grid_captions(
    vocabulary: Vocabulary, seen: int = 8, unseen: int = 4, modified: int = 4
) -> dict[str, str]:
    """Captions for a grid of samples, and their labels.

    Pairs of training, then held-out pairs, then objects with modifiers, every other one of
    them with a held-out triple.
    """
    captions = {}
    for held_out, rows in ((False, seen), (True, unseen)):
        pairs = allowed_colours(vocabulary, held_out=held_out)
        possible = np.flatnonzero(pairs.any(axis=1))
        for row, c in enumerate(possible[:: max(len(possible) // rows, 1)][:rows]):
            colours = np.flatnonzero(pairs[c])
            colour = vocabulary.colours[colours[row % len(colours)]]
            text = caption(Scene(vocabulary.categories[c], colour))
            captions[text] = f"{text} (held out)" if held_out else text
    for row in range(modified if vocabulary.modifiers else 0):
        category = vocabulary.categories[(3 * row + 1) % len(vocabulary.categories)]
        modifier = vocabulary.modifiers[row // 2 % len(vocabulary.modifiers)]
        held_out = row % 2 == 1
        accents = [
            colour
            for colour in vocabulary.colours
            if ((category, modifier, colour) in HELD_OUT_MODIFIED) == held_out
        ]
        main = np.flatnonzero(allowed_colours(vocabulary)[vocabulary.categories.index(category)])
        if accents:
            colour = vocabulary.colours[main[row % len(main)]]
            text = caption(Scene(category, colour, modifier, accents[row % len(accents)]))
            captions[text] = f"{text} (held out)" if held_out else text
    return captions

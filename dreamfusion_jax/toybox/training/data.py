"""What both trainers of the embedded prior share: settings, pictures, schedules, files."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from transformers import CLIPTokenizer

from dreamfusion_jax.maths import to_symmetric
from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.scene.camera import CameraConfig
from dreamfusion_jax.scene.lighting import LightingConfig
from dreamfusion_jax.toybox import architecture, bank
from dreamfusion_jax.toybox.captions import Vocabulary, caption, caption_table
from dreamfusion_jax.toybox.world import Scene

TIME_POWER = 2 / 3
"""t ~ U^(2/3) leans towards high noise, where the shape of the object is decided."""

MAX_WEIGHT = 10.0
"""The loss of the clean image is weighted by min(1 / sigma_t^2, MAX_WEIGHT)."""

WEIGHT_DECAY = 0.01
BETAS = (0.9, 0.99)
CLIP_NORM = 1.0


@dataclasses.dataclass(frozen=True)
class Optimization:
    """How the weights are found.

    Attributes:
        steps: Length of the training.
        batch_size: Pictures per step.
        learning_rate: At its highest.
        warm_up: Steps of linear rise; a cosine takes the rate to zero at the last step.
        ema: Decay of the running mean of the weights, which is what is kept.
        seed: Of everything random.
    """

    steps: int = 12_000
    batch_size: int = 64
    learning_rate: float = 5e-4
    warm_up: int = 300
    ema: float = 0.999
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class Settings:
    """A training of the embedded prior; the defaults are the prior that is shipped.

    Attributes:
        output: Folder of the prior; training goes on from what is found there.
        save_every: Steps between saved states.
        optimization: How the weights are found.
        vocabulary: What the prior learns to draw.
        model: Sizes of the networks.
        pictures: What the training pictures show.
    """

    output: Path = Path("outputs/toybox-prior")
    save_every: int = 500
    optimization: Annotated[Optimization, tyro.conf.arg(name="")] = Optimization()
    vocabulary: Vocabulary = Vocabulary(
        categories=(
            *("car", "duck", "rocket", "snowman", "penguin", "mushroom"),
            *("cactus", "house", "chair", "lamp", "teapot", "ice cream"),
        ),
        colours=("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown"),
        modifiers=(),
    )
    model: architecture.MiniatureConfig = architecture.MiniatureConfig()
    pictures: bank.BankConfig = bank.BankConfig(size=32, views=3500)


SMALL = Settings()
"""The prior that is shipped: a few hours on a CPU."""

FULL = Settings(
    output=Path("outputs/toybox-prior-full"),
    save_every=2000,
    optimization=Optimization(steps=60_000, batch_size=512, warm_up=1000, ema=0.9995),
    vocabulary=Vocabulary(),
    model=architecture.MiniatureConfig(
        image_size=64,
        channels=(64, 96, 128, 144, 144),
        attention=(False, False, True, True, False),
    ),
    pictures=bank.BankConfig(
        size=64,
        views=4000,
        cameras=CameraConfig(gaussians="std"),
        lighting=LightingConfig(albedo_until=0.0, textureless_probability=0.0),
    ),
)
"""The whole world under the paper's cameras and lights: for a GPU with 40 GB or more."""


@pytree
class Pictures:
    """All that a batch is drawn from, on the device.

    Attributes:
        bank: Traced views.
        ids: Token ids of every caption; see `CaptionTable`.
        empty: Token ids of the empty caption.
        allowed: [categories, colours], true for the pairs that may be shown.
        palette: [colours, 3] RGB.
    """

    bank: bank.Bank
    ids: jax.Array
    empty: jax.Array
    allowed: jax.Array
    palette: jax.Array


def load_bank(settings: Settings, report: Callable[[int, int], None]) -> bank.Bank:
    """Reads the traced views beside the output, or draws and keeps them.

    Args:
        settings: What to draw.
        report: Called with (done, total) after each kind of object that is drawn.

    Raises:
        ValueError: The views that are there were drawn for other settings.
    """
    path = settings.output / "bank.npz"
    names = [f.name for f in dataclasses.fields(bank.Bank)]
    if not path.exists():
        # Large chunks fill a GPU; on a CPU small ones stay in its caches.
        chunk = 16 if jax.default_backend() == "cpu" else 256
        key = jax.random.key(settings.optimization.seed + 1)
        drawn = bank.draw_bank(
            key, settings.vocabulary, settings.pictures, chunk=chunk, report=report
        )
        part = path.with_suffix(".part.npz")
        arrays: dict[str, Any] = {name: np.asarray(getattr(drawn, name)) for name in names}
        np.savez(part, **arrays)
        part.replace(path)
        return drawn
    with np.load(path) as stored:
        views = bank.Bank(**{name: jnp.asarray(stored[name]) for name in names})
    vocabulary, pictures = settings.vocabulary, settings.pictures
    kinds = len(vocabulary.categories) * (1 + len(vocabulary.modifiers))
    expected = (kinds * pictures.views, pictures.size, pictures.size, 6)
    if views.layers.shape != expected:
        raise ValueError(
            f"{path} holds views {views.layers.shape}, not {expected}: it was drawn for other "
            "settings; delete it or choose another --output"
        )
    return views


def load_pictures(
    settings: Settings, tokenizer: CLIPTokenizer, report: Callable[[int, int], None]
) -> Pictures:
    """The traced views, and the tables that colour and caption them.

    Raises:
        ValueError: The views that are there were drawn for other settings.
    """
    vocabulary = settings.vocabulary
    table = caption_table(vocabulary, lambda texts: architecture.tokenize(tokenizer, texts))
    ids, empty = bank.table_arrays(table)
    return Pictures(
        load_bank(settings, report),
        ids,
        empty,
        jnp.asarray(bank.allowed_colours(vocabulary)),
        jnp.asarray(bank.palette_of(vocabulary)),
    )


def draw_batch(key: jax.Array, pictures: Pictures, batch_size: int) -> tuple[jax.Array, jax.Array]:
    """Random z_0 [B, h, w, 12] in [-1, 1] and the token ids [B, N] of their captions."""
    images, ids = bank.sample_batch(
        key,
        pictures.bank,
        pictures.ids,
        pictures.empty,
        pictures.allowed,
        pictures.palette,
        batch_size=batch_size,
    )
    return architecture.space_to_depth(to_symmetric(images)), ids


def learning_rate(config: Optimization, step) -> jax.Array:
    """Linear warm-up, cosine decay to zero."""
    rise = jnp.minimum((step + 1) / max(config.warm_up, 1), 1.0)
    fall = 0.5 * (1 + jnp.cos(jnp.pi * step / config.steps))
    return config.learning_rate * rise * fall


def ema_decay(config: Optimization, step) -> jax.Array:
    """Decay of the mean of the weights; short at first, so that it forgets where it began."""
    return jnp.minimum(config.ema, (step + 1) / (step + 10))


def grid_captions(vocabulary: Vocabulary, seen: int = 8, unseen: int = 4) -> dict[str, str]:
    """Captions for a grid of samples, and their labels: pairs of training, then held-out ones."""
    captions = {}
    for held_out, rows in ((False, seen), (True, unseen)):
        pairs = bank.allowed_colours(vocabulary, held_out=held_out)
        possible = np.flatnonzero(pairs.any(axis=1))
        for row, c in enumerate(possible[:: max(len(possible) // rows, 1)][:rows]):
            colours = np.flatnonzero(pairs[c])
            colour = vocabulary.colours[colours[row % len(colours)]]
            text = caption(Scene(vocabulary.categories[c], colour))
            captions[text] = f"{text} (held out)" if held_out else text
    return captions

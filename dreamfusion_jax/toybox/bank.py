"""Training pictures: traced once without colours, then coloured anew at every draw.

Because `Layers` are linear in colour, a bank of a few thousand views per category gives
every colour, modifier colour and background exactly and for free.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.scene.camera import CameraConfig, sample_camera
from dreamfusion_jax.scene.lighting import LightingConfig, sample_backdrop, sample_lighting
from dreamfusion_jax.scene.views import OCTANTS, octant_index, view_index
from dreamfusion_jax.toybox.captions import VIEW_WORDS, CaptionTable, Vocabulary
from dreamfusion_jax.toybox.renderer import Layers, colourise, render_layers
from dreamfusion_jax.toybox.world import COLOURS, HELD_OUT

NARROW_CAMERAS = CameraConfig(
    elevation=(-10.0, 65.0),
    distance=(1.2, 1.4),
    position_jitter=0.02,
    look_at_std=0.01,
    up_std=0.01,
    gaussians="std",
    focal=(1.05, 1.2),
)
"""Cameras under which apparent size tells a small prior the real size (training and SDS)."""

SOFT_LIGHTING = LightingConfig(
    albedo_until=0.0,
    diffuse_probability=0.5,
    textureless_probability=0.0,
    ambient=0.4,
    diffuse=0.6,
)
"""Lights under which the side away from the light keeps its colour (training and SDS)."""


@dataclasses.dataclass(frozen=True)
class BankConfig:
    """What the training pictures show.

    Attributes:
        size: Height and width, pixels.
        views: Traced views per category and modifier.
        cameras: Distribution of the cameras.
        lighting: Distribution of the lights.
    """

    size: int = 64
    views: int = 4000
    cameras: CameraConfig = NARROW_CAMERAS
    lighting: LightingConfig = SOFT_LIGHTING


@pytree
class Bank:
    """Traced views, ready to be coloured.

    Attributes:
        layers: Premultiplied material coefficients and alpha, in 1/255.
        category: Index into the vocabulary's categories.
        modifier: 0 for none, else 1 + index into the vocabulary's modifiers.
        view: Index into `VIEWS`.
        octant: Index into `OCTANTS`; -1 seen from overhead.
    """

    layers: UInt8[Array, "M H W 6"]
    category: Int[Array, "M"]
    modifier: Int[Array, "M"]
    view: Int[Array, "M"]
    octant: Int[Array, "M"]


def _draw(key: jax.Array, category: str, modifier: str | None, config: BankConfig):
    camera_key, light_key = jax.random.split(key)
    camera = sample_camera(camera_key, config.cameras)
    lighting = sample_lighting(light_key, camera.position, 0, 1, config.lighting)
    layers = render_layers(category, modifier, camera, lighting, size=config.size)
    view = view_index(camera.azimuth, camera.elevation)
    octant = octant_index(camera.azimuth)
    values = jnp.concatenate([layers.coefficients, layers.alpha[..., None]], axis=-1)
    coded = jnp.round(jnp.clip(values, 0.0, 1.0) * 255).astype(jnp.uint8)
    return coded, view, jnp.where(view == 3, -1, octant)


def draw_bank(
    key: Key[Array, ""],
    vocabulary: Vocabulary,
    config: BankConfig,
    *,
    chunk: int = 16,
    report: Callable[[int, int], None] | None = None,
) -> Bank:
    """Traces `config.views` views of every category and modifier of the vocabulary.

    Args:
        key: Seed.
        vocabulary: What to draw.
        config: How to draw it.
        chunk: Views traced at once; bounds the memory.
        report: Called with (done, total) after each kind of object.
    """
    kinds = [
        (c, category, m, modifier)
        for c, category in enumerate(vocabulary.categories)
        for m, modifier in enumerate((None, *vocabulary.modifiers))
    ]
    rows = []
    for done, (c, category, m, modifier) in enumerate(kinds):
        keys = jax.random.split(jax.random.fold_in(key, done), config.views)

        def draw(k: jax.Array, category: str = category, modifier: str | None = modifier):
            return _draw(k, category, modifier, config)

        layers, view, octant = jax.jit(
            lambda ks, draw=draw: jax.lax.map(draw, ks, batch_size=chunk)
        )(keys)
        category_index, modifier_index = (jnp.full(config.views, i, jnp.int32) for i in (c, m))
        rows.append((layers, category_index, modifier_index, view, octant))
        if report is not None:
            jax.block_until_ready(layers)
            report(done + 1, len(kinds))
    return Bank(*(jnp.concatenate(column) for column in zip(*rows, strict=True)))


def allowed_colours(vocabulary: Vocabulary, *, held_out: bool = False) -> np.ndarray:
    """[categories, colours] of bool: the pairs for training, or the pairs held out of it."""
    return np.array(
        [
            [((category, colour) in HELD_OUT) == held_out for colour in vocabulary.colours]
            for category in vocabulary.categories
        ]
    )


def sample_batch(
    key: Key[Array, ""],
    bank: Bank,
    ids: Int[Array, "K L X Y N"],
    empty: Int[Array, "N"],
    allowed: Array,
    palette: Float[Array, "L 3"],
    *,
    batch_size: int,
    dropout: float = 0.1,
) -> tuple[Float[Array, "B H W 3"], Int[Array, "B N"]]:
    """Draws coloured pictures over plain backgrounds, and their captions.

    Args:
        key: Seed of this batch.
        bank: Traced views.
        ids: `CaptionTable.ids`.
        empty: `CaptionTable.empty`.
        allowed: [categories, colours], the pairs that may be drawn.
        palette: RGB of the vocabulary's colours.
        batch_size: Number of pictures.
        dropout: Share of captions that become empty, for classifier-free guidance.

    Returns:
        Images in [0, 1] and token ids. A caption names one of the paper's four views, one
        of the finer eight, or (one in ten) none.
    """
    keys = jax.random.split(key, 8)
    index = jax.random.randint(keys[0], (batch_size,), 0, bank.category.shape[0])
    category, modifier = bank.category[index], bank.modifier[index]
    colour = jax.random.categorical(keys[1], jnp.where(allowed, 0.0, -jnp.inf)[category])
    accent = jax.random.randint(keys[2], (batch_size,), 0, palette.shape[0])
    coded = bank.layers[index].astype(jnp.float32) / 255
    images = colourise(
        Layers(coefficients=coded[..., :5], alpha=coded[..., 5]),
        palette[colour],
        palette[accent],
        sample_backdrop(keys[3], (batch_size,)),
    )
    extra = jnp.where(modifier == 0, 0, 1 + (modifier - 1) * palette.shape[0] + accent)
    view = _view_word(keys[4], bank.view[index], bank.octant[index])
    tokens = ids[category, colour, extra, view]
    dropped = jax.random.bernoulli(keys[5], dropout, (batch_size, 1))
    return images, jnp.where(dropped, empty[None], tokens)


_FINE_WORDS = np.array([1 + VIEW_WORDS.index(view) for view in OCTANTS])
"""Position of each of OCTANTS in the caption table's last axis (0 is "no view")."""


def _view_word(key: jax.Array, view: jax.Array, octant: jax.Array) -> jax.Array:
    kind = jax.random.uniform(key, view.shape)
    word = jnp.where((kind < 0.5) & (octant >= 0), jnp.asarray(_FINE_WORDS)[octant], 1 + view)
    return jnp.where(kind > 0.9, 0, word)


def palette_of(vocabulary: Vocabulary) -> np.ndarray:
    """[colours, 3] RGB of a vocabulary's colours."""
    return np.array([COLOURS[name] for name in vocabulary.colours], np.float32)


def table_arrays(table: CaptionTable) -> tuple[jax.Array, jax.Array]:
    """The table on the device."""
    return jnp.asarray(table.ids), jnp.asarray(table.empty)

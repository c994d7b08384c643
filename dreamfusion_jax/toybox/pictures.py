"""Training pictures of the toybox and what is said of them, drawn from a bank of traced views.

A host draws a `Plan` with numpy: which view, in which colours, over which background, how
spoilt, and the caption. `paint` turns it into pictures, inside jit, on any device.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8, UInt32

from dreamfusion_jax import draws
from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.scene.views import (
    FRAMINGS,
    HEIGHTS,
    OCTANTS,
    VIEWS,
    framing_index,
    height_index,
    octant_index,
    view_index,
)
from dreamfusion_jax.toybox.bank import Bank, Rows, palette_of
from dreamfusion_jax.toybox.captions import LIGHTS, Description, Vocabulary
from dreamfusion_jax.toybox.renderer import Layers, colourise
from dreamfusion_jax.toybox.world import HELD_OUT, HELD_OUT_MODIFIED

Numbers = Array | np.ndarray
"""As the host draws them, or inside jit."""

CANDIDATES = 12
"""Random background colours of which the first that is far enough from the object is taken."""


@dataclasses.dataclass(frozen=True)
class PictureConfig:
    """What is drawn of the views, and what is said of it. All numbers but the last are shares.

    Attributes:
        modified: Of objects with a modifier.
        coloured: Of backgrounds of any colour; the others are grey with a slight tint.
        two_tone: Of the coloured backgrounds, those that change to a second colour.
        spoilt: Of pictures that are blurry, noisy, dark or washed out, and said to be so.
        quality_alone: Of those, the ones of which nothing else is said.
        colourless: Of captions that leave the colour out.
        nameless: Of captions that say "toy".
        coarse_view: Of captions that name one of the paper's four views.
        fine_view: Of captions that name one of the eight sides, or overhead.
        clause: Of captions that name the height; so with framing and light.
        empty: Of captions that say nothing, for classifier-free guidance.
        distance: Smallest distance of a coloured background from the object's colours, RGB.
    """

    modified: float = 0.4
    coloured: float = 0.5
    two_tone: float = 0.5
    spoilt: float = 0.05
    quality_alone: float = 0.25
    colourless: float = 0.06
    nameless: float = 0.03
    coarse_view: float = 0.4
    fine_view: float = 0.5
    clause: float = 0.4
    empty: float = 0.1
    distance: float = 0.45


@pytree
class Paints:
    """All that `paint` needs for B pictures.

    Attributes:
        layers: Premultiplied material coefficients and alpha, in 1/255; or, before `looked_up`,
            their numbers [B] in `Bank.everything`.
        main: Main colours.
        accent: Colours of the modifiers.
        backgrounds: Two colours each; the same twice for a plain one.
        edge: Where one background changes to the other: cosine and sine of the direction,
            offset (picture from -1 to 1), steepness.
        blur: Standard deviations, pixels; 0 for none.
        noise: Standard deviations.
        wash: Shares of white that is mixed in.
        gain: Factors of brightness.
        seed: Of the noise.
    """

    layers: UInt8[Numbers, "B H W 6"] | Int[Numbers, "B"]
    main: Float[Numbers, "B 3"]
    accent: Float[Numbers, "B 3"]
    backgrounds: Float[Numbers, "B 2 3"]
    edge: Float[Numbers, "B 4"]
    blur: Float[Numbers, "B"]
    noise: Float[Numbers, "B"]
    wash: Float[Numbers, "B"]
    gain: Float[Numbers, "B"]
    seed: Int[Numbers, ""]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Pictures before they are painted.

    Attributes:
        paints: For `paint`.
        truths: Everything that is so, with the paper's view names.
        captions: What is said of it.
        facts: `bank.FACTS` of the views [B, 5].
    """

    paints: Paints
    truths: tuple[Description, ...]
    captions: tuple[str, ...]
    facts: Float[np.ndarray, "B 5"]


def draw_plan(
    rng: np.random.Generator,
    bank: Bank | Rows,
    vocabulary: Vocabulary,
    count: int,
    config: PictureConfig | None = None,
    *,
    held_out: bool = False,
) -> Plan:
    """Draws views, colours, backgrounds and captions.

    Args:
        rng: Of all randomness.
        bank: Traced views, or their numbers; kinds that it lacks are not drawn.
        vocabulary: Colours, and the words for captions.
        count: Number of pictures.
        config: Shares; the default ones if None.
        held_out: Whether pairs and triples that are held out of training may be drawn, too.

    Returns:
        The plan. Every category that the bank has is equally likely, then every colour that
        may be shown on it.
    """
    config = PictureConfig() if config is None else config
    scenes = [_scene(rng, bank, vocabulary, config, held_out) for _ in range(count)]
    kinds = [(s.noun, s.modifier) for s in scenes]
    views = [bank.view(kind, int(rng.integers(bank.count(kind)))) for kind in kinds]  # pyright: ignore[reportArgumentType]
    facts = np.stack([view[1] for view in views])
    truths = _seen(scenes, facts)
    if vocabulary.qualities:
        spoilt = rng.random(count) < config.spoilt
        qualities = rng.choice(vocabulary.qualities, count)
        truths = [
            dataclasses.replace(truth, quality=str(quality)) if bad else truth
            for truth, bad, quality in zip(truths, spoilt, qualities, strict=True)
        ]
    palette = dict(zip(vocabulary.colours, palette_of(vocabulary), strict=True))
    main = np.stack([palette[s.colour] for s in scenes])  # pyright: ignore[reportArgumentType]
    accent = np.stack([palette[s.modifier_colour or s.colour] for s in scenes])  # pyright: ignore[reportArgumentType]
    backgrounds, edge = _backgrounds(rng, main, accent, config)
    paints = Paints(
        layers=np.stack([view[0] for view in views]),
        main=main,
        accent=accent,
        backgrounds=backgrounds,
        edge=edge,
        **_spoiling(rng, truths, bank.size),
        seed=np.asarray(rng.integers(2**31 - 1), np.int32),
    )
    sides = np.asarray(octant_index(jnp.asarray(facts[:, 0])))
    captions = [
        _said(rng, truth, OCTANTS[side], vocabulary, config).text
        for truth, side in zip(truths, sides, strict=True)
    ]
    captions = ["" if rng.random() < config.empty else text for text in captions]
    return Plan(paints, tuple(truths), tuple(captions), facts)


def _scene(rng, bank: Bank | Rows, vocabulary: Vocabulary, config: PictureConfig, held_out: bool):
    """A category, perhaps a modifier, and colours."""
    categories = list(dict.fromkeys(category for category, _ in bank.kinds))
    category = categories[rng.integers(len(categories))]
    modifiers = [m for c, m in bank.kinds if c == category and m is not None]
    plain = (category, None) in bank.kinds
    modifier = None
    if modifiers and (not plain or rng.random() < config.modified):
        modifier = modifiers[rng.integers(len(modifiers))]
    colours = [c for c in vocabulary.colours if held_out or (category, c) not in HELD_OUT]
    colour, accent = colours[rng.integers(len(colours))], None
    if modifier is not None:
        accents = [
            c
            for c in vocabulary.colours
            if held_out or (category, modifier, c) not in HELD_OUT_MODIFIED
        ]
        accent = accents[rng.integers(len(accents))]
    return Description(category, colour, modifier, accent)


def _seen(scenes: Sequence[Description], facts: np.ndarray) -> list[Description]:
    """The scenes with the names of their views and lights."""
    azimuth, elevation, size, lit, _ = jnp.asarray(facts).T
    names = zip(
        scenes,
        np.asarray(view_index(azimuth, elevation)),
        np.asarray(height_index(elevation)),
        np.asarray(framing_index(size)),
        np.asarray(lit > 0.5),
        strict=True,
    )
    return [
        dataclasses.replace(
            scene,
            view=VIEWS[view],
            height=None if view == VIEWS.index("overhead view") else HEIGHTS[height],
            framing=FRAMINGS[framing],
            light=LIGHTS[0 if shaded else 1],
        )
        for scene, view, height, framing, shaded in names
    ]


def _said(
    rng: np.random.Generator,
    truth: Description,
    side: str,
    vocabulary: Vocabulary,
    config: PictureConfig,
) -> Description:
    """What a caption says of a picture that was taken from one of `OCTANTS`."""
    overhead = truth.view == VIEWS[3]
    kind, alone, *clauses, loose = rng.random(6)
    fine = config.coarse_view < kind <= config.coarse_view + config.fine_view and not overhead
    said = dataclasses.replace(
        truth,
        view=side
        if fine
        else truth.view
        if kind <= config.coarse_view + config.fine_view
        else None,
        height=truth.height if vocabulary.heights and clauses[0] < config.clause else None,
        framing=truth.framing if vocabulary.framings and clauses[1] < config.clause else None,
        light=truth.light if vocabulary.lights and clauses[2] < config.clause else None,
    )
    if truth.quality and alone < config.quality_alone:
        return Description(None, quality=truth.quality)
    if vocabulary.nouns and loose < config.nameless:
        # Half of them leave the colour out, too.
        colour = None if loose < config.nameless / 2 else truth.colour
        return dataclasses.replace(said, noun=vocabulary.nouns[0], colour=colour)
    if vocabulary.nouns and loose < config.nameless + config.colourless:
        return dataclasses.replace(said, colour=None)
    return said


def _backgrounds(
    rng: np.random.Generator, main: np.ndarray, accent: np.ndarray, config: PictureConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Two colours [B, 2, 3], and how one changes to the other [B, 4]."""
    count = len(main)
    grey = rng.uniform(0.3, 1.0, (count, 1)) + rng.uniform(-0.1, 0.1, (count, 3))
    candidates = rng.random((count, 2, CANDIDATES, 3))
    own = np.stack([main, accent], axis=1)[:, None, None]
    apart = np.linalg.norm(candidates[:, :, :, None] - own, axis=-1).min(axis=-1)
    # The first that is far enough; should none be, the farthest.
    good = apart > config.distance
    chosen = np.where(good.any(axis=-1), good.argmax(axis=-1), apart.argmax(axis=-1))
    colours = np.take_along_axis(candidates, chosen[..., None, None], axis=2)[:, :, 0]
    plain = rng.random(count) >= config.two_tone
    colours[plain, 1] = colours[plain, 0]
    coloured = rng.random((count, 1, 1)) < config.coloured
    pair = np.where(coloured, colours, np.clip(grey, 0.0, 1.0)[:, None])
    angle = rng.uniform(-np.pi, np.pi, count)
    offset, steepness = rng.uniform(-0.7, 0.7, count), np.exp(rng.uniform(0.0, 4.0, count))
    edge = np.stack([np.cos(angle), np.sin(angle), offset, steepness], axis=-1)
    return pair.astype(np.float32), edge.astype(np.float32)


def _spoiling(
    rng: np.random.Generator, truths: Sequence[Description], size: int
) -> dict[str, np.ndarray]:
    """Strengths of what the qualities of pictures [size, size] do; none for the others."""
    count = len(truths)
    bad = np.array([truth.quality or "" for truth in truths])
    drawn = {
        "blur": ("blurry", rng.uniform(1.5, 4.0, count) * size / 64, 0.0),
        "noise": ("noisy", rng.uniform(0.1, 0.3, count), 0.0),
        "wash": ("washed out", rng.uniform(0.55, 0.8, count), 0.0),
        "gain": ("dark", rng.uniform(0.15, 0.4, count), 1.0),
    }
    return {
        name: np.where(bad == quality, strength, none).astype(np.float32)
        for name, (quality, strength, none) in drawn.items()
    }


def looked_up(paints: Paints, views: UInt32[Array, "N words"], size: int) -> Paints:
    """Puts the layers in place of their numbers in `Bank.everything`.

    Args:
        paints: With the numbers of their views.
        views: All of them, as `Bank.everything` gives them.
        size: Height and width of a view, pixels.
    """
    rows = jax.lax.bitcast_convert_type(jnp.take(views, paints.layers, axis=0), jnp.uint8)
    return dataclasses.replace(paints, layers=rows.reshape(-1, size, size, 6))


def paint(paints: Paints) -> Float[Array, "B H W 3"]:
    """Colours views, lays them over their backgrounds and spoils some.

    Args:
        paints: Of a `Plan`.

    Returns:
        Pictures in [0, 1].
    """
    coded = jnp.asarray(paints.layers, jnp.float32) / 255
    height, width = coded.shape[1:3]
    x, y = (jnp.linspace(-1.0, 1.0, n) for n in (width, height))
    cosine, sine, offset, steepness = (v[:, None, None] for v in paints.edge.T)
    across = cosine * x[None, None, :] + sine * y[None, :, None] - offset
    share = jax.nn.sigmoid(steepness * across)[..., None]
    first, second = (paints.backgrounds[:, i, None, None] for i in (0, 1))
    images = colourise(
        Layers(coefficients=coded[..., :5], alpha=coded[..., 5]),
        jnp.asarray(paints.main),
        jnp.asarray(paints.accent),
        (1 - share) * first + share * second,
    )
    images = _blurred(images, jnp.asarray(paints.blur))
    gain, wash, noise = (v[:, None, None, None] for v in (paints.gain, paints.wash, paints.noise))
    images = gain * ((1 - wash) * images + wash)
    noise = noise * draws.normal(jax.random.key(paints.seed), images.shape)
    return jnp.clip(images + noise, 0.0, 1.0)


def _blurred(images: jax.Array, deviation: jax.Array) -> jax.Array:
    """Gaussian blur along both axes, normalized at the border; 0 leaves a picture as it is."""
    spread = jnp.maximum(deviation, 1e-2)[:, None, None]
    for axis in (1, 2):
        place = jnp.arange(images.shape[axis], dtype=jnp.float32)
        apart = (place[:, None] - place[None])[None]
        kernel = jnp.exp(-0.5 * (apart / spread) ** 2)
        kernel = kernel / kernel.sum(axis=-1, keepdims=True)
        full = jax.lax.Precision.HIGHEST
        into = "bij,bjwc->biwc" if axis == 1 else "bij,bhjc->bhic"
        images = jnp.einsum(into, kernel, images, precision=full)
    return images

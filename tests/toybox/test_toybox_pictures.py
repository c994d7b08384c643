"""Training pictures: what captions say is so, what is held out is not drawn, paint by hand."""

from collections import Counter

import jax
import numpy as np
import pytest

from dreamfusion_jax.scene.views import OCTANTS
from dreamfusion_jax.toybox import pictures
from dreamfusion_jax.toybox.bank import Bank
from dreamfusion_jax.toybox.captions import WHOLE_WORLD, Description
from dreamfusion_jax.toybox.pictures import Paints, PictureConfig, draw_plan, paint
from dreamfusion_jax.toybox.world import COLOURS, HELD_OUT, HELD_OUT_MODIFIED, MODIFIERS

KINDS = (("duck", None), ("duck", MODIFIERS[0]), ("duck", MODIFIERS[1]), ("lamp", None))
COUNT = 6000


class FakeBank(Bank):
    """Views that are their own number; their cameras go through all angles."""

    def __init__(self):
        self.kinds, self.size = KINDS, 2

    def count(self, kind):
        """As many of each."""
        return 500 + KINDS.index(kind)

    def view(self, kind, index):
        """Azimuth, elevation, size, light and width follow from the number."""
        rng = np.random.default_rng((KINDS.index(kind), index))
        low, high = np.array([[-np.pi, -0.2, 0.5, 0, 0], [np.pi, np.pi / 2, 1.3, 1, 1]])
        facts = rng.uniform(low, high)
        facts[3:] = facts[3:] > 0.5
        return np.full((2, 2, 6), index % 256, np.uint8), facts.astype(np.float32)


@pytest.fixture(scope="module")
def plan():
    return draw_plan(np.random.default_rng(0), FakeBank(), WHOLE_WORLD, COUNT)


def possible_views(azimuth, elevation):
    """Both names of a view, by the definition in degrees."""
    if elevation > 60:
        return {"overhead view"}
    coarse = "front" if abs(azimuth) <= 45 else "back" if abs(azimuth) >= 135 else "side"
    return {f"{coarse} view", OCTANTS[round(azimuth / 45) % 8]}


def test_captions_say_nothing_that_is_not_so(plan):
    degrees = np.rad2deg(plan.facts[:, :2])
    for text, truth, (azimuth, elevation), facts in zip(
        plan.captions, plan.truths, degrees, plan.facts, strict=True
    ):
        if not text:
            continue
        said = WHOLE_WORLD.read(text)
        if said.noun is None:
            assert said == Description(None, quality=truth.quality)
            continue
        assert said.noun in (truth.noun, "toy") and said.quality == truth.quality
        assert said.colour in (truth.colour, None)
        assert (said.modifier, said.modifier_colour) == (truth.modifier, truth.modifier_colour)
        assert said.view is None or said.view in possible_views(azimuth, elevation)
        heights = ("seen from below", "at eye level", "seen from above")
        height = heights[0 if elevation < 0 else 1 if elevation <= 30 else 2]
        assert said.height is None or (said.height == height and elevation <= 60)
        framings = ("long shot", "medium shot", "close up")
        framing = framings[0 if facts[2] < 0.74 else 1 if facts[2] <= 1.02 else 2]
        assert said.framing in (None, framing)
        assert said.light in (None, "lit" if facts[3] else "unlit")


def test_shares_are_as_configured(plan):
    config, read = PictureConfig(), [WHOLE_WORLD.read(t) for t in plan.captions if t]

    def near(found, share, of):
        assert abs(found / of - share) < 4 * (share * (1 - share) / of) ** 0.5

    named = [said for said in read if said.noun is not None]
    near(COUNT - len(read), config.empty, COUNT)
    near(sum(t.quality is not None for t in plan.truths), config.spoilt, COUNT)
    near(sum(t.noun == "duck" for t in plan.truths), 1 / 2, COUNT)
    near(sum(t.modifier is not None for t in plan.truths), config.modified / 2, COUNT)
    near(sum(said.noun == "toy" for said in named), config.nameless, len(named))
    open_colour = config.colourless + config.nameless / 2
    near(sum(said.colour is None for said in named), open_colour, len(named))
    near(sum(said.view is None for said in named), 0.1, len(named))
    near(sum(said.framing is not None for said in named), config.clause, len(named))
    # Plain grey: three channels within 0.2 of each other, and one colour.
    pairs = np.asarray(plan.paints.backgrounds)
    grey = (np.ptp(pairs[:, 0], axis=-1) <= 0.2) & np.all(pairs[:, 0] == pairs[:, 1], axis=-1)
    two = np.any(pairs[:, 0] != pairs[:, 1], axis=-1)
    near(np.sum(two), config.coloured * config.two_tone, COUNT)
    assert 0.5 < grey.mean() < 0.54


def test_every_colour_but_the_held_out_is_drawn_alike(plan):
    shown = Counter(t.colour for t in plan.truths if t.noun == "duck")
    assert set(shown) == {c for c in COLOURS if ("duck", c) not in HELD_OUT}
    assert min(shown.values()) > 0.8 * max(shown.values())
    for modifier in MODIFIERS:
        worn = {t.modifier_colour for t in plan.truths if t.modifier == modifier}
        assert worn == {c for c in COLOURS if ("duck", modifier, c) not in HELD_OUT_MODIFIED}
    rng = np.random.default_rng(0)
    everything = draw_plan(rng, FakeBank(), WHOLE_WORLD, 1000, held_out=True)
    assert {t.colour for t in everything.truths} == set(COLOURS)
    # The paints are the colours that are named.
    for i, truth in enumerate(everything.truths):
        np.testing.assert_allclose(everything.paints.main[i], COLOURS[truth.colour], rtol=1e-6)
        worn = COLOURS[truth.modifier_colour or truth.colour]
        np.testing.assert_allclose(everything.paints.accent[i], worn, rtol=1e-6)


def test_coloured_backgrounds_keep_away_from_the_object(plan):
    pairs = np.asarray(plan.paints.backgrounds)
    coloured = np.ptp(pairs[:, 0], axis=-1) > 0.2
    own = np.stack([plan.paints.main, plan.paints.accent], axis=1)
    apart = np.linalg.norm(pairs[:, :, None] - own[:, None], axis=-1).min(axis=(1, 2))
    assert apart[coloured].min() > 0.3 and np.mean(apart[coloured] > 0.45) > 0.99


def test_the_same_seed_draws_the_same(plan):
    again = draw_plan(np.random.default_rng(0), FakeBank(), WHOLE_WORLD, COUNT)
    assert again.captions == plan.captions
    for a, b in zip(jax.tree.leaves(again.paints), jax.tree.leaves(plan.paints), strict=True):
        np.testing.assert_array_equal(a, b)


def make_paints(**changed):
    """One picture of 16 x 16: the lower left quarter is the main colour, half of it the accent."""
    layers = np.zeros((1, 16, 16, 6), np.uint8)
    layers[:, 8:, :8, 0], layers[:, 12:, :8, 1], layers[:, 12:, :8, 0] = 255, 255, 0
    layers[:, 8:, :8, 5] = 255
    values = {
        "layers": layers,
        "main": np.array([[0.9, 0.1, 0.2]], np.float32),
        "accent": np.array([[0.1, 0.8, 0.3]], np.float32),
        "backgrounds": np.full((1, 2, 3), 0.5, np.float32),
        "edge": np.array([[1.0, 0.0, 0.0, 1e6]], np.float32),
        **{name: np.zeros(1, np.float32) for name in ("blur", "noise", "wash")},
        "gain": np.ones(1, np.float32),
        "seed": np.asarray(3, np.int32),
        **changed,
    }
    return Paints(**values)


def painted(**changed):
    return np.asarray(jax.jit(paint)(make_paints(**changed)), np.float64)[0]


def test_colours_and_backgrounds_are_where_they_belong():
    pair = np.array([[[0.0, 0.2, 0.4], [0.6, 0.8, 1.0]]], np.float32)
    image = painted(backgrounds=pair)
    np.testing.assert_allclose(image[9, 3], [0.9, 0.1, 0.2], atol=1e-6)
    np.testing.assert_allclose(image[14, 3], [0.1, 0.8, 0.3], atol=1e-6)
    # A sharp edge in the middle, from left to right.
    np.testing.assert_allclose(image[2, :8], np.tile(pair[0, 0], (8, 1)), atol=1e-6)
    np.testing.assert_allclose(image[2, 8:], np.tile(pair[0, 1], (8, 1)), atol=1e-6)


def test_spoiling_by_hand():
    clean = painted()
    np.testing.assert_allclose(painted(gain=np.full(1, 0.25, np.float32)), clean / 4, atol=1e-6)
    washed = painted(wash=np.full(1, 0.7, np.float32))
    np.testing.assert_allclose(washed, 0.3 * clean + 0.7, atol=1e-6)
    noise = painted(noise=np.full(1, 0.05, np.float32)) - clean
    assert abs(noise[clean == 0.5].std() - 0.05) < 0.005 and abs(noise.mean()) < 0.01
    # Blur by the definition: weights exp(-d^2 / 2 s^2), normalized inside the picture.
    place = np.arange(16)
    weights = np.exp(-0.5 * ((place[:, None] - place) / 1.7) ** 2)
    weights /= weights.sum(axis=1, keepdims=True)
    expected = np.einsum("ij,kl,jlc->ikc", weights, weights, clean)
    np.testing.assert_allclose(painted(blur=np.full(1, 1.7, np.float32)), expected, atol=1e-5)


def test_strengths_belong_to_the_qualities():
    truths = [Description("duck", "red", quality=q) for q in (None, *WHOLE_WORLD.qualities)]
    found = pictures._spoiling(np.random.default_rng(0), truths, 64)
    touched = {name: np.flatnonzero(x != (name == "gain")).tolist() for name, x in found.items()}
    assert touched == {"blur": [1], "noise": [2], "gain": [3], "wash": [4]}

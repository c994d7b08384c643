"""Traced views on disk: what is written, when it is read, and what it says of the cameras."""

import jax.numpy as jnp
import numpy as np
import pytest

from dreamfusion_jax.toybox import bank
from dreamfusion_jax.toybox.bank import FACTS, Bank, BankConfig, Rows, kinds_of, write_views
from dreamfusion_jax.toybox.captions import WHOLE_WORLD, Vocabulary
from dreamfusion_jax.toybox.pictures import draw_plan, looked_up
from dreamfusion_jax.toybox.world import MODIFIERS

CONFIG = BankConfig(size=8)
KINDS = (("apple", None), ("apple", MODIFIERS[1]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two chunks of a plain apple, one of an apple with a hat."""
    folder = tmp_path_factory.mktemp("bank")
    for kind, chunk in ((KINDS[0], 0), (KINDS[0], 1), (KINDS[1], 0)):
        assert write_views(folder, kind, chunk, 300, CONFIG)
    return folder


def test_a_bank_is_read_row_by_row_and_grows(folder):
    views = Bank(folder, [*KINDS, ("pumpkin", None)])
    assert views.kinds == KINDS and views.size == 8
    assert [views.count(kind) for kind in KINDS] == [600, 300]
    assert views.count(("pumpkin", None)) == 0
    stored = [np.load(folder / f"apple.plain.{chunk:03d}.layers.npy") for chunk in (0, 1)]
    for index in (0, 299, 300, 599):
        layers, facts = views.view(KINDS[0], index)
        np.testing.assert_array_equal(layers, stored[index // 300][index % 300])
        assert isinstance(layers.base, np.memmap) and facts.shape == (len(FACTS),)
    assert not np.array_equal(stored[0], stored[1])
    with pytest.raises(IndexError):
        views.view(KINDS[0], 600)
    # A chunk is there when its facts are; a program that was stopped leaves none.
    facts = folder / "apple.plain.001.facts.npy"
    hidden = facts.rename(folder / "hidden")
    assert Bank(folder, KINDS).count(KINDS[0]) == 300
    hidden.rename(facts)


def test_numbers_stand_for_views_until_they_are_looked_up(folder):
    """The same plan with layers and with numbers, which a device then looks up."""
    views = Bank(folder, KINDS)
    first, second = (
        draw_plan(np.random.default_rng(4), bank, WHOLE_WORLD, 50) for bank in (views, Rows(views))
    )
    assert first.captions == second.captions and second.paints.layers.shape == (50,)
    found = looked_up(second.paints, jnp.asarray(views.everything()), 8)
    for name in ("layers", "main", "edge", "blur", "seed"):
        np.testing.assert_array_equal(getattr(found, name), getattr(first.paints, name))


def test_chunks_are_drawn_once_and_the_same_every_time(folder, tmp_path):
    assert not write_views(folder, KINDS[1], 0, 300, CONFIG)
    assert write_views(tmp_path, KINDS[1], 0, 300, CONFIG)
    for file in tmp_path.glob("*.npy"):
        assert file.read_bytes() == (folder / file.name).read_bytes()
    with pytest.raises(ValueError, match="drawn for other settings"):
        write_views(folder, KINDS[1], 1, 4, BankConfig(size=16))
    with pytest.raises(FileNotFoundError, match=r"experiments\.draw_bank"):
        Bank(tmp_path / "nothing", KINDS)


def test_a_third_of_the_cameras_are_the_papers_and_half_of_the_views_are_lit(folder):
    views = Bank(folder, KINDS)
    rows = np.stack([views.view(kind, i)[1] for kind in KINDS for i in range(views.count(kind))])
    facts = dict(zip(FACTS, rows.T, strict=True))
    wide = facts["wide"] > 0.5
    assert abs(wide.mean() - 1 / 3) < 3 * (2 / 9 / 900) ** 0.5
    assert abs(facts["lit"].mean() - 1 / 2) < 3 * (1 / 4 / 900) ** 0.5
    degrees = np.rad2deg(facts["elevation"])
    # Narrow: -10 to 65 degrees, 1.05 to 1.2 over 1.2 to 1.4; the position is jittered by 0.02.
    near = facts["size"][~wide]
    assert 1.05 / 1.44 < near.min() < 0.80 and 0.94 < near.max() < 1.2 / 1.16
    assert degrees[~wide].min() > -12 and degrees[~wide].max() < 67
    # Wide: up to 90 degrees, 0.7 to 1.35 over 1 to 1.5 with a jitter of 0.1.
    far = facts["size"][wide]
    assert far.min() < 0.6 and far.max() > 1.15 and degrees[wide].max() > 75
    assert np.abs(facts["azimuth"]).max() <= np.pi and np.abs(facts["azimuth"].mean()) < 0.2


def test_layers_are_premultiplied_and_hats_have_the_accents_colour(folder):
    views = Bank(folder, KINDS)
    for kind in KINDS:
        layers = np.stack([views.view(kind, i)[0] for i in range(100)]).astype(int)
        alpha = layers[..., 5]
        # Coefficients are shares of the pixel: together with alpha, each at most 1 where it is.
        assert np.all(layers[..., :2] <= alpha[..., None] + 1)
        assert alpha[:, 0].mean() < 40
        assert alpha[:, 3:5, 3:5].mean() > 40
        accent = layers[..., 1].max(axis=(1, 2))
        assert np.mean(accent > 30) > 0.9 if kind[1] else accent.max() == 0


def test_kinds_are_categories_with_and_without_modifiers():
    small = Vocabulary(("duck", "mug"), modifiers=MODIFIERS[:1])
    assert kinds_of(small) == [
        ("duck", None),
        ("duck", MODIFIERS[0]),
        ("mug", None),
        ("mug", MODIFIERS[0]),
    ]
    assert len(kinds_of(Vocabulary())) == 120


def test_held_out_pairs_are_not_allowed():
    allowed = bank.allowed_colours(Vocabulary())
    assert allowed.sum() == 360
    assert np.array_equal(~allowed, bank.allowed_colours(Vocabulary(), held_out=True))

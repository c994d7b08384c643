import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamfusion_jax.toybox import bank, captions
from dreamfusion_jax.toybox.architecture import tokenize
from dreamfusion_jax.toybox.captions import (
    VIEW_WORDS,
    UnknownWordsError,
    Vocabulary,
    caption,
    caption_table,
)
from dreamfusion_jax.toybox.renderer import Layers
from dreamfusion_jax.toybox.tokenizer import MAX_LENGTH, build_tokenizer, learn_merges
from dreamfusion_jax.toybox.world import (
    CATEGORIES,
    COLOURS,
    HELD_OUT,
    MODIFIERS,
    Scene,
    UnknownNameError,
)


def test_captions_read_back_as_the_scene_they_describe():
    vocabulary = Vocabulary()
    views = itertools.cycle((None, *VIEW_WORDS))
    extras = [(None, None), *itertools.product(MODIFIERS, COLOURS)]
    for category, colour in itertools.product(CATEGORIES, COLOURS):
        for extra in extras if colour == "orange" else extras[::7]:
            scene = Scene(category, colour, *extra)
            assert vocabulary.scene(caption(scene, next(views))) == scene
    hat = Scene("ice cream", "orange", MODIFIERS[1], "orange")
    text = "an orange ice cream wearing an orange top hat, front left view"
    assert caption(hat, "front left view") == text
    assert vocabulary.scene("Orange ICE cream,  wearing orange top hat") == hat


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "the prompt is empty"),
        (" , ", "the prompt is empty"),
        ("a red mushrom", r"does not know 'mushrom' \(nearest: mushroom\)"),
        ("a crimson dragon", "'crimson'.*'dragon'.*It knows the objects car, truck, .*in red"),
        ("a mushroom red", "say a colour, then an object"),
        ("a red red mushroom", "say a colour, then an object"),
        ("a red duck on a blue pedestal wearing a red top hat", "cannot read"),
        ("a red duck on a top hat", "cannot read"),
    ],
)
def test_what_cannot_be_read_is_said(prompt, message):
    with pytest.raises(UnknownWordsError, match=message):
        Vocabulary().scene(prompt)


def test_a_small_vocabulary_knows_no_more_than_itself():
    small = Vocabulary(("mushroom", "duck"), ("red", "blue"), ())
    assert small.scene("blue duck, overhead view") == Scene("duck", "blue")
    for prompt in ("a red car", "a pink duck", "a red duck on a blue pedestal"):
        with pytest.raises(UnknownWordsError, match="does not know"):
            small.scene(prompt)
    pedestals = Vocabulary(modifiers=MODIFIERS[:1])
    assert pedestals.scene("a red duck on a blue pedestal").modifier == MODIFIERS[0]
    with pytest.raises(UnknownNameError, match="no 'unicorn'; it has car"):
        Vocabulary(("unicorn",))
    with pytest.raises(UnknownNameError, match="no 'crimson'; it has red"):
        Scene("duck", "crimson")
    with pytest.raises(UnknownNameError, match="no 'in a box'"):
        Scene("duck", "red", "in a box", "red")
    for modifier, colour in ((MODIFIERS[0], None), (None, "red")):
        with pytest.raises(ValueError, match="modifier"):
            Scene("duck", "red", modifier, colour)


def test_one_pair_in_ten_is_held_out():
    assert len(HELD_OUT) == len(CATEGORIES) == len(CATEGORIES) * len(COLOURS) // 10
    assert Counter(category for category, _ in HELD_OUT) == dict.fromkeys(CATEGORIES, 1)
    assert Counter(colour for _, colour in HELD_OUT) == dict.fromkeys(COLOURS, 4)
    allowed = bank.allowed_colours(Vocabulary())
    assert (~allowed).sum() == len(HELD_OUT)
    assert np.array_equal(~allowed, bank.allowed_colours(Vocabulary(), held_out=True))


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_every_word_is_one_token(tokenizer):
    words = sorted(Vocabulary().words())
    ids = [tokenizer(word).input_ids for word in words]
    assert all(len(i) == 3 for i in ids)
    assert len({i[1] for i in ids}) == len(words)
    longest = "an orange ice cream wearing an orange top hat, front left view"
    assert len(tokenizer(longest).input_ids) <= MAX_LENGTH
    assert tokenizer.model_max_length == MAX_LENGTH
    padded = np.asarray(tokenize(tokenizer, [longest, ""]))
    assert padded.shape == (2, MAX_LENGTH)
    assert padded[0, 0] == 0 and padded[1, 0] == 0 and np.all(padded[1, 1:] == 1)


def test_token_ids_are_the_same_every_time(tokenizer):
    """A training that goes on builds its tokenizer anew."""
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()
    # Merges by hand: "b" and "a" are neighbours three times, then "ba" and "r</w>" twice.
    assert learn_merges(["bar", "bat", "ba", "bar"])[:2] == [("b", "a"), ("ba", "r</w>")]


def test_pictures_and_captions_agree_and_held_out_pairs_are_never_drawn(tokenizer, monkeypatch):
    """The renderer is replaced by one that writes camera, category and modifier as colours."""
    vocabulary = Vocabulary(("duck", "ice cream"), tuple(COLOURS), MODIFIERS[1:])
    kinds = list(itertools.product(vocabulary.categories, (None, MODIFIERS[1])))

    def write_camera(category, modifier, camera, lighting, *, size):
        kind = kinds.index((category, modifier)) / 255
        turn, height = camera.azimuth / (2 * jnp.pi) + 0.5, camera.elevation / jnp.pi + 0.5
        written = jnp.stack([jnp.zeros(()), jnp.zeros(()), turn, height, jnp.asarray(kind)])
        return Layers(jnp.broadcast_to(written, (size, size, 5)), jnp.ones((size, size)))

    monkeypatch.setattr(bank, "render_layers", write_camera)
    wide = bank.CameraConfig(gaussians="std")
    config = bank.BankConfig(size=1, views=1000, cameras=wide)
    views = bank.draw_bank(jax.random.key(0), vocabulary, config)
    table = caption_table(vocabulary, lambda texts: tokenize(tokenizer, texts))
    images, ids = jax.jit(bank.sample_batch, static_argnames="batch_size")(
        jax.random.key(1),
        views,
        *bank.table_arrays(table),
        jnp.asarray(bank.allowed_colours(vocabulary)),
        jnp.asarray(bank.palette_of(vocabulary)),
        batch_size=6000,
    )
    texts = tokenizer.batch_decode(np.asarray(ids), skip_special_tokens=True)
    written = np.asarray(images, np.float64)[:, 0, 0]
    assert abs(texts.count("") / 6000 - 0.1) < 0.015
    shown = Counter()
    for text, (turn, height, kind) in zip(texts, written, strict=True):
        if not text:
            continue
        scene = vocabulary.scene(text)
        assert (scene.category, scene.modifier) == kinds[round(kind * 255)]
        assert (scene.category, scene.colour) not in HELD_OUT
        words = text.split(" ,")[1].strip() if "," in text else None
        azimuth, elevation = 360 * (turn - 0.5), 180 * (height - 0.5)
        assert words is None or words in possible_views(azimuth, elevation), (text, azimuth)
        shown.update([scene.colour, scene.modifier, scene.modifier_colour, words])
    assert abs(shown[MODIFIERS[1]] / 5400 - 1 / 2) < 0.03
    # Half have no modifier, and so no colour of it either; one in ten has no view.
    assert abs(shown[None] / 5400 - 1.1) < 0.05
    assert all(shown[word] > 50 for word in (*COLOURS, *VIEW_WORDS))


def possible_views(azimuth, elevation):
    """Names of a view; near a border those of both sides, as the code of the angle is coarse."""
    views = set()
    for a, e in itertools.product((azimuth - 1, azimuth + 1), (elevation - 0.5, elevation + 0.5)):
        a = (a + 180) % 360 - 180
        if e > 60:
            views.add("overhead view")
            continue
        coarse = "front" if abs(a) <= 45 else "back" if abs(a) >= 135 else "side"
        side = "left" if a > 0 else "right"
        sectors = {0: "front", 1: f"front {side}", 2: side, 3: f"back {side}", 4: "back"}
        views |= {f"{coarse} view", f"{sectors[round(abs(a) / 45)]} view"}
    return views


def test_the_table_has_every_caption(tokenizer):
    vocabulary = Vocabulary(("duck", "mug"), ("red", "blue"), MODIFIERS)
    table = caption_table(vocabulary, lambda texts: tokenize(tokenizer, texts))
    assert table.ids.shape == (2, 2, 5, 1 + len(VIEW_WORDS), MAX_LENGTH)
    text = caption(Scene("mug", "red", MODIFIERS[1], "blue"), captions.VIEW_WORDS[3])
    np.testing.assert_array_equal(table.ids[1, 0, 4, 4], tokenize(tokenizer, [text])[0])
    np.testing.assert_array_equal(table.empty, tokenize(tokenizer, [""])[0])

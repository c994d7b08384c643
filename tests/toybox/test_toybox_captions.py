import dataclasses
import itertools
import random
from collections import Counter

import numpy as np
import pytest

from dreamfusion_jax.toybox import bank
from dreamfusion_jax.toybox.architecture import tokenize
from dreamfusion_jax.toybox.captions import (
    VIEW_WORDS,
    WHOLE_WORLD,
    Description,
    UnknownWordsError,
    Vocabulary,
    caption,
)
from dreamfusion_jax.toybox.tokenizer import MAX_LENGTH, WordIds, build_tokenizer, learn_merges
from dreamfusion_jax.toybox.world import (
    CATEGORIES,
    COLOURS,
    HELD_OUT,
    HELD_OUT_MODIFIED,
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
    with pytest.raises(UnknownWordsError, match=r"\(seen from below long shot\).*details to False"):
        small.read("a red duck, seen from below, long shot")
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


def test_one_triple_in_ten_is_held_out():
    assert len(HELD_OUT_MODIFIED) == len(CATEGORIES) * len(MODIFIERS)
    assert Counter((c, m) for c, m, _ in HELD_OUT_MODIFIED) == dict.fromkeys(
        itertools.product(CATEGORIES, MODIFIERS), 1
    )
    shown = Counter((m, colour) for _, m, colour in HELD_OUT_MODIFIED)
    assert shown == dict.fromkeys(itertools.product(MODIFIERS, COLOURS), 4)
    # By the rule of the docstring: "boat" is number 2, so colours 10 and 13, counted around.
    assert ("boat", MODIFIERS[0], "red") in HELD_OUT_MODIFIED
    assert ("boat", MODIFIERS[1], "green") in HELD_OUT_MODIFIED


LOOSE = {
    "a blurry picture": Description(None, quality="blurry"),
    "A washed out picture, unlit": Description(None, quality="washed out", light="unlit"),
    "a dark picture of a red car": Description("car", "red", quality="dark"),
    "a car, at eye level": Description("car", height="at eye level"),
    "an orange toy wearing a blue top hat, close up": Description(
        "toy", "orange", MODIFIERS[1], "blue", framing="close up"
    ),
    "toy on white pedestal front left view seen from above long shot lit": Description(
        *("toy", None, MODIFIERS[0], "white", None),
        *("front left view", "seen from above", "long shot", "lit"),
    ),
}


@pytest.mark.parametrize("prompt", LOOSE)
def test_captions_that_say_less_or_more_are_read(prompt):
    assert WHOLE_WORLD.read(prompt) == LOOSE[prompt]
    with pytest.raises(UnknownWordsError):
        Vocabulary().read(prompt)


def test_every_description_reads_back():
    """Random ones, of every field by itself."""
    draw, names = random.Random(0), (*CATEGORIES, *WHOLE_WORLD.nouns)
    for _ in range(400):
        said = Description(
            draw.choice(names),
            draw.choice((None, *COLOURS)),
            quality=draw.choice((None, *WHOLE_WORLD.qualities)),
            view=draw.choice((None, *VIEW_WORDS)),
            height=draw.choice((None, *WHOLE_WORLD.heights)),
            framing=draw.choice((None, *WHOLE_WORLD.framings)),
            light=draw.choice((None, *WHOLE_WORLD.lights)),
        )
        if draw.random() < 0.5:
            modifier, colour = draw.choice(MODIFIERS), draw.choice((*COLOURS,))
            said = dataclasses.replace(said, modifier=modifier, modifier_colour=colour)
        assert WHOLE_WORLD.read(said.text) == said


@pytest.mark.parametrize(
    "prompt",
    ["a blurry picture of", "a picture of a red car", "blurry", "a red car of a toy", "red", "lit"],
)
def test_what_is_no_caption_is_refused(prompt):
    with pytest.raises(UnknownWordsError, match="cannot read"):
        WHOLE_WORLD.read(prompt)


def test_a_scene_needs_a_category_and_a_colour():
    assert WHOLE_WORLD.scene("a noisy picture of a red car, lit") == Scene("car", "red")
    for prompt in ("a car", "a red toy", "a blurry picture"):
        with pytest.raises(UnknownWordsError, match="say a colour, then an object"):
            WHOLE_WORLD.scene(prompt)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def test_every_word_is_one_token(tokenizer):
    words = sorted(WHOLE_WORLD.words())
    assert Vocabulary().words() < set(words)
    ids = [tokenizer(word).input_ids for word in words]
    assert all(len(i) == 3 for i in ids)
    assert len({i[1] for i in ids}) == len(words)
    longest = (
        "a washed out picture of an orange ice cream wearing an orange top hat, front left view, "
        "seen from above, close up, unlit"
    )
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


def test_words_are_looked_up_as_the_tokenizer_does(tokenizer):
    texts = ["", "a red car", "a washed out picture, unlit", "an ice cream, front left view, lit"]
    ours = WordIds(tokenizer)(texts)
    np.testing.assert_array_equal(ours, tokenize(tokenizer, texts))
    with pytest.raises(KeyError, match="unicorn"):
        WordIds(tokenizer)(["a red unicorn"])

"""The little grammar of the toybox: scenes to captions and back, and the words it knows.

caption  := article colour category [modifier] ["," view]
modifier := "on" article colour "pedestal" | "wearing" article colour "top hat"
view     := "front view" | "side view" | "back view" | "overhead view" | a finer one
"""

import dataclasses
import difflib
import re
from collections.abc import Sequence

import numpy as np

from dreamfusion_jax.scene.views import OCTANTS, VIEWS
from dreamfusion_jax.toybox.world import CATEGORIES, COLOURS, MODIFIERS, Scene, check_known

VIEW_WORDS = tuple(dict.fromkeys((*VIEWS, *OCTANTS)))
"""Every view name of either kind, the four of the paper first."""


class UnknownWordsError(ValueError):
    """A prompt that the toybox grammar cannot read."""


def with_article(words: str) -> str:
    """Puts "a" or "an" before a phrase."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def caption(scene: Scene, view: str | None = None) -> str:
    """Describes a scene: "a red duck wearing a blue top hat, side view"."""
    text = with_article(f"{scene.colour} {scene.category}")
    if scene.modifier is not None:
        before, after = scene.modifier.split("a {}")
        text += f" {before}{with_article(f'{scene.modifier_colour}{after}')}"
    return f"{text}, {view}" if view else text


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The part of the world that a prior was trained on.

    Attributes:
        categories: Names from `CATEGORIES`.
        colours: Names from `COLOURS`.
        modifiers: Templates from `MODIFIERS`.
    """

    categories: tuple[str, ...] = tuple(CATEGORIES)
    colours: tuple[str, ...] = tuple(COLOURS)
    modifiers: tuple[str, ...] = MODIFIERS

    def __post_init__(self) -> None:
        """Names that do not exist raise UnknownNameError."""
        for names, known in (
            (self.categories, CATEGORIES),
            (self.colours, COLOURS),
            (self.modifiers, MODIFIERS),
        ):
            check_known(names, known)

    def words(self) -> set[str]:
        """Every word that a caption of this vocabulary may contain."""
        phrases = (*self.categories, *self.colours, *VIEW_WORDS, *self.modifiers, "a an")
        return {word for phrase in phrases for word in re.findall("[a-z]+", phrase)}

    def scene(self, prompt: str) -> Scene:
        """Reads a prompt of the grammar, with or without articles and a view.

        Raises:
            UnknownWordsError: Empty prompt, unknown words (the message lists the nearest
                known ones), or words in an order that the grammar does not have.
        """
        words = re.findall("[^\\s,]+", prompt.lower())
        if not words:
            raise UnknownWordsError("the prompt is empty; try 'a red mushroom'")
        known = self.words()
        unknown = [word for word in words if word not in known]
        if unknown:
            raise UnknownWordsError(self._complaint(unknown))
        match = re.fullmatch(self._pattern(), " ".join(w for w in words if w not in ("a", "an")))
        if match is None:
            raise UnknownWordsError(
                f"cannot read {prompt!r}: say a colour, then an object"
                + ", then perhaps " * bool(self.modifiers)
                + " or ".join(f"'{m.format('blue')}'" for m in self.modifiers)
            )
        found = match.groupdict()
        for modifier, name in zip(MODIFIERS, ("pedestal", "hat"), strict=True):
            if found.get(name):
                return Scene(found["category"], found["colour"], modifier, found[name])
        return Scene(found["category"], found["colour"])

    def _pattern(self) -> str:
        colours = "|".join(self.colours)
        tails = {
            MODIFIERS[0]: f"on (?P<pedestal>{colours}) pedestal",
            MODIFIERS[1]: f"wearing (?P<hat>{colours}) top hat",
        }
        tail = "".join(f"( {tails[m]})?" for m in self.modifiers[:1])
        if len(self.modifiers) > 1:
            tail = f"( {'| '.join(tails[m] for m in self.modifiers)})?"
        views = "|".join(VIEW_WORDS)
        return f"(?P<colour>{colours}) (?P<category>{'|'.join(self.categories)}){tail}( ({views}))?"

    def _complaint(self, unknown: Sequence[str]) -> str:
        known = sorted(self.words())
        hints = []
        for word in dict.fromkeys(unknown):
            near = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
            hints.append(f"'{word}'" + (f" (nearest: {', '.join(near)})" if near else ""))
        return (
            f"the embedded prior does not know {', '.join(hints)}. "
            f"It knows the objects {', '.join(self.categories)} in {', '.join(self.colours)}. "
            "Open prompts take a pretrained prior such as Stable Diffusion or DeepFloyd IF"
        )


@dataclasses.dataclass(frozen=True)
class CaptionTable:
    """The token ids of every caption of a vocabulary, for drawing captions inside jit.

    Attributes:
        ids: [categories, colours, 1 + modifiers * colours, 1 + views, N] token ids; index 0
            of the third axis is "no modifier", of the fourth "no view named".
        empty: [N] ids of the empty caption, for classifier-free guidance.
    """

    ids: np.ndarray
    empty: np.ndarray


def caption_table(vocabulary: Vocabulary, tokenize) -> CaptionTable:
    """Tokenizes all captions once.

    Args:
        vocabulary: What to enumerate.
        tokenize: Function from a list of texts to ids [len(texts), N].
    """
    extras = [(None, None)]
    extras += [(m, colour) for m in vocabulary.modifiers for colour in vocabulary.colours]
    views = (None, *VIEW_WORDS)
    texts = [
        caption(Scene(category, colour, *extra), view)
        for category in vocabulary.categories
        for colour in vocabulary.colours
        for extra in extras
        for view in views
    ]
    ids = np.asarray(tokenize([*texts, ""]), np.int32)
    shape = (len(vocabulary.categories), len(vocabulary.colours), len(extras), len(views))
    return CaptionTable(ids[:-1].reshape(*shape, -1), ids[-1])

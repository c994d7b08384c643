"""The little grammar of the toybox: scenes to captions and back, and the words it knows.

caption  := (thing | spoilt ["of" thing]) ["," view] ["," height] ["," framing] ["," light]
thing    := article [colour] (category | "toy") [modifier]
modifier := "on" article colour "pedestal" | "wearing" article colour "top hat"
spoilt   := article quality "picture"
view     := "front view" | "side view" | "back view" | "overhead view" | a finer one
height   := "seen from below" | "at eye level" | "seen from above"
framing  := "long shot" | "medium shot" | "close up"
light    := "lit" | "unlit"
quality  := "blurry" | "noisy" | "dark" | "washed out"

Colour, quality, "toy", height, framing and light are for vocabularies that have such words;
the others know only a colour, a category, modifiers and views.
"""

import dataclasses
import difflib
import re
from collections.abc import Sequence

from dreamfusion_jax.scene.views import FRAMINGS, HEIGHTS, OCTANTS, VIEWS
from dreamfusion_jax.toybox.world import CATEGORIES, COLOURS, MODIFIERS, Scene, check_known

VIEW_WORDS = tuple(dict.fromkeys((*VIEWS, *OCTANTS)))
"""Every view name of either kind, the four of the paper first."""


LIGHTS = ("lit", "unlit")
"""Whether a lamp shades the object, or its colours are flat."""

QUALITIES = ("blurry", "noisy", "dark", "washed out")
"""What may be wrong with a picture, said so that it can be asked for, or against."""

NOUNS = ("toy",)
"""Words that fit every category."""


class UnknownWordsError(ValueError):
    """A prompt that the toybox grammar cannot read."""


def with_article(words: str) -> str:
    """Puts "a" or "an" before a phrase."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def caption(scene: Scene, view: str | None = None) -> str:
    """Describes a scene: "a red duck wearing a blue top hat, side view"."""
    said = (scene.category, scene.colour, scene.modifier, scene.modifier_colour)
    return Description(*said, view=view).text


_CLAUSES = ("view", "height", "framing", "light")


@dataclasses.dataclass(frozen=True)
class Description:
    """What a caption says; None for what it leaves open.

    Attributes:
        noun: A category, or one of `NOUNS`; None only for a quality alone.
        colour: Main colour.
        modifier: One of `MODIFIERS`.
        modifier_colour: Colour of the modifier.
        quality: One of `QUALITIES`.
        view: One of `VIEW_WORDS`.
        height: One of `HEIGHTS`.
        framing: One of `FRAMINGS`.
        light: One of `LIGHTS`.
    """

    noun: str | None
    colour: str | None = None
    modifier: str | None = None
    modifier_colour: str | None = None
    quality: str | None = None
    view: str | None = None
    height: str | None = None
    framing: str | None = None
    light: str | None = None

    @property
    def text(self) -> str:
        """The caption: "a blurry picture of a red car, front view, seen from above"."""
        parts = []
        if self.quality:
            parts.append(with_article(f"{self.quality} picture"))
        if self.noun:
            parts.append(with_article(f"{self.colour} {self.noun}" if self.colour else self.noun))
            if self.modifier is not None:
                before, after = self.modifier.split("a {}")
                parts[-1] += f" {before}{with_article(f'{self.modifier_colour}{after}')}"
        clauses = (self.view, self.height, self.framing, self.light)
        return ", ".join([" of ".join(parts), *(clause for clause in clauses if clause)])


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The part of the world, and of its language, that a prior was trained on.

    Attributes:
        categories: Names from `CATEGORIES`.
        colours: Names from `COLOURS`.
        modifiers: Templates from `MODIFIERS`.
        heights: `HEIGHTS`, or nothing; so with the others.
        framings: `FRAMINGS`.
        lights: `LIGHTS`.
        qualities: `QUALITIES`.
        nouns: `NOUNS`; where there are some, a caption may leave the colour out, too.
    """

    categories: tuple[str, ...] = tuple(CATEGORIES)
    colours: tuple[str, ...] = tuple(COLOURS)
    modifiers: tuple[str, ...] = MODIFIERS
    heights: tuple[str, ...] = ()
    framings: tuple[str, ...] = ()
    lights: tuple[str, ...] = ()
    qualities: tuple[str, ...] = ()
    nouns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Names that do not exist raise UnknownNameError."""
        for names, known in (
            (self.categories, CATEGORIES),
            (self.colours, COLOURS),
            (self.modifiers, MODIFIERS),
            (self.heights, HEIGHTS),
            (self.framings, FRAMINGS),
            (self.lights, LIGHTS),
            (self.qualities, QUALITIES),
            (self.nouns, NOUNS),
        ):
            check_known(names, known)

    def words(self) -> set[str]:
        """Every word that a caption of this vocabulary may contain."""
        phrases = [*self.categories, *self.colours, *VIEW_WORDS, *self.modifiers, "a an"]
        phrases += [*self.heights, *self.framings, *self.lights, *self.qualities, *self.nouns]
        phrases += ["picture of"] * bool(self.qualities)
        return {word for phrase in phrases for word in re.findall("[a-z]+", phrase)}

    def scene(self, prompt: str) -> Scene:
        """Reads a prompt that names one object, with or without articles, view and the rest.

        Raises:
            UnknownWordsError: As `read`; or the prompt leaves the category or colour open.
        """
        said = self.read(prompt)
        if said.noun not in self.categories or said.colour is None:
            raise self._unreadable(prompt)
        return Scene(said.noun, said.colour, said.modifier, said.modifier_colour)

    def read(self, prompt: str) -> Description:
        """Reads a prompt of the grammar, with or without articles.

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
        text = " ".join(word for word in words if word not in ("a", "an"))
        spoilt = re.match(f"({'|'.join(self.qualities) or '$.'}) picture( of )?", text)
        alone = spoilt is not None and spoilt[2] is None
        pattern = self._clauses() if alone else self._thing() + self._clauses()
        match = re.fullmatch(pattern, text[spoilt.end() :] if spoilt else text)
        if match is None:
            raise self._unreadable(prompt)
        found = match.groupdict()
        said = {name: found.get(name) for name in ("noun", "colour", *_CLAUSES)}
        said["quality"] = spoilt[1] if spoilt else None
        for modifier, name in zip(MODIFIERS, ("pedestal", "hat"), strict=True):
            if found.get(name):
                said |= {"modifier": modifier, "modifier_colour": found[name]}
        return Description(**said)

    def _thing(self) -> str:
        """A regular expression of objects, without articles."""
        colours = "|".join(self.colours)
        tails = {
            MODIFIERS[0]: f"on (?P<pedestal>{colours}) pedestal",
            MODIFIERS[1]: f"wearing (?P<hat>{colours}) top hat",
        }
        tail = f"( ({'|'.join(tails[m] for m in self.modifiers)}))?" if self.modifiers else ""
        colour = f"((?P<colour>{colours}) )" + "?" * bool(self.nouns)
        return f"{colour}(?P<noun>{'|'.join((*self.categories, *self.nouns))}){tail}"

    def _clauses(self) -> str:
        """A regular expression of what may follow, without commas."""
        phrases = (VIEW_WORDS, self.heights, self.framings, self.lights)
        named = zip(_CLAUSES, phrases, strict=True)
        return "".join(f"( (?P<{name}>{'|'.join(words)}))?" for name, words in named if words)

    def _unreadable(self, prompt: str) -> UnknownWordsError:
        return UnknownWordsError(
            f"cannot read {prompt!r}: say a colour, then an object"
            + ", then perhaps " * bool(self.modifiers)
            + " or ".join(f"'{m.format('blue')}'" for m in self.modifiers)
        )

    def _complaint(self, unknown: Sequence[str]) -> str:
        if not self.heights and set(unknown) <= set(" ".join((*HEIGHTS, *FRAMINGS)).split()):
            return (
                "the embedded prior has no words for the height and the size of a view "
                f"({' '.join(unknown)}): set train.prompts.details to False"
            )
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


WHOLE_WORLD = Vocabulary(
    heights=HEIGHTS, framings=FRAMINGS, lights=LIGHTS, qualities=QUALITIES, nouns=NOUNS
)
"""Everything that can be said."""

"""The judge of the toy world in CLIP's place: how well captions fit pictures."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from dreamfusion_jax.evaluation.judge import SHIPPED, Judge, Params, Verdict, load_judge
from dreamfusion_jax.toybox.captions import (
    WHOLE_WORLD,
    Description,
    UnknownWordsError,
    with_article,
)

Score = Callable[[Float[Array, "B H W 3"]], Float[Array, "B P"]]
"""From pictures to scores of captions; a pytree of the judge's parameters and what is asked."""

_BATCH = 16
"""Pictures that are looked at together."""


@dataclasses.dataclass(frozen=True, eq=False)
class JudgeScorer:
    """A `r_precision.Scorer`.

    A judge that reads gives the log-odds that a caption is true of a picture. One that has
    only answers about classes, or any that is asked about captions without a colour, gives
    log p(category) + log p(colour), and of a judge that knows modifiers, + log p(modifier) +
    log p(its colour): its answers taken for independent. What a caption does not say is not
    asked.

    Attributes:
        judge: The judge.
        params: Its parameters.
    """

    judge: Judge
    params: Params

    @property
    def reads(self) -> bool:
        """Whether it compares pictures with captions, instead of naming classes."""
        return self.judge.config.meeting > 0

    @property
    def name(self) -> str:
        """For tables: which of both it does."""
        return "judge that reads" if self.reads else "judge, category x colour"

    def captions(self, prompts: Sequence[str] = ()) -> list[str]:
        """All of "a colour category" that the judge knows, and those of the prompts."""
        config = self.judge.config
        plain = [with_article(f"{c} {k}") for k in config.categories for c in config.colours]
        return list(dict.fromkeys([*plain, *prompts]))

    def shapes(self, prompts: Sequence[str] = ()) -> list[str]:
        """All of "a category", and those of the prompts: what can be asked without colours."""
        plain = [with_article(category) for category in self.judge.config.categories]
        return list(dict.fromkeys([*plain, *map(shape_of, prompts)]))

    def __call__(
        self, pictures: Float[np.ndarray, "B H W 3"], captions: Sequence[str]
    ) -> Float[np.ndarray, "B P"]:
        """Log-odds or log-probabilities of captions of the toy world.

        Raises:
            ValueError: A caption that the judge cannot read.
        """
        score = self.score_of(captions)
        parts = [
            _scores(score, jax.device_put(pictures[i : i + _BATCH]))
            for i in range(0, len(pictures), _BATCH)
        ]
        return np.concatenate([np.asarray(part) for part in parts])

    def score_of(self, captions: Sequence[str]) -> Score:
        """The function from pictures to scores of these captions; differentiable.

        It may be passed to a compiled function, which then serves any captions of that number.

        Raises:
            ValueError: A caption that the judge cannot read.
        """
        said = [self._description(text) for text in captions]
        # Captions without a colour are none of those it learned to read.
        readable = self.reads and all(description.colour for description in said)
        return self._read(said) if readable else self._name(said)

    def _description(self, text: str) -> Description:
        said, config = read_thing(text), self.judge.config
        if not (
            said
            and said.noun in config.categories
            and said.colour in (None, *config.colours)
            and said.modifier in (None, *config.modifiers)
        ):
            raise ValueError(
                f"the judge cannot tell {text!r}; it knows {', '.join(config.categories)} in "
                f"{', '.join(config.colours)}"
            )
        return said

    def _read(self, said: Sequence[Description]) -> Score:
        ids = self.judge.read([description.text for description in said])
        return Partial(_Reading(self.judge), self.params, ids)

    def _name(self, said: Sequence[Description]) -> Score:
        config = self.judge.config
        modifiers = (None, *config.modifiers)
        asked = _Asked(
            category=np.array([config.categories.index(d.noun or "") for d in said]),
            colour=_places([d.colour for d in said], config.colours),
            modifier=np.array([modifiers.index(d.modifier) for d in said]),
            accent=_places([d.modifier_colour for d in said], config.colours),
        )
        return Partial(_Naming(self.judge), self.params, asked)


@jax.jit
def _scores(score: Score, pictures: Float[Array, "B H W 3"]) -> Float[Array, "B P"]:
    return score(pictures)


@dataclasses.dataclass(frozen=True)
class _Reading:
    """Log-odds that captions, of which the ids are given, are true of pictures."""

    judge: Judge

    def __call__(self, params: Params, ids: Array, pictures: Array) -> Array:
        _, vectors = self.judge.look(params, pictures)
        return self.judge.compare(params, vectors, ids)


class _Asked(NamedTuple):
    """Which answers P captions ask for.

    Attributes:
        category: Places in the list of categories [P].
        colour: Places, and 1 or 0 for whether it is asked.
        modifier: Places in the list that begins with none.
        accent: The modifier's colour, as colour.
    """

    category: Array | np.ndarray
    colour: tuple[Array | np.ndarray, Array | np.ndarray]
    modifier: Array | np.ndarray
    accent: tuple[Array | np.ndarray, Array | np.ndarray]


@dataclasses.dataclass(frozen=True)
class _Naming:
    """Log-probabilities of all that captions say of pictures."""

    judge: Judge

    def __call__(self, params: Params, asked: _Asked, pictures: Array) -> Array:
        logs: Verdict = jax.tree.map(jax.nn.log_softmax, self.judge(params, pictures))
        (colour, hue), (accent, worn) = asked.colour, asked.accent
        total = logs.category[:, asked.category] + hue * logs.colour[:, colour]
        if logs.modifier is None or logs.modifier_colour is None:
            return total
        return total + logs.modifier[:, asked.modifier] + worn * logs.modifier_colour[:, accent]


def _places(names: Sequence[str | None], known: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Where the names are in a list, and [1, P] 1 for a name and 0 for none."""
    places = np.array([known.index(name) if name else 0 for name in names])
    return places, np.array([[name is not None for name in names]], np.float32)


def read_thing(text: str) -> Description | None:
    """What a caption says of an object of the toy world; None if it says other things, or more."""
    try:
        said = WHOLE_WORLD.read(text.strip(" .,"))
    except UnknownWordsError:
        return None
    thing = Description(said.noun, said.colour, said.modifier, said.modifier_colour)
    return said if said == thing else None


def shape_of(prompt: str) -> str:
    """A caption without its colours, which no textureless picture tells: "a car".

    Raises:
        ValueError: It does not name an object of the toy world.
    """
    said = read_thing(prompt)
    if said is None or said.noun is None:
        raise ValueError(f"{prompt!r} names no object of the toy world")
    return with_article(said.noun)


def load_scorer(folder: Path = SHIPPED) -> JudgeScorer:
    """The judge in a folder.

    Raises:
        FileNotFoundError: There is no judge in the folder.
        ValueError: Its parameters do not fit its configuration.
    """
    return JudgeScorer(*load_judge(folder))

"""The judge of the toy world in CLIP's place: how well captions fit pictures."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dreamfusion_jax.evaluation.judge import SHIPPED, Judge, Params, Verdict, load_judge
from dreamfusion_jax.toybox.captions import (
    WHOLE_WORLD,
    Description,
    UnknownWordsError,
    with_article,
)

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
        score = jax.jit(self.score_of(captions))
        parts = [
            score(jnp.asarray(pictures[i : i + _BATCH])) for i in range(0, len(pictures), _BATCH)
        ]
        return np.concatenate([np.asarray(part) for part in parts])

    def score_of(
        self, captions: Sequence[str]
    ) -> Callable[[Float[Array, "B H W 3"]], Float[Array, "B P"]]:
        """The function from pictures to scores of these captions; differentiable.

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

    def _read(self, said: Sequence[Description]):
        ids = jnp.asarray(self.judge.read([description.text for description in said]))

        def score(pictures: Array) -> Array:
            _, vectors = self.judge.look(self.params, pictures)
            return self.judge.compare(self.params, vectors, ids)

        return score

    def _name(self, said: Sequence[Description]):
        config = self.judge.config
        modifiers = (None, *config.modifiers)
        category = jnp.array([config.categories.index(d.noun or "") for d in said])
        colour, hue = _places([d.colour for d in said], config.colours)
        accent, worn = _places([d.modifier_colour for d in said], config.colours)
        modifier = jnp.array([modifiers.index(d.modifier) for d in said])

        def score(pictures: Array) -> Array:
            logs: Verdict = jax.tree.map(jax.nn.log_softmax, self.judge(self.params, pictures))
            total = logs.category[:, category] + hue * logs.colour[:, colour]
            if logs.modifier is None or logs.modifier_colour is None:
                return total
            return total + logs.modifier[:, modifier] + worn * logs.modifier_colour[:, accent]

        return score


def _places(names: Sequence[str | None], known: Sequence[str]) -> tuple[Array, Array]:
    """Where the names are in a list, and [1, P] 1 for a name and 0 for none."""
    places = jnp.array([known.index(name) if name else 0 for name in names])
    return places, jnp.array([[float(name is not None) for name in names]])


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

"""A prior between its configuration and its weights.

So much is known of it before gigabytes are read or downloaded that a run can be judged: what a
step asks for, in time and in memory.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dreamfusion_jax.priors.prior import Prior, PriorParams, encode_with
from dreamfusion_jax.priors.prompts import PromptConfig, Text

Say = Callable[[str], None]
"""Is told what phase a program is in."""


@dataclasses.dataclass(frozen=True, eq=False)
class OpenedPrior:
    """A prior whose configuration has been read, and whose weights wait.

    Attributes:
        prior: The diffusion model.
        shapes: Of its parameters: `jax.ShapeDtypeStruct` in their place.
        embed: Gives arrays of the shapes of the texts' embeddings; what is in them means nothing.
        text_params: What the prior needs of its parameters to encode texts.
        read: Reads the parameters, and says so.
    """

    prior: Prior
    shapes: PriorParams
    embed: Callable[[Sequence[str]], Any]
    text_params: PriorParams
    read: Callable[[Say], PriorParams]

    @classmethod
    def whole(cls, prior: Prior, params: PriorParams) -> "OpenedPrior":
        """One whose parameters are in memory."""
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
        embed = functools.partial(prior.encode_text, params)
        return cls(prior, shapes, embed, params, lambda say: params)

    def text_shapes(self, prompt: str, config: PromptConfig, negative: str = "") -> Text:
        """Shapes of a run's encoded prompts."""
        encode = functools.partial(encode_with, self.embed, prompt, config, negative)
        return jax.eval_shape(encode)


def blank_embeddings(tokens: int, width: int) -> Callable[[Sequence[str]], Any]:
    """Embeddings of that shape, for `OpenedPrior.embed`."""
    return lambda texts: jnp.zeros((len(texts), tokens, width))

"""View-dependent prompts: the text follows the camera (DreamFusion, section 3.2)."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dreamfusion_jax.camera import VIEWS, Camera, view_index, view_weights
from dreamfusion_jax.pytree import pytree


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    """How the prompt follows the camera.

    Attributes:
        views: "nearest" takes the text of the nearest view, "interpolate" mixes the
            embeddings of neighbouring views, "none" ignores the camera.
    """

    views: Literal["nearest", "interpolate", "none"] = "nearest"


@pytree
class Text:
    """Encoded prompts.

    Attributes:
        views: Embeddings of the prompt with each of `VIEWS` appended.
        plain: Embedding of the prompt itself.
        unconditional: Embedding of the empty or negative prompt.
    """

    views: Float[Array, "4 N D"]
    plain: Float[Array, "N D"]
    unconditional: Float[Array, "N D"]


def view_prompts(prompt: str) -> tuple[str, ...]:
    """The prompt with each view name appended, in the order of `VIEWS`."""
    return tuple(f"{prompt}, {view}" for view in VIEWS)


def text_for(text: Text, camera: Camera, config: PromptConfig) -> Float[Array, "*batch N D"]:
    """The embedding that fits each camera [*batch].

    Args:
        text: Encoded prompts.
        camera: Where each view is taken from.
        config: Nearest, interpolated or none.
    """
    azimuth, elevation = camera.azimuth, camera.elevation
    if config.views == "none":
        return jnp.broadcast_to(text.plain, (*azimuth.shape, *text.plain.shape))
    if config.views == "nearest":
        return text.views[view_index(azimuth, elevation)]
    weights = view_weights(azimuth, elevation)
    full = jax.lax.Precision.HIGHEST
    return jnp.einsum("...v,vnd->...nd", weights, text.views, precision=full)

"""View-dependent prompts: the text follows the camera (DreamFusion, section 3.2)."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.scene.camera import Camera
from dreamfusion_jax.scene.views import OCTANTS, VIEWS, octant_index, view_index, view_weights


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    """How the prompt follows the camera.

    Attributes:
        views: "nearest" takes the text of the nearest of the paper's four views,
            "interpolate" mixes the embeddings of neighbouring ones, "none" ignores the
            camera. Departure: "octants" takes the nearest of eight azimuths or overhead.
    """

    views: Literal["nearest", "interpolate", "octants", "none"] = "nearest"

    @property
    def names(self) -> tuple[str, ...]:
        """The view names that prompts are encoded with."""
        return (*OCTANTS, VIEWS[3]) if self.views == "octants" else VIEWS


@pytree
class Text:
    """Encoded prompts.

    Attributes:
        views: Embeddings of the prompt with each of `PromptConfig.names` appended.
        plain: Embedding of the prompt itself.
        unconditional: Embedding of the empty or negative prompt.
    """

    views: Float[Array, "K N D"]
    plain: Float[Array, "N D"]
    unconditional: Float[Array, "N D"]


def view_prompts(prompt: str, config: PromptConfig) -> tuple[str, ...]:
    """The prompt with each view name appended, in the order of `config.names`."""
    return tuple(f"{prompt}, {view}" for view in config.names)


def text_for(text: Text, camera: Camera, config: PromptConfig) -> Float[Array, "*batch N D"]:
    """The embedding that fits each camera [*batch].

    Args:
        text: Encoded prompts, with the views of the same `config`.
        camera: Where each view is taken from.
        config: How the prompt follows the camera.
    """
    azimuth, elevation = camera.azimuth, camera.elevation
    match config.views:
        case "none":
            return jnp.broadcast_to(text.plain, (*azimuth.shape, *text.plain.shape))
        case "nearest":
            return text.views[view_index(azimuth, elevation)]
        case "octants":
            overhead = view_index(azimuth, elevation) == VIEWS.index("overhead view")
            return text.views[jnp.where(overhead, len(OCTANTS), octant_index(azimuth))]
        case "interpolate":
            weights = view_weights(azimuth, elevation)
            full = jax.lax.Precision.HIGHEST
            return jnp.einsum("...v,vnd->...nd", weights, text.views, precision=full)

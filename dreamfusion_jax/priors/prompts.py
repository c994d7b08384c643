"""View-dependent prompts: the text follows the camera (DreamFusion, section 3.2)."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.scene.camera import (
    FRAMINGS,
    HEIGHTS,
    OCTANTS,
    VIEWS,
    Camera,
    framing_index,
    height_index,
    octant_index,
    view_index,
    view_weights,
)


@dataclasses.dataclass(frozen=True)
class PromptConfig:
    """How the prompt follows the camera.

    Attributes:
        views: "nearest" takes the text of the nearest of the paper's four views,
            "interpolate" mixes the embeddings of neighbouring ones, "none" ignores the
            camera. Departure: "octants" takes the nearest of eight azimuths or overhead.
        details: Whether height and apparent size of the view are said, too, of a prior that
            knows such words (`camera.HEIGHTS`, `camera.FRAMINGS`).

    Raises:
        ValueError: Details where the views are not named one at a time.
    """

    views: Literal["nearest", "interpolate", "octants", "none"] = "nearest"
    details: bool = False

    def __post_init__(self) -> None:
        """Refuses details of views that are mixed or not named."""
        if self.details and self.views not in ("nearest", "octants"):
            raise ValueError(f"details go with nearest views or octants, not with {self.views!r}")

    @property
    def names(self) -> tuple[str, ...]:
        """The view names that prompts are encoded with."""
        views = (*OCTANTS, VIEWS[3]) if self.views == "octants" else VIEWS
        if not self.details:
            return views
        # Overhead is a height of its own; its names are repeated so that all views have as many.
        return tuple(
            ", ".join((view, framing) if view == VIEWS[3] else (view, height, framing))
            for view in views
            for height in HEIGHTS
            for framing in FRAMINGS
        )


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
            return text.views[_named(view_index(azimuth, elevation), camera, config)]
        case "octants":
            overhead = view_index(azimuth, elevation) == VIEWS.index("overhead view")
            side = jnp.where(overhead, len(OCTANTS), octant_index(azimuth))
            return text.views[_named(side, camera, config)]
        case "interpolate":
            weights = view_weights(azimuth, elevation)
            full = jax.lax.Precision.HIGHEST
            return jnp.einsum("...v,vnd->...nd", weights, text.views, precision=full)


def _named(
    view: Int[Array, "*batch"], camera: Camera, config: PromptConfig
) -> Int[Array, "*batch"]:
    """Index into `config.names` for a view and, with details, the camera's height and size."""
    if not config.details:
        return view
    size = camera.focal / camera.distance
    detail = height_index(camera.elevation) * len(FRAMINGS) + framing_index(size)
    return view * (len(HEIGHTS) * len(FRAMINGS)) + detail

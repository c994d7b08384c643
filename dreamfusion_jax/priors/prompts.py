"""View-dependent prompts: the text follows the camera (DreamFusion, section 3.2)."""

import dataclasses
import operator
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree, Shaped

from dreamfusion_jax.pytree import pytree
from dreamfusion_jax.scene.camera import Camera
from dreamfusion_jax.scene.views import (
    FRAMINGS,
    HEIGHTS,
    OCTANTS,
    VIEWS,
    framing_index,
    front_side_weights,
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
            camera. Departure: "octants" takes the nearest of eight azimuths or overhead;
            "perp-neg" mixes as "interpolate" does and leads away from the views that the prior
            likes too well (2304.04968), at twice the cost of a step.
        details: Whether height and apparent size of the view are said, too, of a prior that
            knows such words (`views.HEIGHTS`, `views.FRAMINGS`); only where views are named one
            at a time, by "nearest" or "octants".
    """

    views: Literal["nearest", "interpolate", "octants", "perp-neg", "none"] = "nearest"
    details: bool = False

    @property
    def detailed(self) -> bool:
        """Whether names of views have details."""
        return self.details and self.views in ("nearest", "octants")

    @property
    def names(self) -> tuple[str, ...]:
        """The view names that prompts are encoded with."""
        views = (*OCTANTS, VIEWS[3]) if self.views == "octants" else VIEWS
        if not self.detailed:
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

    An embedding is whatever pytree the prior's encoders give: one array, or several where
    there is more than one encoder, or a pooled vector beside the words.

    Attributes:
        views: Embeddings of the prompt with each of `PromptConfig.names` appended, along the
            leading axis of every leaf.
        plain: Embedding of the prompt itself.
        unconditional: Embedding of the empty or negative prompt.
    """

    views: PyTree[Shaped[Array, "K ..."]]
    plain: PyTree[Shaped[Array, "..."]]
    unconditional: PyTree[Shaped[Array, "..."]]


def view_prompts(prompt: str, config: PromptConfig) -> tuple[str, ...]:
    """The prompt with each view name appended, in the order of `config.names`."""
    return tuple(f"{prompt}, {view}" for view in config.names)


def text_for(text: Text, camera: Camera, config: PromptConfig) -> PyTree[Shaped[Array, "V ..."]]:
    """The embedding that fits each camera [V].

    Args:
        text: Encoded prompts, with the views of the same `config`.
        camera: Where each view is taken from.
        config: How the prompt follows the camera.
    """
    azimuth, elevation = camera.azimuth, camera.elevation
    match config.views:
        case "none":
            return jax.tree.map(
                lambda plain: jnp.broadcast_to(plain, (*azimuth.shape, *plain.shape)), text.plain
            )
        case "nearest":
            index = _named(view_index(azimuth, elevation), camera, config)
        case "octants":
            overhead = view_index(azimuth, elevation) == VIEWS.index("overhead view")
            side = jnp.where(overhead, len(OCTANTS), octant_index(azimuth))
            index = _named(side, camera, config)
        case "interpolate" | "perp-neg":
            weights = view_weights(azimuth, elevation)
            full = jax.lax.Precision.HIGHEST
            return jax.tree.map(
                lambda views: jnp.tensordot(weights, views, axes=1, precision=full), text.views
            )
    return jax.tree.map(lambda views: views[index], text.views)


def negatives_for(
    text: Text, camera: Camera, config: PromptConfig
) -> tuple[tuple[PyTree[Shaped[Array, "..."]], ...], tuple[Float[Array, "V"], ...]]:
    """Embeddings that lead away from the wrong sides, and how much each counts for each camera.

    There are none but for "perp-neg", which takes the front and the side (`front_side_weights`).
    """
    if config.views != "perp-neg":
        return (), ()
    front, side = (
        jax.tree.map(operator.itemgetter(VIEWS.index(f"{name} view")), text.views)
        for name in ("front", "side")
    )
    weights = front_side_weights(camera.azimuth, camera.elevation)
    return (front, side), (weights[..., 0], weights[..., 1])


def _named(
    view: Int[Array, "*batch"], camera: Camera, config: PromptConfig
) -> Int[Array, "*batch"]:
    """Index into `config.names` for a view and, with details, the camera's height and size."""
    if not config.detailed:
        return view
    size = camera.focal / camera.distance
    detail = height_index(camera.elevation) * len(FRAMINGS) + framing_index(size)
    return view * (len(HEIGHTS) * len(FRAMINGS)) + detail

"""What rays see of a scene, whoever drew it, and the pictures that are made of it."""

from typing import Literal

import numpy as np
from jaxtyping import Array, Float

from dreamfusion_jax.looks.media import to_uint8
from dreamfusion_jax.pytree import pytree

Kind = Literal["shaded", "albedo", "textureless", "normals", "depth"]
"""How a picture is painted."""

BACKDROP = 0.92
"""Grey behind the object."""

FAR = 100.0
"""Where nothing is seen, world units: the depth of the backdrop."""


@pytree
class Seen:
    """Sums along rays [*batch], premultiplied by opacity; no backdrop.

    Attributes:
        albedo: Colour without light.
        colour: Lit colour.
        light: Light on a white surface.
        normal: World frame.
        opacity: Sum of the weights.
        depth: Expected distance from the camera.
    """

    albedo: Float[Array | np.ndarray, "*batch 3"]
    colour: Float[Array | np.ndarray, "*batch 3"]
    light: Float[Array | np.ndarray, "*batch"]
    normal: Float[Array | np.ndarray, "*batch 3"]
    opacity: Float[Array | np.ndarray, "*batch"]
    depth: Float[Array | np.ndarray, "*batch"]


def paint(seen: Seen, kind: Kind, span: tuple[float, float]) -> np.ndarray:
    """A picture [H, W, 3] in bytes, over a plain backdrop.

    Args:
        seen: Of every pixel [H, W].
        kind: What to paint.
        span: Nearest and farthest depth: white and black in a picture of depth.
    """
    opacity = np.asarray(seen.opacity)[..., None]
    match kind:
        case "shaded":
            front = np.asarray(seen.colour)
        case "albedo":
            front = np.asarray(seen.albedo)
        case "textureless":
            front = np.asarray(seen.light)[..., None]
        case "normals":
            front = 0.5 * np.asarray(seen.normal) + 0.5 * opacity
        case "depth":
            near, far = span
            share = (far - np.asarray(seen.depth)[..., None]) / (far - near)
            front = opacity * np.clip(share, 0.0, 1.0)
    return to_uint8(np.broadcast_to(front + (1.0 - opacity) * BACKDROP, (*opacity.shape[:2], 3)))

"""What is behind a composed scene: a colour, a panorama, or nothing."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from dreamfusion_jax.compose.environment import look_up
from dreamfusion_jax.compose.render import Seen
from dreamfusion_jax.scene.camera import Camera, cast_rays


def over(seen: Seen, behind: Float[Array, "H W 3"]) -> Float[np.ndarray, "H W 3"]:
    """A view over a picture; what is brighter than white is white."""
    colour = seen.colour + (1.0 - seen.opacity[..., None]) * behind
    return np.asarray(jnp.clip(colour, 0.0, 1.0))


def over_colour(seen: Seen, colour: tuple[float, float, float]) -> Float[np.ndarray, "H W 3"]:
    """A view over one colour."""
    return over(seen, jnp.broadcast_to(jnp.asarray(colour), seen.colour.shape))


def over_panorama(
    seen: Seen, camera: Camera, panorama: Float[np.ndarray, "h w 3"]
) -> Float[np.ndarray, "H W 3"]:
    """A view over what its camera sees of a panorama."""
    height, width = seen.opacity.shape
    direction = cast_rays(camera, height, width).direction
    return over(seen, look_up(jnp.asarray(panorama), direction))


def with_opacity(seen: Seen) -> Float[np.ndarray, "H W 4"]:
    """A view over nothing: its colours, not premultiplied, and its opacity."""
    opacity = np.clip(np.asarray(seen.opacity)[..., None], 0.0, 1.0)
    colour = np.asarray(seen.colour) / np.maximum(opacity, 1e-6)
    return np.concatenate([np.clip(colour, 0.0, 1.0), opacity], axis=-1)

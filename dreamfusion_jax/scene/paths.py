"""Ways of the camera around a scene."""

import math

import jax.numpy as jnp

from dreamfusion_jax.scene.camera import Camera, from_angles, look_at


def spiral(
    num_views: int,
    elevations: tuple[float, float],
    distance: float,
    focal: float,
    turns: float = 2.0,
    azimuth: float = 0.0,
) -> Camera:
    """Cameras [V] that face the origin and rise, or sink, as they go around z.

    Args:
        num_views: At least one; the last has arrived at the second elevation.
        elevations: First and last, radians.
        distance: From the origin.
        focal: Focal length in image widths.
        turns: Times around.
        azimuth: Of the first, radians.
    """
    share = jnp.linspace(0.0, 1.0, num_views)
    low, high = elevations
    azimuths = azimuth + 2 * math.pi * turns * share
    heights = low + (high - low) * share
    position = from_angles(azimuths, heights, jnp.full_like(share, distance))
    # The direction of rising elevation: unlike z it also serves as up at the pole.
    up = from_angles(azimuths, heights + math.pi / 2, jnp.ones_like(share))
    return Camera(
        position,
        look_at(position, jnp.zeros_like(position), up),
        focal=jnp.full_like(share, focal),
    )

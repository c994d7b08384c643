"""Cameras and rays.

The world is right-handed with z up; azimuth 0 is +x, the front of an object. A camera
looks along its own -z with y up and x to the right (OpenGL). Angles are in radians.
"""

import dataclasses
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key, ScalarLike

from dreamfusion_jax import draws
from dreamfusion_jax.checks import (
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Range,
    check_range,
    check_span,
)
from dreamfusion_jax.maths import expand_to, safe_norm, safe_normalize
from dreamfusion_jax.pytree import pytree


@pytree
class Camera:
    """Pinhole cameras with square pixels and the principal point in the middle.

    Attributes:
        position: Where the camera stands, in world units.
        rotation: Camera to world; the columns are the camera's right, up and back.
        focal: Focal length in units of the image width.
    """

    position: Float[Array, "*batch 3"]
    rotation: Float[Array, "*batch 3 3"]
    focal: Float[Array, "*batch"]

    @property
    def azimuth(self) -> Float[Array, "*batch"]:
        """Angle of the position around z from +x, in [-pi, pi]."""
        return jnp.arctan2(self.position[..., 1], self.position[..., 0])

    @property
    def elevation(self) -> Float[Array, "*batch"]:
        """Angle of the position above the plane z = 0, in [-pi/2, pi/2]."""
        x, y, z = jnp.moveaxis(self.position, -1, 0)
        return jnp.arctan2(z, jnp.hypot(x, y))

    @property
    def distance(self) -> Float[Array, "*batch"]:
        """Distance of the position from the origin of the world."""
        return safe_norm(self.position)[..., 0]


@pytree
class Rays:
    """Half-lines origin + s * direction, s >= 0, with directions of unit length."""

    origin: Float[Array, "*batch 3"]
    direction: Float[Array, "*batch 3"]


@dataclasses.dataclass(frozen=True)
class CameraConfig:
    """Distribution of the training cameras (DreamFusion, section 3.2 and appendix A.2).

    Departure: the paper writes N(0, 0.2 I) and N(0, 0.02 I), which names covariances, but with
    standard deviations of 0.447 and 0.141 the origin leaves the frame in a third of the views.
    So 0.2 and 0.02 are taken for standard deviations, as threestudio and stable-dreamfusion do;
    `gaussians="variance"` is the paper at its word.

    Attributes:
        elevation: Lowest and highest elevation, degrees.
        area_probability: Share of cameras that are uniform in area instead of in angle.
        distance: Smallest and largest distance from the origin.
        position_jitter: Half the side of the cube of uniform offsets of the position.
        look_at_std: Spread of the looked-at point around the origin; see `gaussians`.
        up_std: Spread of the up vector around +z; see `gaussians`.
        gaussians: Whether the two spreads are variances or standard deviations.
        focal: Smallest and largest focal length in image widths.
        relative: Whether distances are multiples of 2 f, f the focal length, so that a
            picture is as wide as twice the distance's number whatever the perspective (MVDream,
            2308.16512, in threestudio's settings).

    Raises:
        SettingError: An angle, a distance or a focal length is impossible or not in order, the
            share is not within [0, 1], or a spread is negative.
    """

    elevation: tuple[float, float] = (-10.0, 90.0)
    area_probability: float = 0.5
    distance: tuple[float, float] = (1.0, 1.5)
    position_jitter: float = 0.1
    look_at_std: float = 0.2
    up_std: float = 0.02
    gaussians: Literal["variance", "std"] = "std"
    focal: tuple[float, float] = (0.7, 1.35)
    relative: bool = False

    def __post_init__(self) -> None:
        check_span(self, Range(-90.0, 90.0), "elevation")
        check_range(self, SHARE, "area_probability")
        check_span(self, POSITIVE, "distance", "focal")
        check_range(self, NOT_NEGATIVE, "position_jitter", "look_at_std", "up_std")


@functools.partial(jax.jit, inline=True)
def from_angles(
    azimuth: Float[Array, "*batch"],
    elevation: Float[Array, "*batch"],
    distance: Float[Array, "*batch"],
) -> Float[Array, "*batch 3"]:
    """Position at an azimuth, an elevation and a distance from the origin."""
    flat = distance * jnp.cos(elevation)
    return jnp.stack(
        [flat * jnp.cos(azimuth), flat * jnp.sin(azimuth), distance * jnp.sin(elevation)], axis=-1
    )


@functools.partial(jax.jit, inline=True)
def look_at(
    position: Float[Array, "*batch 3"],
    target: Float[Array, "*batch 3"],
    up: Float[Array, "*batch 3"],
) -> Float[Array, "*batch 3 3"]:
    """Camera-to-world rotation with columns right, up, back of a camera that faces `target`.

    Where `up` is parallel to the line of sight, a coordinate axis stands in for it; a
    camera straight above the origin then has -x at the top, as if it had come over the
    front.
    """
    back = safe_normalize(position - target)
    axis = -jax.nn.one_hot(jnp.argmin(jnp.abs(back), axis=-1), 3, dtype=back.dtype)
    side = jnp.cross(safe_normalize(up), back)
    right = safe_normalize(jnp.where(safe_norm(side) < 1e-6, jnp.cross(axis, back), side))
    return jnp.stack([right, jnp.cross(back, right), back], axis=-1)


@functools.partial(jax.jit, static_argnames=("height", "width"), inline=True)
def cast_rays(camera: Camera, height: int, width: int) -> Rays:
    """Rays through the pixel centres; a camera [*batch] gives rays [*batch, H, W, 3].

    Row 0 is the top of the image. A pixel is 1 / width image widths wide and high.
    """
    return pixel_rays(camera, jnp.arange(width), jnp.arange(height)[:, None], height, width)


def pixel_rays(
    camera: Camera,
    column: Int[Array, "*#pixels"],
    row: Int[Array, "*#pixels"],
    height: ScalarLike,
    width: ScalarLike,
) -> Rays:
    """Rays through the centres of some pixels of an image: [*batch, *pixels]."""
    column, row, height, width = (jnp.asarray(x, jnp.float32) for x in (column, row, height, width))
    x = (column + 0.5 - width / 2) / width
    y = (height / 2 - row - 0.5) / width
    batch, pixels = camera.focal.shape, jnp.broadcast_shapes(x.shape, y.shape)
    x, y = (jnp.broadcast_to(axis, pixels).reshape(-1) for axis in (x, y))
    plane = (*batch, math.prod(pixels))
    through = [jnp.broadcast_to(axis, plane) for axis in (x, y, -camera.focal[..., None])]
    # In full precision: accelerators would round the products to TF32 or bfloat16.
    direction = jnp.einsum(
        "...ij,...pj->...pi",
        camera.rotation,
        jnp.stack(through, axis=-1),
        precision=jax.lax.Precision.HIGHEST,
    ).reshape(*batch, *pixels, 3)
    origin = jnp.broadcast_to(expand_to(camera.position, direction.ndim, tail=1), direction.shape)
    return Rays(origin, safe_normalize(direction))


def sample_camera(key: Key[Array, ""], config: CameraConfig) -> Camera:
    """One random training camera (DreamFusion, appendix A.2); `vmap` over keys for more.

    Cameras uniform in area lie on the upper half-sphere, so that only those uniform in
    angle look from below the horizon.
    """
    elevation, *others = jax.random.split(key, 7)
    drawn = draws.rows(jnp.stack([*others, *jax.random.split(elevation, 3)]), 3)
    azimuth, distance, shift, aim, tilt, focal, *angles = drawn
    focal = draws.between(focal[0], *config.focal)
    distance = draws.between(distance[0], *config.distance)
    position = from_angles(
        draws.between(azimuth[0], -jnp.pi, jnp.pi),
        _elevation(*(row[0] for row in angles), config=config),
        distance * 2.0 * focal if config.relative else distance,
    )
    position += draws.between(shift, -config.position_jitter, config.position_jitter)
    power = {"variance": 0.5, "std": 1.0}[config.gaussians]
    target = config.look_at_std**power * draws.gaussian(aim)
    up = config.up_std**power * draws.gaussian(tilt) + jnp.array([0.0, 0.0, 1.0])
    return Camera(position, look_at(position, target, up), focal)


def around(camera: Camera, count: int) -> Camera:
    """Each camera [B], and after it those that stand evenly around z with it: [B * count]."""
    if count == 1:
        return camera
    angle = 2 * jnp.pi * jnp.arange(0.0, count) / count
    cos, sin, zero, one = jnp.cos(angle), jnp.sin(angle), 0.0 * angle, 1.0 + 0.0 * angle
    rows = [[cos, -sin, zero], [sin, cos, zero], [zero, zero, one]]
    turn = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
    full = jax.lax.Precision.HIGHEST
    return Camera(
        jnp.einsum("gij,bj->bgi", turn, camera.position, precision=full).reshape(-1, 3),
        jnp.einsum("gij,bjk->bgik", turn, camera.rotation, precision=full).reshape(-1, 3, 3),
        jnp.repeat(camera.focal, count),
    )


def _elevation(
    choice: Float[Array, ""],
    angle: Float[Array, ""],
    area: Float[Array, ""],
    *,
    config: CameraConfig,
) -> Float[Array, ""]:
    """Elevation uniform in angle or, with `area_probability`, in area, of numbers in [0, 1)."""
    low, high = jnp.deg2rad(jnp.array(config.elevation))
    in_angle = draws.between(angle, low, high)
    # The area of a zone of the sphere is proportional to its height, sin(elevation).
    # A range that is all below the horizon has no part in the half-sphere: take it whole.
    lowest = jnp.where(high > 0, jnp.maximum(low, 0.0), low)
    in_area = jnp.arcsin(draws.between(area, jnp.sin(lowest), jnp.sin(high)))
    return jnp.where(choice < config.area_probability, in_area, in_angle)


@functools.partial(jax.jit, static_argnames="num_views")
def orbit(
    num_views: int,
    elevation: ScalarLike,
    distance: ScalarLike,
    focal: ScalarLike,
    azimuth: ScalarLike = 0.0,
) -> Camera:
    """Cameras [V] that face the origin, evenly around z from a start azimuth (radians)."""
    azimuths = jnp.asarray(azimuth) + 2 * jnp.pi * jnp.arange(0.0, num_views) / num_views
    elevations = jnp.full_like(azimuths, elevation)
    position = from_angles(azimuths, elevations, jnp.full_like(azimuths, distance))
    # The direction of rising elevation: unlike z it also serves as up at the pole.
    up = from_angles(azimuths, elevations + jnp.pi / 2, jnp.ones_like(azimuths))
    return Camera(
        position,
        look_at(position, jnp.zeros_like(position), up),
        focal=jnp.full_like(azimuths, focal),
    )


def sphere_bounds(
    rays: Rays, radius: ScalarLike
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Distances at which rays enter and leave the sphere around the origin.

    Both are at least 0, so `near` is 0 for an origin inside. Where a ray misses the
    sphere, near = far = the distance of its closest approach: an empty interval.
    """
    closest = -jnp.sum(rays.origin * rays.direction, axis=-1)
    miss = rays.origin + closest[..., None] * rays.direction
    squared = radius**2 - jnp.sum(miss**2, axis=-1)
    hits = squared > 0
    half = jnp.where(hits, jnp.sqrt(jnp.where(hits, squared, 1.0)), 0.0)
    return jnp.maximum(closest - half, 0.0), jnp.maximum(closest + half, 0.0)

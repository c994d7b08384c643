"""Signed distance functions of simple solids, and what the objects are built from.

A point is a tuple of three arrays `(x, y, z)` kept apart, not one array with a last
axis of three: XLA then fuses a whole scene into one elementwise kernel, which on a CPU
is ten times faster. Distances are exact or lower bounds, negative inside, so that
sphere tracing never steps through a surface. Lengths are world units; a scene fits
in a ball of radius `SCENE_RADIUS` at the origin. z is up and +x is the front.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

Vector = tuple[float, float, float]
Point = tuple[jax.Array, jax.Array, jax.Array]

SCENE_RADIUS = 0.6


class Material(NamedTuple):
    """Albedo = main * main colour + accent * modifier colour + (red, green, blue).

    Being linear in the two colours, one render serves every colour.
    """

    main: float = 0.0
    accent: float = 0.0
    red: float = 0.0
    green: float = 0.0
    blue: float = 0.0


class Part(NamedTuple):
    """A solid (its signed distance at the queried points) of one material."""

    distance: jax.Array
    material: Material


def fixed(red: float, green: float, blue: float) -> Material:
    """A material whose colour does not depend on the caption."""
    return Material(0.0, 0.0, red, green, blue)


MAIN = Material(main=1.0)
SHADE = Material(main=0.55)
ACCENT = Material(accent=1.0)
WHITE = fixed(0.92, 0.92, 0.92)
BLACK = fixed(0.06, 0.06, 0.07)
STEEL = fixed(0.55, 0.57, 0.60)
WOOD = fixed(0.45, 0.28, 0.14)
GLASS = fixed(0.20, 0.32, 0.42)
ORANGE = fixed(0.95, 0.50, 0.08)
GOLD = fixed(0.95, 0.80, 0.25)
LEAF = fixed(0.16, 0.48, 0.16)
DOUGH = fixed(0.80, 0.58, 0.32)


def shift(p: Point, offset: Vector) -> Point:
    """The point in the frame of a solid moved by `offset`."""
    return p[0] - offset[0], p[1] - offset[1], p[2] - offset[2]


def mirror_y(p: Point) -> Point:
    """Folds space so that a solid placed at y > 0 appears at both sides."""
    return p[0], jnp.abs(p[1]), p[2]


def mirror_xy(p: Point) -> Point:
    """Folds space so that a solid at x, y > 0 appears in all four quadrants."""
    return jnp.abs(p[0]), jnp.abs(p[1]), p[2]


def turn(p: Point, degrees: float, axis: str) -> Point:
    """The point in the frame of a solid turned by `degrees` about an axis (right hand)."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y, z = p
    if axis == "x":
        return x, c * y + s * z, c * z - s * y
    if axis == "y":
        return c * x - s * z, y, c * z + s * x
    return c * x + s * y, c * y - s * x, z


def ring(p: Point, count: int) -> Point:
    """Folds the azimuth so that a solid placed at +x appears `count` times about z."""
    sector = 2 * math.pi / count
    azimuth = jnp.arctan2(p[1], p[0])
    azimuth = azimuth - sector * jnp.round(azimuth / sector)
    radius = _length(p[0], p[1])
    return radius * jnp.cos(azimuth), radius * jnp.sin(azimuth), p[2]


def _length(*components: jax.Array) -> jax.Array:
    # The offset keeps the gradient finite at the origin and moves surfaces by 1e-6.
    return jnp.sqrt(sum(c * c for c in components) + 1e-12)


def sphere(p: Point, centre: Vector, radius: float) -> jax.Array:
    """Distance to a ball."""
    return _length(*shift(p, centre)) - radius


def ellipsoid(p: Point, centre: Vector, radii: Vector) -> jax.Array:
    """A lower bound of the distance to an ellipsoid with axes along x, y, z."""
    scaled = [c / r for c, r in zip(shift(p, centre), radii, strict=True)]
    return (_length(*scaled) - 1.0) * min(radii)


def box(p: Point, centre: Vector, half: Vector, rounding: float = 0.0) -> jax.Array:
    """Distance to a box of half sizes `half`, edges rounded by `rounding` inside it."""
    q = [jnp.abs(c) - (h - rounding) for c, h in zip(shift(p, centre), half, strict=True)]
    outside = _length(*(jnp.maximum(c, 0.0) for c in q))
    inside = jnp.minimum(jnp.maximum(jnp.maximum(q[0], q[1]), q[2]), 0.0)
    return outside + inside - rounding


def _along(p: Point, axis: str) -> tuple[jax.Array, jax.Array]:
    """Distance from a coordinate axis and position along it."""
    x, y, z = p
    if axis == "x":
        return _length(y, z), x
    if axis == "y":
        return _length(x, z), y
    return _length(x, y), z


def cylinder(
    p: Point,
    centre: Vector,
    radius: float,
    half_height: float,
    axis: str = "z",
    rounding: float = 0.0,
) -> jax.Array:
    """Distance to a capped cylinder along a coordinate axis."""
    radial, height = _along(shift(p, centre), axis)
    a = radial - (radius - rounding)
    b = jnp.abs(height) - (half_height - rounding)
    outside = _length(jnp.maximum(a, 0.0), jnp.maximum(b, 0.0))
    return outside + jnp.minimum(jnp.maximum(a, b), 0.0) - rounding


def cone(
    p: Point, centre: Vector, bottom: float, top: float, half_height: float, axis: str = "z"
) -> jax.Array:
    """A lower bound of the distance to a cone cut flat, radii `bottom` and `top`."""
    radial, height = _along(shift(p, centre), axis)
    slope = (bottom - top) / (2 * half_height)
    side = (radial - (bottom + top) / 2 + slope * height) / math.sqrt(1 + slope * slope)
    return jnp.maximum(side, jnp.abs(height) - half_height)


def capsule(p: Point, start: Vector, end: Vector, radius: float) -> jax.Array:
    """Distance to a segment thickened by `radius`."""
    axis = [e - s for s, e in zip(start, end, strict=True)]
    q = shift(p, start)
    along = sum(a * c for a, c in zip(axis, q, strict=True)) / sum(a * a for a in axis)
    along = jnp.clip(along, 0.0, 1.0)
    return _length(*(c - along * a for a, c in zip(axis, q, strict=True))) - radius


def torus(p: Point, centre: Vector, major: float, minor: float, axis: str = "z") -> jax.Array:
    """Distance to a torus about a coordinate axis."""
    radial, height = _along(shift(p, centre), axis)
    return _length(radial - major, height) - minor


def blend(a: jax.Array, b: jax.Array, radius: float) -> jax.Array:
    """Union of two solids with a fillet of about `radius` (quadratic smooth minimum)."""
    h = jnp.maximum(radius - jnp.abs(a - b), 0.0) / radius
    return jnp.minimum(a, b) - 0.25 * h * h * radius


def shell(distance: jax.Array, thickness: float) -> jax.Array:
    """The skin of a solid, reaching `thickness` inwards."""
    return jnp.maximum(distance, -distance - thickness)


def union(parts: Sequence[Part]) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Distance to the nearest part and that part's five material coefficients."""
    distance, material = parts[0].distance, [jnp.asarray(c) for c in parts[0].material]
    for part in parts[1:]:
        nearer = part.distance < distance
        distance = jnp.where(nearer, part.distance, distance)
        material = [
            jnp.where(nearer, new, old) for new, old in zip(part.material, material, strict=True)
        ]
    shape = distance.shape
    return distance, tuple(jnp.broadcast_to(c, shape) for c in material)

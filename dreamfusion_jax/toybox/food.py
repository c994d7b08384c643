"""Sweet things."""

import jax.numpy as jnp

from dreamfusion_jax.toybox.shapes import (
    DOUGH,
    MAIN,
    SHADE,
    WHITE,
    Part,
    Point,
    capsule,
    cone,
    cylinder,
    ellipsoid,
    fixed,
    ring,
    sphere,
    torus,
    turn,
)

_CHERRY = fixed(0.75, 0.05, 0.12)
_PAPER = fixed(0.86, 0.80, 0.72)


def donut(p: Point) -> list[Part]:
    """A ring of dough, iced in the main colour, with sprinkles."""
    dough = torus(p, (0.0, 0.0, 0.0), 0.27, 0.16)
    icing = jnp.maximum(torus(p, (0.0, 0.0, 0.02), 0.27, 0.165), 0.02 - p[2])
    # Each is its own mirror image in its sector, or the folded distance would jump.
    inner, outer = ring(p, 7), ring(turn(p, 20.0, "z"), 9)
    sprinkles = jnp.minimum(
        capsule(inner, (0.20, -0.02, 0.175), (0.20, 0.02, 0.175), 0.018),
        capsule(outer, (0.32, 0.0, 0.175), (0.36, 0.0, 0.16), 0.018),
    )
    return [Part(dough, DOUGH), Part(icing, MAIN), Part(sprinkles, WHITE)]


def ice_cream(p: Point) -> list[Part]:
    """A scoop of the main colour in a wafer, a cherry on top."""
    return [
        Part(cone(p, (0.0, 0.0, -0.22), 0.02, 0.22, 0.26), DOUGH),
        Part(sphere(p, (0.0, 0.0, 0.14), 0.26), MAIN),
        Part(torus(p, (0.0, 0.0, 0.04), 0.20, 0.06), SHADE),
        Part(sphere(p, (0.0, 0.0, 0.43), 0.07), _CHERRY),
    ]


def cupcake(p: Point) -> list[Part]:
    """A cupcake: whirls of the main colour in a paper case."""
    return [
        Part(cone(p, (0.0, 0.0, -0.24), 0.20, 0.29, 0.18), _PAPER),
        Part(ellipsoid(p, (0.0, 0.0, 0.00), (0.34, 0.34, 0.13)), MAIN),
        Part(ellipsoid(p, (0.0, 0.0, 0.14), (0.25, 0.25, 0.12)), SHADE),
        Part(ellipsoid(p, (0.0, 0.0, 0.27), (0.15, 0.15, 0.11)), MAIN),
        Part(sphere(p, (0.0, 0.0, 0.40), 0.065), _CHERRY),
    ]


def cake(p: Point) -> list[Part]:
    """A cake of two tiers, white cream at the rims, one candle."""
    return [
        Part(cylinder(p, (0.0, 0.0, -0.24), 0.38, 0.14, "z", 0.02), MAIN),
        Part(torus(p, (0.0, 0.0, -0.10), 0.36, 0.045), WHITE),
        Part(cylinder(p, (0.0, 0.0, 0.03), 0.25, 0.13, "z", 0.02), MAIN),
        Part(torus(p, (0.0, 0.0, 0.16), 0.23, 0.04), WHITE),
        Part(cylinder(p, (0.0, 0.0, 0.26), 0.03, 0.10), SHADE),
        Part(ellipsoid(p, (0.0, 0.0, 0.40), (0.03, 0.03, 0.05)), fixed(1.0, 0.75, 0.2)),
    ]

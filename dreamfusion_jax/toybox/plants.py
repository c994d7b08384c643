"""Plants and fungi."""

import jax.numpy as jnp

from dreamfusion_jax.toybox.shapes import (
    GOLD,
    LEAF,
    MAIN,
    SHADE,
    WHITE,
    WOOD,
    Part,
    Point,
    capsule,
    cone,
    cylinder,
    ellipsoid,
    fixed,
    mirror_y,
    ring,
    shift,
    sphere,
    turn,
)

_CREAM = fixed(0.90, 0.84, 0.72)
_CLAY = fixed(0.68, 0.34, 0.20)


def mushroom(p: Point) -> list[Part]:
    """A toadstool: white spots on a cap of the main colour."""
    cap = jnp.maximum(ellipsoid(p, (0.0, 0.0, 0.06), (0.42, 0.42, 0.33)), 0.04 - p[2])
    spots = ring(turn(p, 36.0, "z"), 5)
    dots = jnp.minimum(sphere(spots, (0.30, 0.0, 0.26), 0.075), sphere(p, (0.0, 0.0, 0.38), 0.09))
    return [
        Part(cap, MAIN),
        Part(cone(p, (0.0, 0.0, -0.18), 0.15, 0.11, 0.24), _CREAM),
        Part(jnp.maximum(dots, -0.012 + jnp.abs(cap)), WHITE),
    ]


def cactus(p: Point) -> list[Part]:
    """A cactus of the main colour in a clay pot, an arm at either side, one higher."""
    stem = capsule(p, (0.0, 0.0, -0.20), (0.0, 0.0, 0.30), 0.13)
    left = jnp.minimum(
        capsule(p, (0.0, 0.10, -0.02), (0.0, 0.28, -0.02), 0.07),
        capsule(p, (0.0, 0.28, -0.02), (0.0, 0.28, 0.18), 0.07),
    )
    right = jnp.minimum(
        capsule(p, (0.0, -0.10, 0.08), (0.0, -0.27, 0.08), 0.065),
        capsule(p, (0.0, -0.27, 0.08), (0.0, -0.27, 0.26), 0.065),
    )
    return [
        Part(jnp.minimum(stem, jnp.minimum(left, right)), MAIN),
        Part(cone(p, (0.0, 0.0, -0.34), 0.15, 0.21, 0.12), _CLAY),
        Part(cylinder(p, (0.0, 0.0, -0.23), 0.23, 0.03), _CLAY),
        Part(sphere(p, (0.0, 0.0, 0.44), 0.05), WHITE),
    ]


def tree(p: Point) -> list[Part]:
    """A fir: three cones of the main colour on a trunk."""
    return [
        Part(cone(p, (0.0, 0.0, -0.10), 0.34, 0.10, 0.14), MAIN),
        Part(cone(p, (0.0, 0.0, 0.11), 0.27, 0.07, 0.12), SHADE),
        Part(cone(p, (0.0, 0.0, 0.32), 0.20, 0.0, 0.15), MAIN),
        Part(cylinder(p, (0.0, 0.0, -0.33), 0.08, 0.13), WOOD),
    ]


def flower(p: Point) -> list[Part]:
    """A daisy that faces +x: petals of the main colour, golden heart, two leaves."""
    face = shift(p, (0.05, 0.0, 0.22))
    petals = ring((face[1], face[2], face[0]), 7)
    leaves = turn(shift(mirror_y(p), (0.0, 0.13, -0.20)), 35.0, "x")
    return [
        Part(ellipsoid(petals, (0.16, 0.0, 0.0), (0.12, 0.075, 0.04)), MAIN),
        Part(ellipsoid(face, (0.02, 0.0, 0.0), (0.06, 0.10, 0.10)), GOLD),
        Part(capsule(p, (0.0, 0.0, -0.45), (0.02, 0.0, 0.20), 0.03), LEAF),
        Part(ellipsoid(leaves, (0.0, 0.0, 0.0), (0.06, 0.14, 0.025)), LEAF),
    ]


def apple(p: Point) -> list[Part]:
    """An apple with a stalk and one leaf."""
    body = sphere(p, (0.0, 0.0, -0.04), 0.36)
    dent = sphere(p, (0.0, 0.0, 0.42), 0.17)
    return [
        Part(jnp.maximum(body, -dent), MAIN),
        Part(capsule(p, (0.0, 0.0, 0.22), (0.03, 0.0, 0.44), 0.025), WOOD),
        Part(ellipsoid(p, (0.03, 0.12, 0.40), (0.06, 0.12, 0.03)), LEAF),
    ]


def pumpkin(p: Point) -> list[Part]:
    """A ribbed pumpkin with a green stalk."""
    ribs = ring(p, 8)
    return [
        Part(ellipsoid(ribs, (0.22, 0.0, -0.06), (0.20, 0.17, 0.28)), MAIN),
        Part(sphere(p, (0.0, 0.0, -0.06), 0.24), SHADE),
        Part(capsule(p, (0.0, 0.0, 0.16), (0.05, 0.0, 0.34), 0.045), LEAF),
    ]

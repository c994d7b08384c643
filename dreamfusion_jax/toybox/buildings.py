"""Buildings. The door is at +x."""

import jax.numpy as jnp

from dreamfusion_jax.toybox.shapes import (
    BLACK,
    GLASS,
    GOLD,
    MAIN,
    SHADE,
    WHITE,
    WOOD,
    Part,
    Point,
    box,
    cone,
    cylinder,
    fixed,
    mirror_xy,
    mirror_y,
    shift,
    sphere,
    turn,
)

_ROOF = fixed(0.42, 0.20, 0.14)


def house(p: Point) -> list[Part]:
    """A house: gable roof, door and two windows in front, chimney."""
    gable = turn(shift(p, (0.0, 0.0, 0.08)), 45.0, "x")
    roof = jnp.maximum(box(gable, (0.0, 0.0, 0.0), (0.33, 0.25, 0.25)), 0.08 - p[2])
    return [
        Part(box(p, (0.0, 0.0, -0.14), (0.28, 0.28, 0.24)), MAIN),
        Part(roof, _ROOF),
        Part(box(p, (0.28, 0.0, -0.24), (0.02, 0.07, 0.14)), WOOD),
        Part(box(mirror_y(p), (0.28, 0.17, -0.08), (0.02, 0.055, 0.06)), GLASS),
        Part(box(mirror_y(p), (0.0, 0.28, -0.10), (0.10, 0.02, 0.07)), GLASS),
        Part(box(p, (-0.16, 0.14, 0.30), (0.05, 0.05, 0.12)), SHADE),
    ]


def castle(p: Point) -> list[Part]:
    """A keep with four round towers, pointed roofs and a dark gate."""
    towers = mirror_xy(p)
    return [
        Part(box(p, (0.0, 0.0, -0.16), (0.24, 0.24, 0.20)), MAIN),
        Part(cylinder(towers, (0.25, 0.25, -0.10), 0.10, 0.26), MAIN),
        Part(cone(towers, (0.25, 0.25, 0.26), 0.13, 0.0, 0.11), _ROOF),
        Part(cylinder(p, (0.0, 0.0, 0.08), 0.13, 0.16), SHADE),
        Part(cone(p, (0.0, 0.0, 0.35), 0.16, 0.0, 0.13), _ROOF),
        Part(box(p, (0.24, 0.0, -0.25), (0.02, 0.08, 0.11)), BLACK),
    ]


def lighthouse(p: Point) -> list[Part]:
    """A banded tower with a golden lamp and a door."""
    tower = cone(p, (0.0, 0.0, -0.10), 0.21, 0.13, 0.34)
    stripe = jnp.abs(jnp.abs(p[2] + 0.10) - 0.16) - 0.07
    return [
        Part(tower, MAIN),
        Part(jnp.maximum(tower - 0.006, stripe), WHITE),
        Part(cylinder(p, (0.0, 0.0, 0.25), 0.18, 0.02), BLACK),
        Part(cylinder(p, (0.0, 0.0, 0.33), 0.10, 0.07), GOLD),
        Part(cone(p, (0.0, 0.0, 0.45), 0.15, 0.0, 0.06), MAIN),
        Part(box(p, (0.19, 0.0, -0.36), (0.04, 0.05, 0.08)), WOOD),
    ]


def windmill(p: Point) -> list[Part]:
    """A windmill: four white sails in front."""
    hub = shift(p, (0.26, 0.0, 0.14))
    spun = turn(hub, 45.0, "x")
    sails = jnp.minimum(
        box(spun, (0.0, 0.0, 0.0), (0.015, 0.34, 0.05)),
        box(spun, (0.0, 0.0, 0.0), (0.015, 0.05, 0.34)),
    )
    return [
        Part(cone(p, (0.0, 0.0, -0.14), 0.27, 0.16, 0.30), MAIN),
        Part(cone(p, (0.0, 0.0, 0.24), 0.20, 0.02, 0.10), _ROOF),
        Part(cylinder(p, (0.20, 0.0, 0.14), 0.035, 0.09, "x"), WOOD),
        Part(sails, WHITE),
        Part(sphere(hub, (0.0, 0.0, 0.0), 0.05), BLACK),
        Part(box(p, (0.25, 0.0, -0.36), (0.03, 0.06, 0.09)), WOOD),
    ]

"""Animals and people. They look along +x."""

import jax
import jax.numpy as jnp

from dreamfusion_jax.toybox.shapes import (
    BLACK,
    GOLD,
    MAIN,
    ORANGE,
    SHADE,
    STEEL,
    WHITE,
    WOOD,
    Part,
    Point,
    Vector,
    blend,
    box,
    capsule,
    cone,
    cylinder,
    ellipsoid,
    fixed,
    mirror_y,
    sphere,
)

_CREAM = fixed(0.93, 0.85, 0.70)


def _eyes(p: Point, centre: Vector, radius: float = 0.03) -> Part:
    return Part(sphere(mirror_y(p), centre, radius), BLACK)


def duck(p: Point) -> list[Part]:
    """A bath duck: orange bill, tail turned up."""
    body = ellipsoid(p, (-0.06, 0.0, -0.18), (0.36, 0.25, 0.22))
    tail = ellipsoid(p, (-0.36, 0.0, -0.04), (0.13, 0.09, 0.09))
    head = sphere(p, (0.16, 0.0, 0.17), 0.19)
    return [
        Part(blend(blend(body, tail, 0.12), head, 0.10), MAIN),
        Part(ellipsoid(p, (0.37, 0.0, 0.13), (0.12, 0.10, 0.04)), ORANGE),
        Part(ellipsoid(mirror_y(p), (-0.10, 0.23, -0.14), (0.19, 0.05, 0.11)), SHADE),
        _eyes(p, (0.30, 0.10, 0.24)),
    ]


def cat(p: Point) -> list[Part]:
    """A sitting cat: pointed ears, cream muzzle, tail behind."""
    q = mirror_y(p)
    body = ellipsoid(p, (-0.06, 0.0, -0.18), (0.23, 0.20, 0.27))
    head = ellipsoid(p, (0.06, 0.0, 0.20), (0.19, 0.21, 0.18))
    return [
        Part(blend(body, head, 0.06), MAIN),
        Part(cone(q, (0.05, 0.13, 0.39), 0.08, 0.0, 0.09), MAIN),
        Part(capsule(q, (0.12, 0.09, -0.20), (0.17, 0.09, -0.40), 0.055), MAIN),
        Part(capsule(p, (-0.25, 0.0, -0.38), (-0.40, 0.0, -0.05), 0.05), SHADE),
        Part(ellipsoid(p, (0.20, 0.0, 0.14), (0.08, 0.10, 0.07)), _CREAM),
        Part(sphere(p, (0.28, 0.0, 0.17), 0.025), BLACK),
        _eyes(p, (0.21, 0.09, 0.24)),
    ]


def bear(p: Point) -> list[Part]:
    """A teddy bear: round ears, cream muzzle and belly."""
    q = mirror_y(p)
    return [
        Part(ellipsoid(p, (0.0, 0.0, -0.13), (0.20, 0.22, 0.24)), MAIN),
        Part(sphere(p, (0.02, 0.0, 0.22), 0.20), MAIN),
        Part(sphere(q, (0.0, 0.17, 0.38), 0.08), MAIN),
        Part(capsule(q, (0.03, 0.20, -0.02), (0.12, 0.33, -0.16), 0.07), MAIN),
        Part(capsule(q, (0.05, 0.13, -0.33), (0.22, 0.16, -0.38), 0.085), MAIN),
        Part(ellipsoid(p, (0.13, 0.0, -0.12), (0.10, 0.14, 0.16)), _CREAM),
        Part(ellipsoid(p, (0.19, 0.0, 0.17), (0.08, 0.09, 0.07)), _CREAM),
        Part(sphere(p, (0.27, 0.0, 0.20), 0.03), BLACK),
        _eyes(p, (0.19, 0.09, 0.28)),
    ]


def fish(p: Point) -> list[Part]:
    """A fish swimming to +x: tail fin behind, white belly."""
    body = ellipsoid(p, (0.06, 0.0, 0.0), (0.36, 0.13, 0.22))
    tail = jnp.maximum(cone(p, (-0.36, 0.0, 0.0), 0.24, 0.02, 0.12, "x"), jnp.abs(p[1]) - 0.03)
    fin = jnp.maximum(cone(p, (-0.02, 0.0, 0.24), 0.16, 0.03, 0.08), jnp.abs(p[1]) - 0.03)
    belly = jnp.maximum(body - 0.006, p[2] + 0.08)
    return [
        Part(body, MAIN),
        Part(belly, WHITE),
        Part(jnp.minimum(tail, fin), SHADE),
        Part(sphere(mirror_y(p), (0.26, 0.075, 0.07), 0.05), WHITE),
        Part(sphere(mirror_y(p), (0.285, 0.10, 0.07), 0.03), BLACK),
    ]


def snowman(p: Point) -> list[Part]:
    """A snowman: three balls of the main colour, carrot nose, coal, stick arms."""
    buttons = jnp.minimum(sphere(p, (0.19, 0.0, 0.10), 0.03), sphere(p, (0.205, 0.0, 0.00), 0.03))
    return [
        Part(sphere(p, (0.0, 0.0, -0.26), 0.24), MAIN),
        Part(sphere(p, (0.0, 0.0, 0.06), 0.185), MAIN),
        Part(sphere(p, (0.0, 0.0, 0.32), 0.14), MAIN),
        Part(cone(p, (0.22, 0.0, 0.31), 0.04, 0.0, 0.10, "x"), ORANGE),
        Part(capsule(mirror_y(p), (0.0, 0.15, 0.10), (0.0, 0.38, 0.24), 0.022), WOOD),
        Part(buttons, BLACK),
        _eyes(p, (0.115, 0.055, 0.37), 0.028),
    ]


def robot(p: Point) -> list[Part]:
    """A robot: square head with yellow eyes, grey limbs, dial on the chest."""
    q = mirror_y(p)
    return [
        Part(box(p, (0.0, 0.0, -0.04), (0.15, 0.21, 0.19), 0.03), MAIN),
        Part(box(p, (0.0, 0.0, 0.29), (0.13, 0.15, 0.11), 0.03), MAIN),
        Part(cylinder(p, (0.0, 0.0, 0.16), 0.06, 0.04), STEEL),
        Part(capsule(p, (0.0, 0.0, 0.40), (0.0, 0.0, 0.46), 0.02), STEEL),
        Part(sphere(p, (0.0, 0.0, 0.48), 0.035), ORANGE),
        Part(capsule(q, (0.0, 0.26, 0.08), (0.06, 0.28, -0.16), 0.05), STEEL),
        Part(box(q, (0.0, 0.11, -0.33), (0.08, 0.07, 0.12), 0.02), STEEL),
        Part(sphere(q, (0.12, 0.07, 0.31), 0.04), GOLD),
        Part(cylinder(p, (0.15, 0.0, 0.0), 0.08, 0.02, "x"), WHITE),
    ]


def penguin(p: Point) -> list[Part]:
    """A penguin: white front, main-coloured back and flippers, orange bill and feet."""
    q = mirror_y(p)
    body = ellipsoid(p, (0.0, 0.0, -0.12), (0.22, 0.23, 0.31))
    head = sphere(p, (0.03, 0.0, 0.25), 0.16)
    return [
        Part(blend(body, head, 0.12), MAIN),
        Part(ellipsoid(p, (0.07, 0.0, -0.12), (0.18, 0.17, 0.26)), WHITE),
        Part(ellipsoid(p, (0.12, 0.0, 0.24), (0.09, 0.11, 0.09)), WHITE),
        Part(cone(p, (0.24, 0.0, 0.22), 0.045, 0.0, 0.07, "x"), ORANGE),
        Part(ellipsoid(q, (-0.01, 0.25, -0.08), (0.09, 0.05, 0.20)), MAIN),
        Part(_feet(q), ORANGE),
        _eyes(p, (0.17, 0.07, 0.29), 0.028),
    ]


def _feet(q: Point) -> jax.Array:
    return ellipsoid(q, (0.10, 0.11, -0.42), (0.14, 0.08, 0.035))

"""Things that drive, sail and fly. The front is +x."""

import jax.numpy as jnp

from dreamfusion_jax.toybox.shapes import (
    BLACK,
    GLASS,
    GOLD,
    MAIN,
    ORANGE,
    SHADE,
    STEEL,
    WHITE,
    WOOD,
    Part,
    Point,
    box,
    capsule,
    cone,
    cylinder,
    ellipsoid,
    fixed,
    mirror_xy,
    mirror_y,
    ring,
    shift,
    sphere,
)

_TAIL_LIGHT = fixed(0.80, 0.05, 0.05)


def _wheels(p: Point, x: float, y: float, z: float, radius: float) -> list[Part]:
    q = mirror_xy(p)
    return [
        Part(cylinder(q, (x, y, z), radius, 0.05, "y", 0.015), BLACK),
        Part(cylinder(q, (x, y + 0.01, z), 0.5 * radius, 0.05, "y"), STEEL),
    ]


def car(p: Point) -> list[Part]:
    """A small car: lamps in front, dark windows, red lights behind."""
    q = mirror_y(p)
    return [
        Part(box(p, (0.0, 0.0, -0.06), (0.44, 0.20, 0.10), 0.06), MAIN),
        Part(box(p, (-0.07, 0.0, 0.10), (0.22, 0.17, 0.11), 0.05), MAIN),
        Part(box(p, (-0.07, 0.0, 0.11), (0.235, 0.13, 0.06), 0.02), GLASS),
        Part(box(p, (-0.07, 0.0, 0.11), (0.15, 0.185, 0.055), 0.02), GLASS),
        Part(sphere(q, (0.42, 0.13, -0.03), 0.05), GOLD),
        Part(box(q, (-0.43, 0.13, -0.03), (0.03, 0.05, 0.035), 0.01), _TAIL_LIGHT),
        *_wheels(p, 0.25, 0.18, -0.16, 0.10),
    ]


def truck(p: Point) -> list[Part]:
    """A lorry: cab of the main colour, white box behind it."""
    q = mirror_y(p)
    return [
        Part(box(p, (0.30, 0.0, 0.00), (0.14, 0.18, 0.18), 0.03), MAIN),
        Part(box(p, (0.42, 0.0, 0.07), (0.03, 0.14, 0.07), 0.01), GLASS),
        Part(box(p, (0.33, 0.0, 0.07), (0.06, 0.19, 0.07), 0.01), GLASS),
        Part(box(p, (-0.15, 0.0, 0.07), (0.29, 0.20, 0.23), 0.02), WHITE),
        Part(box(p, (-0.15, 0.0, 0.07), (0.285, 0.205, 0.05)), MAIN),
        Part(box(p, (0.0, 0.0, -0.19), (0.42, 0.15, 0.03)), BLACK),
        Part(sphere(q, (0.43, 0.12, -0.10), 0.04), GOLD),
        *_wheels(p, 0.28, 0.17, -0.22, 0.09),
    ]


def boat(p: Point) -> list[Part]:
    """A sailing boat: hull of the main colour, white sail, bow at +x."""
    hull = jnp.maximum(ellipsoid(p, (0.0, 0.0, -0.10), (0.46, 0.18, 0.24)), p[2] + 0.12)
    sail = jnp.maximum(cone(p, (0.02, 0.0, 0.17), 0.30, 0.0, 0.26), jnp.abs(p[1]) - 0.02)
    return [
        Part(hull, MAIN),
        Part(box(p, (-0.02, 0.0, -0.12), (0.32, 0.12, 0.02)), WOOD),
        Part(cylinder(p, (0.02, 0.0, 0.13), 0.02, 0.33), WOOD),
        Part(jnp.maximum(sail, p[0] - 0.02), WHITE),
        Part(jnp.maximum(sail, 0.06 - p[0]), MAIN),
    ]


def plane(p: Point) -> list[Part]:
    """An airliner: fuselage along x, white wings, tail fin behind."""
    q = mirror_y(p)
    return [
        Part(capsule(p, (-0.36, 0.0, 0.0), (0.36, 0.0, 0.0), 0.10), MAIN),
        Part(box(p, (0.02, 0.0, -0.02), (0.11, 0.46, 0.022), 0.015), WHITE),
        Part(box(p, (-0.38, 0.0, 0.05), (0.06, 0.19, 0.018), 0.01), WHITE),
        Part(box(p, (-0.39, 0.0, 0.15), (0.07, 0.02, 0.12), 0.01), MAIN),
        Part(capsule(q, (0.02, 0.22, -0.08), (0.14, 0.22, -0.08), 0.045), STEEL),
        Part(box(p, (0.37, 0.0, 0.06), (0.06, 0.07, 0.035), 0.02), GLASS),
    ]


def rocket(p: Point) -> list[Part]:
    """A rocket on three fins: red nose, round window in front."""
    body = ellipsoid(p, (0.0, 0.0, 0.02), (0.19, 0.19, 0.46))
    fins = ring(p, 3)
    return [
        Part(jnp.maximum(jnp.maximum(body, -0.32 - p[2]), p[2] - 0.24), MAIN),
        Part(jnp.maximum(body, 0.24 - p[2]), WHITE),
        Part(box(fins, (0.22, 0.0, -0.30), (0.10, 0.025, 0.12), 0.02), SHADE),
        Part(cone(p, (0.0, 0.0, -0.36), 0.12, 0.09, 0.05), STEEL),
        Part(cylinder(p, (0.17, 0.0, 0.08), 0.085, 0.035, "x"), WHITE),
        Part(cylinder(p, (0.18, 0.0, 0.08), 0.06, 0.035, "x"), GLASS),
    ]


def balloon(p: Point) -> list[Part]:
    """A hot-air balloon: striped envelope, wooden basket."""
    envelope = jnp.minimum(
        sphere(p, (0.0, 0.0, 0.16), 0.31), cone(p, (0.0, 0.0, -0.10), 0.09, 0.27, 0.16)
    )
    band = jnp.maximum(envelope - 0.006, jnp.abs(p[2] - 0.16) - 0.06)
    ropes = mirror_xy(p)
    return [
        Part(envelope, MAIN),
        Part(band, WHITE),
        Part(box(p, (0.0, 0.0, -0.42), (0.09, 0.09, 0.07), 0.02), WOOD),
        Part(capsule(ropes, (0.07, 0.07, -0.40), (0.06, 0.06, -0.24), 0.012), WOOD),
    ]


def train(p: Point) -> list[Part]:
    """A steam engine: round boiler in front, cab behind, funnel, orange lamp."""
    wheels = shift(mirror_y(p), (0.0, 0.16, -0.25))
    row = (jnp.abs(jnp.abs(wheels[0]) - 0.15) - 0.12, wheels[1], wheels[2])
    return [
        Part(capsule(p, (-0.05, 0.0, -0.03), (0.32, 0.0, -0.03), 0.13), MAIN),
        Part(box(p, (-0.26, 0.0, 0.06), (0.13, 0.17, 0.22), 0.02), MAIN),
        Part(box(p, (-0.26, 0.0, 0.14), (0.08, 0.18, 0.07)), GLASS),
        Part(box(p, (-0.26, 0.0, 0.29), (0.17, 0.20, 0.025), 0.01), BLACK),
        Part(cone(p, (0.28, 0.0, 0.17), 0.04, 0.075, 0.11), BLACK),
        Part(cylinder(p, (0.45, 0.0, -0.03), 0.07, 0.02, "x"), ORANGE),
        Part(box(p, (0.0, 0.0, -0.20), (0.40, 0.13, 0.03)), BLACK),
        Part(cylinder(row, (0.0, 0.0, 0.0), 0.09, 0.03, "y"), BLACK),
    ]

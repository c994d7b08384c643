"""Furniture, vessels and other things of a house."""

import jax.numpy as jnp

from dreamfusion_jax.toybox.shapes import (
    BLACK,
    GLASS,
    GOLD,
    MAIN,
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
    mirror_xy,
    mirror_y,
    shell,
    shift,
    sphere,
    torus,
    turn,
)


def chair(p: Point) -> list[Part]:
    """A chair: the back is at -x."""
    legs = mirror_xy(p)
    return [
        Part(box(p, (0.0, 0.0, -0.06), (0.23, 0.23, 0.04), 0.02), MAIN),
        Part(box(p, (-0.21, 0.0, 0.20), (0.035, 0.23, 0.26), 0.02), MAIN),
        Part(box(legs, (0.18, 0.18, -0.27), (0.035, 0.035, 0.19)), WOOD),
    ]


def table(p: Point) -> list[Part]:
    """A round table on four wooden legs."""
    return [
        Part(cylinder(p, (0.0, 0.0, 0.16), 0.42, 0.045, "z", 0.02), MAIN),
        Part(cylinder(p, (0.0, 0.0, 0.10), 0.30, 0.03), SHADE),
        Part(box(mirror_xy(p), (0.21, 0.21, -0.12), (0.035, 0.035, 0.24)), WOOD),
    ]


def sofa(p: Point) -> list[Part]:
    """A sofa: arms left and right, the back at -x."""
    return [
        Part(box(p, (0.03, 0.0, -0.13), (0.20, 0.40, 0.10), 0.04), MAIN),
        Part(box(p, (-0.19, 0.0, 0.00), (0.08, 0.44, 0.24), 0.05), MAIN),
        Part(box(mirror_y(p), (0.02, 0.40, -0.05), (0.22, 0.07, 0.17), 0.05), SHADE),
        Part(box(mirror_y(p), (0.05, 0.17, 0.00), (0.17, 0.15, 0.05), 0.04), MAIN),
        Part(cylinder(mirror_xy(p), (0.17, 0.26, -0.26), 0.03, 0.05), WOOD),
    ]


def lamp(p: Point) -> list[Part]:
    """A table lamp: shade of the main colour on a steel foot."""
    return [
        Part(cone(p, (0.0, 0.0, 0.22), 0.31, 0.17, 0.18), MAIN),
        Part(cylinder(p, (0.0, 0.0, -0.14), 0.035, 0.26), STEEL),
        Part(cylinder(p, (0.0, 0.0, -0.40), 0.20, 0.035, "z", 0.015), STEEL),
        Part(sphere(p, (0.0, 0.0, 0.03), 0.08), GOLD),
    ]


def television(p: Point) -> list[Part]:
    """An old television: dark screen in front, two aerials."""
    return [
        Part(box(p, (0.0, 0.0, -0.06), (0.20, 0.36, 0.27), 0.04), MAIN),
        Part(box(p, (0.19, 0.06, -0.05), (0.025, 0.23, 0.19), 0.02), BLACK),
        Part(sphere(p, (0.20, -0.26, 0.04), 0.045), STEEL),
        Part(sphere(p, (0.20, -0.26, -0.12), 0.045), STEEL),
        Part(capsule(mirror_y(p), (0.0, 0.03, 0.20), (0.0, 0.22, 0.44), 0.02), STEEL),
    ]


def clock(p: Point) -> list[Part]:
    """An alarm clock: white face in front, two bells, feet."""
    q = mirror_y(p)
    hands = jnp.minimum(
        capsule(p, (0.12, 0.0, 0.0), (0.12, 0.0, 0.20), 0.02),
        capsule(p, (0.12, 0.0, 0.0), (0.12, -0.13, -0.04), 0.02),
    )
    return [
        Part(cylinder(p, (0.0, 0.0, 0.0), 0.34, 0.11, "x", 0.03), MAIN),
        Part(cylinder(p, (0.09, 0.0, 0.0), 0.27, 0.03, "x"), WHITE),
        Part(hands, BLACK),
        Part(sphere(q, (0.0, 0.19, 0.33), 0.10), GOLD),
        Part(capsule(q, (0.0, 0.20, -0.27), (0.0, 0.27, -0.40), 0.04), STEEL),
    ]


def teapot(p: Point) -> list[Part]:
    """A teapot: spout at +y, handle at -y, knob on the lid."""
    handle = torus(p, (0.0, -0.30, -0.04), 0.14, 0.035, "x")
    return [
        Part(ellipsoid(p, (0.0, 0.0, -0.08), (0.30, 0.30, 0.25)), MAIN),
        Part(capsule(p, (0.0, 0.24, -0.10), (0.0, 0.46, 0.12), 0.05), MAIN),
        Part(handle, MAIN),
        Part(cylinder(p, (0.0, 0.0, 0.15), 0.15, 0.025, "z", 0.01), SHADE),
        Part(sphere(p, (0.0, 0.0, 0.22), 0.06), SHADE),
        Part(cylinder(p, (0.0, 0.0, -0.31), 0.18, 0.03), SHADE),
    ]


def mug(p: Point) -> list[Part]:
    """A mug: hollow, handle at +y, a white band."""
    wall = cylinder(p, (0.0, -0.06, 0.0), 0.27, 0.32, "z", 0.02)
    hollow = cylinder(p, (0.0, -0.06, 0.06), 0.22, 0.32)
    band = jnp.maximum(wall - 0.006, jnp.abs(p[2] - 0.02) - 0.07)
    return [
        Part(jnp.maximum(wall, -hollow), MAIN),
        Part(jnp.maximum(band, -hollow), WHITE),
        Part(torus(p, (0.0, 0.22, 0.0), 0.17, 0.04, "x"), MAIN),
    ]


def vase(p: Point) -> list[Part]:
    """A bulbous vase with a narrow neck and a wide lip."""
    body = ellipsoid(p, (0.0, 0.0, -0.16), (0.28, 0.28, 0.27))
    neck = cone(p, (0.0, 0.0, 0.17), 0.09, 0.16, 0.20)
    mouth = cylinder(p, (0.0, 0.0, 0.37), 0.11, 0.12)
    band = jnp.maximum(body - 0.006, jnp.abs(p[2] + 0.16) - 0.04)
    return [
        Part(jnp.maximum(jnp.minimum(body, neck), -mouth), MAIN),
        Part(band, GOLD),
        Part(cylinder(p, (0.0, 0.0, -0.42), 0.16, 0.03), SHADE),
    ]


def barrel(p: Point) -> list[Part]:
    """A barrel of the main colour with steel hoops and a wooden lid."""
    side = ellipsoid(p, (0.0, 0.0, 0.0), (0.33, 0.33, 0.72))
    body = jnp.maximum(side, jnp.abs(p[2]) - 0.40)
    hoops = jnp.maximum(shell(side - 0.012, 0.04), jnp.abs(jnp.abs(p[2]) - 0.22) - 0.035)
    return [
        Part(body, MAIN),
        Part(hoops, STEEL),
        Part(cylinder(p, (0.0, 0.0, 0.0), 0.24, 0.41), WOOD),
    ]


def umbrella(p: Point) -> list[Part]:
    """An open umbrella: canopy of the main colour, crooked wooden handle."""
    dome = shell(ellipsoid(p, (0.0, 0.0, 0.10), (0.46, 0.46, 0.30)), 0.04)
    hook = jnp.maximum(torus(p, (0.07, 0.0, -0.36), 0.07, 0.025, "y"), p[2] + 0.36)
    return [
        Part(jnp.maximum(dome, 0.10 - p[2]), MAIN),
        Part(cylinder(p, (0.0, 0.0, 0.02), 0.02, 0.40), STEEL),
        Part(hook, WOOD),
    ]


def telescope(p: Point) -> list[Part]:
    """A telescope that looks up and forward, on three legs."""
    tube = turn(shift(p, (0.0, 0.0, 0.14)), -30.0, "y")
    legs = [
        capsule(p, (0.0, 0.0, 0.06), foot, 0.03)
        for foot in ((0.28, 0.0, -0.44), (-0.16, 0.26, -0.44), (-0.16, -0.26, -0.44))
    ]
    return [
        Part(cylinder(tube, (0.04, 0.0, 0.0), 0.11, 0.32, "x", 0.01), MAIN),
        Part(cylinder(tube, (0.34, 0.0, 0.0), 0.13, 0.05, "x"), SHADE),
        Part(cylinder(tube, (0.38, 0.0, 0.0), 0.10, 0.02, "x"), GLASS),
        Part(cylinder(tube, (-0.32, 0.0, 0.0), 0.06, 0.06, "x"), BLACK),
        Part(jnp.minimum(legs[0], jnp.minimum(legs[1], legs[2])), WOOD),
    ]

"""What exists in the toybox: categories, colours, modifiers, and which pairs are held out."""

import dataclasses
from collections.abc import Callable, Collection, Iterable

import jax
import jax.numpy as jnp

from dreamfusion_jax.toybox import buildings, characters, food, household, plants, vehicles
from dreamfusion_jax.toybox.shapes import ACCENT, Part, Point, cylinder, shift, union


@dataclasses.dataclass(frozen=True)
class Category:
    """A kind of object.

    Attributes:
        name: The word, or words, of the caption.
        parts: Solids at a point; see `shapes`.
        bottom: Height of the lowest point, where a pedestal begins.
        top: Height at which a hat rests.
        top_x: How far to the front the hat sits.
        has_front: Whether front and back differ at a glance.
    """

    name: str
    parts: Callable[[Point], list[Part]]
    bottom: float
    top: float
    top_x: float = 0.0
    has_front: bool = True


CATEGORIES: dict[str, Category] = {
    category.name: category
    for category in (
        Category("car", vehicles.car, -0.26, 0.21, -0.07),
        Category("truck", vehicles.truck, -0.31, 0.30, -0.15),
        Category("boat", vehicles.boat, -0.34, 0.46, 0.02),
        Category("plane", vehicles.plane, -0.12, 0.10, 0.15),
        Category("rocket", vehicles.rocket, -0.42, 0.47),
        Category("balloon", vehicles.balloon, -0.49, 0.47, has_front=False),
        Category("train", vehicles.train, -0.34, 0.31, -0.26),
        Category("duck", characters.duck, -0.40, 0.36, 0.14),
        Category("cat", characters.cat, -0.45, 0.37, 0.04),
        Category("bear", characters.bear, -0.46, 0.41),
        Category("fish", characters.fish, -0.22, 0.22, 0.12),
        Category("snowman", characters.snowman, -0.50, 0.45),
        Category("robot", characters.robot, -0.45, 0.40),
        Category("penguin", characters.penguin, -0.45, 0.40, 0.03),
        Category("mushroom", plants.mushroom, -0.42, 0.39, has_front=False),
        Category("cactus", plants.cactus, -0.46, 0.43, has_front=False),
        Category("tree", plants.tree, -0.46, 0.44, has_front=False),
        Category("flower", plants.flower, -0.48, 0.44, 0.05),
        Category("apple", plants.apple, -0.40, 0.29, has_front=False),
        Category("pumpkin", plants.pumpkin, -0.34, 0.21, has_front=False),
        Category("house", buildings.house, -0.38, 0.42),
        Category("castle", buildings.castle, -0.36, 0.46),
        Category("lighthouse", buildings.lighthouse, -0.44, 0.49),
        Category("windmill", buildings.windmill, -0.45, 0.32),
        Category("chair", household.chair, -0.46, 0.46, -0.21),
        Category("table", household.table, -0.36, 0.205, has_front=False),
        Category("sofa", household.sofa, -0.31, 0.24, -0.19),
        Category("lamp", household.lamp, -0.435, 0.40, has_front=False),
        Category("television", household.television, -0.33, 0.21),
        Category("clock", household.clock, -0.44, 0.43),
        Category("teapot", household.teapot, -0.34, 0.27, has_front=False),
        Category("mug", household.mug, -0.32, 0.32, has_front=False),
        Category("vase", household.vase, -0.45, 0.37, has_front=False),
        Category("barrel", household.barrel, -0.41, 0.41, has_front=False),
        Category("umbrella", household.umbrella, -0.46, 0.42, has_front=False),
        Category("telescope", household.telescope, -0.47, 0.44, 0.27),
        Category("donut", food.donut, -0.16, 0.17, has_front=False),
        Category("ice cream", food.ice_cream, -0.48, 0.48, has_front=False),
        Category("cupcake", food.cupcake, -0.42, 0.45, has_front=False),
        Category("cake", food.cake, -0.38, 0.44, has_front=False),
    )
}

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.85, 0.10, 0.10),
    "orange": (0.95, 0.50, 0.08),
    "yellow": (0.95, 0.85, 0.12),
    "green": (0.14, 0.62, 0.20),
    "blue": (0.12, 0.28, 0.85),
    "purple": (0.50, 0.16, 0.68),
    "pink": (0.96, 0.50, 0.68),
    "brown": (0.42, 0.25, 0.13),
    "white": (0.92, 0.92, 0.92),
    "black": (0.10, 0.10, 0.11),
}
"""Linear RGB in [0, 1]."""

MODIFIERS = ("on a {} pedestal", "wearing a {} top hat")
"""The modifier's own colour goes into the braces."""

HELD_OUT: frozenset[tuple[str, str]] = frozenset(
    (category, list(COLOURS)[(3 * index) % len(COLOURS)])
    for index, category in enumerate(CATEGORIES)
)
"""(category, colour) pairs that no training image shows: one colour in ten of each category."""

HELD_OUT_MODIFIED: frozenset[tuple[str, str, str]] = frozenset(
    (category, modifier, list(COLOURS)[(3 * index + 4 + 3 * number) % len(COLOURS)])
    for index, category in enumerate(CATEGORIES)
    for number, modifier in enumerate(MODIFIERS)
)
"""(category, modifier, modifier colour) triples that no training image shows.

One colour in ten of each category's pedestals and hats: of the n-th category (from 0) the
colours number 3 n + 4 (pedestal) and 3 n + 7 (hat), counted around.
"""


class UnknownNameError(LookupError):
    """A category, colour or modifier that the world does not have.

    Not a ValueError: tyro would turn that, for a value made from the command line, into a page.
    """


def check_known(names: Iterable[str], known: Collection[str]) -> None:
    """Raises UnknownNameError for the first of the names that is not among the known ones."""
    for name in names:
        if name not in known:
            raise UnknownNameError(f"the toybox has no {name!r}; it has {', '.join(known)}")


@dataclasses.dataclass(frozen=True)
class Scene:
    """One object: a category, its main colour, and perhaps a modifier with its own colour.

    Raises:
        UnknownNameError: For a category, colour or modifier that does not exist.
        ValueError: For a modifier without a colour, and a colour without a modifier.
    """

    category: str
    colour: str
    modifier: str | None = None
    modifier_colour: str | None = None

    def __post_init__(self) -> None:
        """Refuses what the world does not have."""
        check_known([self.category], CATEGORIES)
        check_known([self.colour], COLOURS)
        if (self.modifier is None) != (self.modifier_colour is None):
            raise ValueError("a modifier and its colour go together")
        if self.modifier is not None and self.modifier_colour is not None:
            check_known([self.modifier], MODIFIERS)
            check_known([self.modifier_colour], COLOURS)

    @property
    def palette(self) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
        """Main and modifier colour."""
        main = COLOURS[self.colour]
        return main, COLOURS[self.modifier_colour] if self.modifier_colour else main


_MODIFIED_SCALE = 0.8
_PEDESTAL_TOP = -0.32
_HAT_LIFT = -0.09


def solid(
    category: str, modifier: str | jax.Array | None, p: Point
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Signed distance and material coefficients of an object at points in the world.

    Args:
        category: A key of `CATEGORIES`.
        modifier: One of `MODIFIERS`, or None; or its number, a scalar that is known only when
            the program runs: 0 for none, else 1 + the place in `MODIFIERS`.
        p: Coordinates, three arrays of one shape.

    Returns:
        The distance (world units, negative inside) and the five coefficients of
        `shapes.Material`, arrays of that shape.
    """
    kind = CATEGORIES[category]
    if isinstance(modifier, jax.Array):
        return _solid_of_number(kind, modifier, p)
    if modifier is None:
        return union(kind.parts(p))
    # The object shrinks to make room, so that everything stays inside SCENE_RADIUS.
    scale = _MODIFIED_SCALE
    on_pedestal = modifier == MODIFIERS[0]
    lift = _PEDESTAL_TOP - scale * kind.bottom if on_pedestal else _HAT_LIFT
    return union(_parts(kind, p, scale, lift) + (_pedestal(p) if on_pedestal else _hat(kind, p)))


def _solid_of_number(kind: Category, number: jax.Array, p: Point):
    """The same with one program for all modifiers: those that are not there are far away."""
    scale = jnp.where(number == 0, 1.0, _MODIFIED_SCALE)
    on_pedestal = _PEDESTAL_TOP - _MODIFIED_SCALE * kind.bottom
    lift = jnp.where(number == 0, 0.0, jnp.where(number == 1, on_pedestal, _HAT_LIFT))
    parts = _parts(kind, p, scale, lift)
    for at, extra in ((1, _pedestal(p)), (2, _hat(kind, p))):
        away = jnp.where(number == at, 0.0, 10.0)
        parts += [Part(part.distance + away, part.material) for part in extra]
    return union(parts)


def _parts(kind: Category, p: Point, scale, lift) -> list[Part]:
    """The object itself, smaller and lifted."""
    x, y, z = p[0], p[1], p[2] - lift
    return [
        Part(scale * part.distance, part.material)
        for part in kind.parts((x / scale, y / scale, z / scale))
    ]


def _pedestal(p: Point) -> list[Part]:
    return [Part(cylinder(p, (0.0, 0.0, _PEDESTAL_TOP - 0.07), 0.26, 0.07), ACCENT)]


def _hat(kind: Category, p: Point) -> list[Part]:
    """The hat on top of a smaller object."""
    scale = _MODIFIED_SCALE
    hat = shift(p, (scale * kind.top_x, 0.0, scale * kind.top + _HAT_LIFT))
    return [
        Part(cylinder(hat, (0.0, 0.0, 0.0), 0.16, 0.02, "z", 0.01), ACCENT),
        Part(cylinder(hat, (0.0, 0.0, 0.09), 0.10, 0.09, "z", 0.01), ACCENT),
    ]

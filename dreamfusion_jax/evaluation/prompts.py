"""Which objects the embedded world is judged by."""

import random

from dreamfusion_jax.toybox.captions import caption
from dreamfusion_jax.toybox.world import CATEGORIES, COLOURS, HELD_OUT, MODIFIERS, Scene

TWELVE = (
    *("a red car", "a blue car", "a yellow duck", "a blue rocket"),
    *("a green snowman", "a purple penguin", "a red mushroom", "a purple cactus"),
    *("a blue house", "a brown chair", "an orange lamp", "a red rocket"),
)
"""Ten kinds of object in plain colours, four of the pairs held out."""


def drawn_prompts(
    seed: int = 0, plain: int = 12, held_out: int = 6, modified: int = 6
) -> tuple[str, ...]:
    """Prompts of the whole world by lot, each of another category.

    Args:
        seed: Of the lot. `random.Random` draws the same on every machine.
        plain: Objects in a colour that the prior has seen them in.
        held_out: Pairs of category and colour that it has not.
        modified: Objects with a pedestal or a hat, in turns, each in a colour of its own; whether
            the prior has seen that one is left to the lot.

    Returns:
        The prompts: plain ones, held-out pairs, objects with modifiers.
    """
    lot = random.Random(seed)
    categories = lot.sample(list(CATEGORIES), plain + held_out + modified)
    scenes = []
    for number, category in enumerate(categories):
        outside = plain <= number < plain + held_out
        choices = [colour for colour in COLOURS if ((category, colour) in HELD_OUT) == outside]
        scene = Scene(category, lot.choice(choices))
        if number >= plain + held_out:
            accents = [colour for colour in COLOURS if colour != scene.colour]
            modifier = MODIFIERS[number % len(MODIFIERS)]
            scene = Scene(category, scene.colour, modifier, lot.choice(accents))
        scenes.append(scene)
    return tuple(map(caption, scenes))

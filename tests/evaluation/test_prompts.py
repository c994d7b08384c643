"""The prompts of the evaluation."""

from dreamfusion_jax.evaluation.prompts import TWELVE, drawn_prompts
from dreamfusion_jax.toybox.captions import WHOLE_WORLD
from dreamfusion_jax.toybox.world import HELD_OUT, MODIFIERS


def test_the_lot_is_of_the_whole_world():
    scenes = [WHOLE_WORLD.scene(prompt) for prompt in drawn_prompts()]
    assert len({scene.category for scene in scenes}) == len(scenes) == 24
    plain, held_out, modified = scenes[:12], scenes[12:18], scenes[18:]
    assert not any((s.category, s.colour) in HELD_OUT for s in plain + modified)
    assert all((s.category, s.colour) in HELD_OUT for s in held_out)
    assert not any(s.modifier for s in plain + held_out)
    assert [s.modifier for s in modified] == 3 * list(MODIFIERS)
    assert all(s.modifier_colour != s.colour for s in modified)


def test_the_lot_is_drawn_once_and_for_all():
    assert drawn_prompts() == drawn_prompts(0) != drawn_prompts(1)
    assert drawn_prompts()[0] == "an orange chair"
    assert drawn_prompts()[-1] == "a white lighthouse wearing an orange top hat"


def test_the_twelve_are_read():
    scenes = {WHOLE_WORLD.scene(prompt) for prompt in TWELVE}
    assert len(scenes) == 12 and len({scene.category for scene in scenes}) == 10
    assert sum((scene.category, scene.colour) in HELD_OUT for scene in scenes) == 4

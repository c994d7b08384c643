"""The share of small parts that survives, by pictures whose parts can be counted by hand."""

import numpy as np
import pytest

from dreamfusion_jax.evaluation import truth_metrics as metrics
from dreamfusion_jax.evaluation.small_parts import find_small_parts, surviving
from dreamfusion_jax.toybox.world import Scene

RED, BLACK, BLUE, ROSE = (0.9, 0.1, 0.1), (0.1, 0.1, 0.1), (0.1, 0.1, 0.9), (0.9, 0.2, 0.2)


def picture():
    """A body of 30 x 30 red pixels with a wheel of 9 x 9, two eyes of 2 x 2 and a blush."""
    colour, seen = np.ones((1, 40, 40, 3)), np.zeros((1, 40, 40), bool)
    seen[0, 5:35, 5:35] = True
    colour[0, 5:35, 5:35] = RED
    colour[0, 20:29, 20:29] = BLACK  # 81 of 900 pixels: not small, and yet not the body's.
    colour[0, 8:10, 8:10] = BLACK
    colour[0, 10:12, 10:12] = BLUE  # Touches the other eye's corner, in another colour.
    colour[0, 15:17, 8:10] = ROSE  # Too near to the body's colour.
    return colour, seen


def test_small_parts_are_regions_of_few_pixels_and_another_colour() -> None:
    parts, body = find_small_parts(*picture())
    expected = np.zeros((1, 40, 40), bool)
    expected[0, 8:10, 8:10] = expected[0, 10:12, 10:12] = True
    np.testing.assert_array_equal(parts, expected)
    np.testing.assert_allclose(body, [RED], atol=1 / 255)
    # Two pixels that touch by a corner are one region: 25 + 25 of 900 are not small.
    colour, seen = picture()
    colour[0, 8:13, 8:13], colour[0, 13:18, 13:18] = BLACK, BLACK
    assert not find_small_parts(colour, seen)[0].any()
    # A wheel of 100 of 900 pixels is of the body, and with it the black eye.
    colour, seen = picture()
    colour[0, 20:30, 20:30] = BLACK
    parts, body = find_small_parts(colour, seen)
    assert len(body) == 2 and parts.sum() == 4 and parts[0, 10:12, 10:12].all()


def test_what_survives_is_counted_pixel_by_pixel() -> None:
    colour, seen = picture()
    opacity = seen.astype(float)
    assert surviving(colour, opacity, colour, seen) == 1.0
    assert surviving(colour, 0 * opacity, colour, seen) == 0.0
    assert surviving(np.where(seen[..., None], RED, 1.0), opacity, colour, seen) == 0.0
    half = opacity.copy()
    half[0, 8:10, 8:10] = 0.4  # One eye is gone.
    assert surviving(colour, half, colour, seen) == 0.5
    # A blue that is two fifths red, half seen through to the white behind.
    faded = colour.copy()
    faded[0, 10:12, 10:12] = 0.6 * (0.6 * np.array(BLUE) + 0.4 * np.array(RED)) + 0.4
    opacity[0, 10:12, 10:12] = 0.6
    assert surviving(faded, opacity, colour, seen) == 1.0
    faded[0, 10:12, 10] = 0.6 * (0.4 * np.array(BLUE) + 0.6 * np.array(RED)) + 0.4
    assert surviving(faded, opacity, colour, seen) == 6 / 8


def test_a_thing_without_small_parts_has_no_measure() -> None:
    seen = picture()[1]
    plain = np.where(seen[..., None], RED, 1.0)
    assert surviving(plain, seen.astype(float), plain, seen) is None
    assert surviving(plain, seen.astype(float), plain, np.zeros_like(seen)) is None


@pytest.mark.parametrize("category", ["duck", "snowman", "house"])
def test_the_truth_has_all_of_them_and_a_sphere_none(category: str) -> None:
    """A duck's eyes, a snowman's buttons, a house's windows, but not slivers of its walls."""
    scene = Scene(category, "yellow")
    colour, seen, _ = metrics._truth_view(scene, metrics.measuring_cameras(), size=64)
    parts, _ = find_small_parts(colour, seen)
    assert 20 < parts.sum() < 0.1 * np.asarray(seen).sum()
    truth, sphere = metrics.truth_portrait(scene, size=64), metrics.sphere_portrait(scene, size=64)
    assert surviving(truth.colour, truth.opacity, colour, seen) == 1.0
    assert surviving(sphere.colour, sphere.opacity, colour, seen) == 0.0

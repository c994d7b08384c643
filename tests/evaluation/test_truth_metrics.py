"""Measures against closed forms, and the search against similarities that are known."""

import functools
import math

import jax.numpy as jnp
import numpy as np
import pytest
from helpers.compiling import compile_well

from dreamfusion_jax.evaluation import truth_metrics as metrics
from dreamfusion_jax.toybox.world import CATEGORIES, COLOURS, Scene

SIZE = 48
PORTRAIT = 24
CAR = Scene("car", "green")


@pytest.fixture(autouse=True, scope="module")
def drawn_quickly():
    """A search draws the truth some hundred times."""
    with pytest.MonkeyPatch.context() as patch:
        drawn = compile_well(metrics.truth_silhouettes, static_argnames=("scene", "size"))
        patch.setattr(metrics, "truth_silhouettes", drawn)
        yield


def test_iou_of_shifted_squares_is_the_closed_form() -> None:
    """Two n x n squares, (dx, dy) apart: (n - dx)(n - dy) over 2 n^2 less that."""
    shifts, images = [(0, 0), (3, 0), (5, 7), (10, 2)], np.zeros((5, 40, 40), bool)
    for image, (dx, dy) in zip(images, shifts, strict=False):
        image[5 + dy : 15 + dy, 5 + dx : 15 + dx] = True
    both = np.array([(10 - dx) * (10 - dy) for dx, dy in shifts])
    expected = [*(both / (200 - both)), 0.0]
    found = metrics.silhouette_iou(images, np.broadcast_to(images[0], images.shape))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert metrics.silhouette_iou(images[4], images[4]) == 0.0


def test_psnr_is_the_closed_form() -> None:
    image = np.full((4, 4, 3), 0.5, np.float32)
    assert metrics.psnr(image, image + np.float32(0.1)) == pytest.approx(20.0, abs=1e-4)
    assert metrics.psnr(image, image) == math.inf


def test_alignment_recovers_a_known_similarity() -> None:
    cameras = metrics.measuring_cameras()
    known = metrics.Similarity(jnp.asarray(0.8), jnp.array([0.05, -0.08, 0.04]))
    silhouettes = functools.partial(metrics.truth_silhouettes, CAR, size=SIZE)
    moved = silhouettes(known.view(cameras))
    before = metrics.silhouette_iou(silhouettes(cameras), moved).mean()
    found, iou = metrics.similarity_align(silhouettes, moved, cameras)
    assert before < 0.6 < 0.97 < iou
    # Half a pixel is 1.3 / 1.1 / 48 / 2 = 0.012 world units.
    np.testing.assert_allclose(found.translation, known.translation, atol=0.006)
    assert found.scale == pytest.approx(0.8, abs=0.012)


def test_a_moved_sphere_is_where_the_projection_says() -> None:
    """A sphere of radius s * 0.4 at c, seen from p: its outline is a cone of known angle."""
    cameras, known = (
        metrics.measuring_cameras(),
        metrics.Similarity(jnp.asarray(0.5), jnp.array([0.1, 0.0, -0.1])),
    )
    seen = np.asarray(metrics.sphere_silhouettes(known.view(cameras), size=SIZE))
    ticks = (np.arange(SIZE) + 0.5) / SIZE - 0.5
    for view in range(0, 16, 5):
        rotation = np.asarray(cameras.rotation[view], np.float64)
        to_centre = np.asarray(known.translation) - np.asarray(cameras.position[view], np.float64)
        plane = np.stack([*np.meshgrid(ticks, -ticks), np.full((SIZE, SIZE), -1.1)], axis=-1)
        rays = plane / np.linalg.norm(plane, axis=-1, keepdims=True) @ rotation.T
        distance = np.linalg.norm(to_centre)
        inside = rays @ to_centre / distance > math.sqrt(1 - (0.2 / distance) ** 2)
        assert (inside != seen[view]).sum() <= 2


def test_the_truth_scores_full_marks_and_the_empty_scene_none() -> None:
    truth = metrics.measure(CAR, metrics.truth_portrait(CAR, size=PORTRAIT))
    assert truth.iou == 1.0 and truth.facing == 1.0 and truth.psnr == math.inf
    assert truth.colour == "green" and truth.haze == 0.0
    empty = metrics.measure(CAR, metrics.empty_portrait(size=PORTRAIT))
    assert empty.iou == 0.0 and empty.colour is None and empty.opacity == 0.0
    sphere = metrics.measure(CAR, metrics.sphere_portrait(CAR, size=PORTRAIT))
    assert 0.4 < sphere.iou < 0.75 and sphere.colour == "green"
    assert abs(sphere.facing) < 0.1


def test_a_turned_car_faces_backwards_and_a_half_turned_mean_faces_nowhere() -> None:
    cameras = metrics.measuring_cameras()
    draw = functools.partial(metrics._truth_view, CAR, size=PORTRAIT)
    front, back = (draw(metrics.turned(cameras, angle)) for angle in (0.0, math.pi))
    opacity = back[1].astype(jnp.float32)
    assert metrics.measure(CAR, metrics.Portrait(back[0], opacity)).facing < -0.5
    mean = metrics.Portrait(0.5 * (front[0] + back[0]), opacity)
    assert abs(metrics.measure(CAR, mean).facing) < 0.1


def test_a_half_turn_looks_from_the_opposite_side() -> None:
    """Eight evenly spaced cameras, turned by half a circle, are the same ones four further."""
    cameras = metrics.measuring_cameras()
    opposite = metrics.turned(cameras, math.pi)
    for name in ("position", "rotation"):
        low = np.asarray(getattr(cameras, name))[:8]
        found = np.asarray(getattr(opposite, name))[:8]
        np.testing.assert_allclose(found, np.roll(low, -4, axis=0), atol=1e-6)


def test_what_fills_the_pictures_is_no_silhouette_of_a_near_truth() -> None:
    """From near enough the truth fills them, too. A disc and a square have 0.84 at best."""
    truth = metrics.truth_portrait(CAR, size=16)
    filled = metrics.Portrait(np.ones_like(truth.colour), np.ones_like(truth.opacity))
    assert metrics.measure(CAR, filled).iou < 0.84


def test_haze_and_opacity_of_a_uniform_fog() -> None:
    fog = metrics.Portrait(jnp.full((16, SIZE, SIZE, 3), 0.9), jnp.full((16, SIZE, SIZE), 0.25))
    measures = metrics.measure(CAR, fog)
    assert measures.opacity == pytest.approx(0.25)
    assert measures.haze == pytest.approx(0.75)


@pytest.mark.parametrize("name", COLOURS)
def test_faded_and_darkened_colours_keep_their_name(name: str) -> None:
    rgb = np.array(COLOURS[name], np.float32)
    assert metrics.nearest_colour(rgb) == name
    assert metrics.nearest_colour(0.9 * rgb + np.float32(0.02)) == name


@pytest.mark.slow
@pytest.mark.parametrize("category", CATEGORIES)
def test_every_category_wears_its_main_colour(category: str) -> None:
    scene = Scene(category, "purple")
    assert metrics.measure(scene, metrics.truth_portrait(scene, size=SIZE)).colour == "purple"

"""Distances between surfaces, where they are known in closed form."""

import numpy as np
import pytest
import trimesh

from dreamfusion_jax.evaluation.mesh_metrics import (
    compare_points,
    shape,
    surface_points,
    true_mesh,
)
from dreamfusion_jax.toybox.world import Scene


def sphere(radius, centre=(0.0, 0.0, 0.0)):
    mesh = trimesh.creation.icosphere(subdivisions=5, radius=radius)
    return surface_points(mesh.apply_translation(centre))


def test_concentric_spheres_are_as_far_apart_as_their_radii_differ():
    found = compare_points(sphere(1.0), sphere(1.3), tolerance=0.05)
    assert found.chamfer == pytest.approx(0.3, abs=0.003)
    assert found.f_score == 0.0
    assert compare_points(sphere(1.0), sphere(1.3), tolerance=0.35).f_score == 1.0


def test_what_is_missing_and_what_is_too_much_cost_the_same():
    """One of two equal spheres: every point of it is right, and half of the truth is found."""
    one, far = sphere(0.3), sphere(0.3, (5.0, 0.0, 0.0))
    both = np.concatenate([one, far])
    missing, more = (compare_points(*pair, tolerance=0.03) for pair in ((one, both), (both, one)))
    assert missing.f_score == pytest.approx(2 / 3, abs=1e-6)
    assert more.f_score == pytest.approx(2 / 3, abs=1e-6)
    # The far half of one side is 5 away, on average by what the nearest point of a sphere says:
    # |p - c| - r with c at 5 from the centre of p's sphere, whose mean is 5 + r^2 / 15 - r.
    expected = 0.5 * 0.5 * (5 + 0.3**2 / 15 - 0.3)
    assert missing.chamfer == pytest.approx(expected, abs=0.01)
    assert more.chamfer == pytest.approx(missing.chamfer)


@pytest.mark.slow
def test_the_truth_scaled_and_moved_is_the_truth():
    truth = Scene("snowman", "white")
    mesh = true_mesh(truth)
    mesh.apply_scale(0.7).apply_translation((0.05, -0.1, 0.08))
    mesh.visual.vertex_colors = (200, 200, 200, 255)
    found = shape(mesh, truth)
    assert found.f_score > 0.99 and found.chamfer < 0.015
    mesh.apply_scale((1.0, 1.0, 0.4))
    squashed = shape(mesh, truth)
    assert squashed.f_score < 0.8 and squashed.chamfer > 2 * found.chamfer

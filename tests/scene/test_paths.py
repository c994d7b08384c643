import math

import numpy as np

from dreamfusion_jax.scene.camera import orbit
from dreamfusion_jax.scene.paths import spiral


def test_a_flat_spiral_of_one_turn_is_an_orbit():
    flat, around = spiral(5, (0.3, 0.3), 1.5, 1.1, turns=1.0), orbit(4, 0.3, 1.5, 1.1)
    np.testing.assert_allclose(flat.position[:4], around.position, atol=1e-5)
    np.testing.assert_allclose(flat.rotation[:4], around.rotation, atol=1e-5)
    np.testing.assert_allclose(flat.position[4], flat.position[0], atol=1e-5)


def test_a_spiral_rises_to_the_pole_and_faces_the_origin():
    cameras = spiral(9, (0.0, math.pi / 2), 2.0, 1.1)
    np.testing.assert_allclose(cameras.elevation, np.linspace(0, math.pi / 2, 9), atol=1e-3)
    np.testing.assert_allclose(cameras.distance, 2.0, rtol=1e-6)
    back = np.asarray(cameras.rotation)[..., 2]
    np.testing.assert_allclose(2.0 * back, cameras.position, atol=1e-5)

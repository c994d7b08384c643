import jax.numpy as jnp
import numpy as np
import pytest

from dreamfusion_jax.scene.views import VIEWS, front_side_weights, view_index, view_weights


@pytest.mark.parametrize(
    ("azimuth", "elevation", "name"),
    [
        (0, 0, "front view"),
        (44, 59, "front view"),
        (-44, -10, "front view"),
        (46, 0, "side view"),
        (-90, 30, "side view"),
        (134, 0, "side view"),
        (136, 0, "back view"),
        (180, 20, "back view"),
        (-136, 0, "back view"),
        (330, 0, "front view"),
        (540, 0, "back view"),
        (0, 61, "overhead view"),
        (180, 90, "overhead view"),
    ],
)
def test_view_quadrants(azimuth, elevation, name):
    index = view_index(jnp.deg2rad(float(azimuth)), jnp.deg2rad(float(elevation)))
    assert VIEWS[int(index)] == name


def test_view_weights_blend_between_the_centres():
    def weights(azimuth, elevation):
        return view_weights(*jnp.deg2rad(jnp.array([azimuth, elevation], jnp.float32)))

    for azimuth, elevation, expected in [
        (0, 0, [1, 0, 0, 0]),
        (90, 0, [0, 1, 0, 0]),
        (-90, 45, [0, 1, 0, 0]),
        (180, 0, [0, 0, 1, 0]),
        (30, 0, [2 / 3, 1 / 3, 0, 0]),
        (240, 0, [0, 2 / 3, 1 / 3, 0]),
        (0, 60, [0.5, 0, 0, 0.5]),
        (10, 80, [0, 0, 0, 1]),
    ]:
        np.testing.assert_allclose(weights(azimuth, elevation), expected, atol=1e-5)

    rng = np.random.default_rng(0)
    around = jnp.array(rng.uniform(-np.pi, np.pi, 20_000), jnp.float32)
    above = jnp.array(rng.uniform(-0.3, np.pi / 2, 20_000), jnp.float32)
    every = view_weights(around, above)
    np.testing.assert_allclose(every.sum(-1), 1.0, atol=1e-6)
    assert every.min() > -1e-6
    low = above < np.pi / 4
    nearest = view_index(around, above)
    np.testing.assert_array_equal(every.argmax(-1)[low], nearest[low])


def decay(a, b, c, r):
    return a * np.exp(-b * r) + c


@pytest.mark.parametrize("degrees", [0, 30, 89, 91, 140, 180, -45, -120, 300])
def test_the_weights_of_wrong_sides_are_those_of_the_published_tables(degrees):
    """As threestudio goes through the cases, with its constants, angles in degrees."""
    angle = abs((degrees + 180) % 360 - 180)
    if angle < 90:
        share = 1 - angle / 90
        wanted = decay(4, 0.5, -2.426, share), decay(4, 0.5, -2.426, 1 - share)
    else:
        share = 2 - angle / 90
        wanted = decay(1, 0.5, 0.967, share), decay(1, 0.5, -0.606, share)
    azimuth = jnp.asarray(np.deg2rad(degrees), jnp.float32)
    got = front_side_weights(azimuth, jnp.asarray(0.3))
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    overhead = front_side_weights(azimuth, jnp.asarray(1.4))
    np.testing.assert_allclose(overhead, [0.0, 0.0], atol=1e-6)

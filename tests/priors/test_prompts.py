import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from dreamfusion_jax.priors.prompts import PromptConfig, Text, text_for, view_prompts
from dreamfusion_jax.scene.camera import Camera, from_angles

RNG = np.random.default_rng(0)


def make_text(num):
    views, plain, empty = (
        jnp.array(RNG.normal(size=shape), jnp.float32) for shape in ((num, 2, 3), (2, 3), (2, 3))
    )
    return Text(views, plain, empty)


def cameras(*angles):
    azimuth, elevation = jnp.deg2rad(jnp.array(angles, jnp.float32)).T
    position = from_angles(azimuth, elevation, jnp.full_like(azimuth, 1.3))
    num = len(angles)
    return Camera(position, jnp.tile(jnp.eye(3), (num, 1, 1)), focal=jnp.ones(num))


FRONT, SIDE, BACK, OVERHEAD = range(4)


def test_prompts_name_the_views():
    assert view_prompts("a duck", PromptConfig()) == (
        "a duck, front view",
        "a duck, side view",
        "a duck, back view",
        "a duck, overhead view",
    )
    octants = view_prompts("a duck", PromptConfig("octants"))
    assert len(set(octants)) == 9 and octants[-1] == "a duck, overhead view"


def test_nearest_takes_the_text_of_the_quadrant():
    text = make_text(4)
    places = {
        (0, 0): FRONT,
        (44, 59): FRONT,
        (-44, -9): FRONT,
        (46, 10): SIDE,
        (-134, 10): SIDE,
        (270, 30): SIDE,
        (136, 0): BACK,
        (180, 59): BACK,
        (-170, 20): BACK,
        (180, 61): OVERHEAD,
        (10, 90): OVERHEAD,
    }
    got = text_for(text, cameras(*places), PromptConfig("nearest"))
    np.testing.assert_array_equal(got, np.asarray(text.views)[list(places.values())])


def test_interpolate_mixes_neighbours():
    text = make_text(4)
    mixes = {
        (0, 0): (1, 0, 0, 0),
        (45, 10): (0.5, 0.5, 0, 0),
        (-30, -10): (2 / 3, 1 / 3, 0, 0),
        (-90, 0): (0, 1, 0, 0),
        (120, 0): (0, 2 / 3, 1 / 3, 0),
        (180, 44): (0, 0, 1, 0),
        (45, 60): (0.25, 0.25, 0, 0.5),
        (45, 80): (0, 0, 0, 1),
    }
    got = text_for(text, cameras(*mixes), PromptConfig("interpolate"))
    wanted = np.einsum("bv,vnd->bnd", list(mixes.values()), np.asarray(text.views, np.float64))
    np.testing.assert_allclose(got, wanted, atol=2e-6)


def test_octants_tell_left_from_right():
    text, config = make_text(9), PromptConfig("octants")
    names = view_prompts("x", config)
    places = {
        (0, 0): "x, front view",
        (45, 0): "x, front left view",
        (90, 30): "x, left view",
        (-90, 30): "x, right view",
        (-60, 0): "x, front right view",
        (159, 0): "x, back view",
        (-156, 0): "x, back right view",
        (-45, 80): "x, overhead view",
    }
    got = text_for(text, cameras(*places), config)
    wanted = np.asarray(text.views)[[names.index(name) for name in places.values()]]
    np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("views", ["octants", "nearest"])
def test_details_say_height_and_apparent_size(views):
    config = PromptConfig(views, details=True)
    names = view_prompts("x", config)
    text = make_text(len(names))
    places = {  # azimuth, elevation, focal length; the distance is 1.3.
        (0, -5, 1.2): "x, front view, seen from below, medium shot",
        (180, 20, 0.8): "x, back view, at eye level, long shot",
        (90, 45, 1.35): "x, left view, seen from above, close up",
        (45, 80, 1.2): "x, overhead view, medium shot",
        (0, 61, 0.7): "x, overhead view, long shot",
    }
    if views == "nearest":
        places = {place: name.replace("left view", "side view") for place, name in places.items()}
    looked = cameras(*((a, e) for a, e, _ in places))
    looked = dataclasses.replace(looked, focal=jnp.array([f for *_, f in places], jnp.float32))
    got = text_for(text, looked, config)
    for embedding, name in zip(got, places.values(), strict=True):
        same = [i for i, known in enumerate(names) if known == name]
        assert len(same) == (3 if "overhead" in name else 1)
        assert any(np.array_equal(embedding, text.views[i]) for i in same)


@pytest.mark.parametrize("views", ["interpolate", "none", "perp-neg"])
def test_details_are_said_where_views_are_named_one_at_a_time(views):
    config = PromptConfig(views, details=True)
    assert config.names == PromptConfig(views).names and not config.detailed


@pytest.mark.parametrize("angles", [(0, 0), (170, 80)])
def test_none_ignores_the_camera(angles):
    text = make_text(4)
    got = text_for(text, cameras(angles, angles), PromptConfig("none"))
    np.testing.assert_array_equal(got, np.stack([text.plain] * 2))

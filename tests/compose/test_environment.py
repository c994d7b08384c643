"""Light of panoramas against closed forms and brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.tiny import sphere_points
from PIL import Image
from scipy.special import sph_harm_y

from dreamfusion_jax.compose.environment import (
    harmonics,
    look_up,
    prefilter,
    read_panorama,
    uniform,
)
from dreamfusion_jax.compose.illumination import Illumination, light_received

NORMALS = sphere_points(50)


def panorama(function, height=64):
    """A panorama of a function of directions [..., 3], as its description says it lies."""
    rows = (np.arange(height) + 0.5) / height * np.pi
    columns = np.pi - (np.arange(2 * height) + 0.5) / height * np.pi
    polar, azimuth = np.meshgrid(rows, columns, indexing="ij")
    x, y = np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth)
    value = function(np.stack([x, y, np.cos(polar)], -1))
    return np.repeat(value[..., None], 3, axis=-1).astype(np.float32)


def received(surroundings, normals=NORMALS):
    dark = Illumination(jnp.zeros((0, 3)), jnp.zeros((0, 3)), surroundings)
    normals = jnp.asarray(normals, jnp.float32)
    return np.asarray(light_received(dark, normals, jnp.zeros_like(normals)))


def test_harmonics_are_those_of_scipy():
    x, y, z = NORMALS.T
    polar, azimuth = np.arccos(z), np.arctan2(y, x)
    expected = []
    for degree in range(3):
        for order in range(-degree, degree + 1):
            value = sph_harm_y(degree, abs(order), polar, azimuth)
            part = value.imag if order < 0 else value.real
            expected.append(part * (np.sqrt(2) * (-1) ** order if order else 1))
    np.testing.assert_allclose(
        harmonics(jnp.asarray(NORMALS, jnp.float32)), np.stack(expected, -1), atol=1e-6
    )


def test_light_from_everywhere_is_the_same_on_every_side():
    # The error of the sum falls with the square of the pixels' height: 1e-4 with 64 rows.
    grey = prefilter(panorama(lambda d: np.full(d.shape[:-1], 0.7), 256))
    np.testing.assert_allclose(received(grey), 0.7, atol=2e-5)
    np.testing.assert_allclose(received(uniform(jnp.array([0.7, 0.7, 0.7]))), 0.7, atol=1e-6)


@pytest.mark.parametrize("axis", [(0, 0, 1), (1, 0, 0), (0, -1, 0)])
def test_half_a_sky_gives_half_of_one_plus_the_cosine(axis):
    """Exact in nine numbers: the even degrees of a half-sky and the odd ones of a cosine vanish."""
    sky = prefilter(panorama(lambda d: (d @ np.array(axis) > 0).astype(float), 128))
    expected = 0.5 * (1 + NORMALS @ np.array(axis))
    np.testing.assert_allclose(received(sky)[:, 0], expected, atol=2e-3)


def test_light_is_what_an_integral_over_all_directions_gives():
    def sky(d):
        return 1 + d[..., 0] * d[..., 1] - 0.5 * d[..., 2] + 0.3 * d[..., 2] ** 2

    fine = sphere_points(200_000, seed=1)
    cosine = np.maximum(NORMALS[:8] @ fine.T, 0)
    expected = 4 * np.pi * (cosine * sky(fine)).mean(axis=1) / np.pi
    np.testing.assert_allclose(received(prefilter(panorama(sky)))[:8, 1], expected, rtol=0.02)


def test_a_lamp_lights_by_the_cosine_and_what_is_hidden_is_dark():
    lamp = Illumination(jnp.array([[0.0, 0, 3]]), jnp.array([[1.0, 0.5, 0]]), jnp.zeros((9, 3)))
    angle = np.linspace(0, np.pi, 9)
    normals = np.stack([np.sin(angle), 0 * angle, np.cos(angle)], -1)
    points = jnp.zeros((9, 3))
    light = np.asarray(light_received(lamp, jnp.asarray(normals, jnp.float32), points))
    expected = np.maximum(np.cos(angle), 0)[:, None] * [1, 0.5, 0]
    np.testing.assert_allclose(light, expected, atol=1e-6)
    half = light_received(lamp, jnp.asarray(normals, jnp.float32), points, jnp.full((9, 1), 0.5))
    np.testing.assert_allclose(half, expected / 2, atol=1e-6)


def test_looking_up_finds_the_direction():
    channels = [panorama(lambda d, i=i: d[..., i])[..., 0] for i in range(3)]
    picture = jnp.asarray(np.stack(channels, -1))
    seen = look_up(picture, jnp.asarray(NORMALS, jnp.float32))
    np.testing.assert_allclose(seen, NORMALS, atol=5e-3)
    # Straight behind, where the picture's left and right meet.
    back = look_up(picture, jnp.array([[-1.0, 1e-3, 0], [-1.0, -1e-3, 0]]))
    np.testing.assert_allclose(back[:, 0], -1, atol=5e-3)
    assert jax.device_get(abs(back[0, 1] - back[1, 1])) < 0.01


def test_panoramas_are_read_from_png_and_radiance(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "sky.png")
    np.testing.assert_allclose(read_panorama(tmp_path / "sky.png"), pixels / 255, atol=1e-6)
    # Radiance: mantissas and a common exponent, value = mantissa / 256 * 2^(exponent - 128).
    values = np.concatenate([pixels, np.full((4, 8, 1), 131, np.uint8)], -1)
    header = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 4 +X 8\n"
    (tmp_path / "sky.hdr").write_bytes(header + values.tobytes())
    seen = read_panorama(tmp_path / "sky.hdr")
    assert seen.max() > 4
    np.testing.assert_allclose(seen, pixels / 256 * 8, atol=0.04)


def test_what_is_no_panorama_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no environment picture .*sky\.png"):
        read_panorama(tmp_path / "sky.png")
    for name in ("sky.png", "sky.hdr"):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(ValueError, match="cannot be read"):
            read_panorama(tmp_path / name)

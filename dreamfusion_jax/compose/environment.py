"""Light from a picture of the surroundings: nine numbers a colour for a Lambertian surface.

A picture is a panorama (equirectangular): its top row is straight up, its middle column looks
along +x, the front of objects as they see it, and what is left of that lies at +y. Its numbers
are taken as they are, as everywhere in this package: no gamma is undone.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_BANDS = np.array([1.0] + 3 * [2 / 3] + 5 * [1 / 4], np.float32)
"""A_l / pi: how much of each harmonic a cosine lobe keeps (Ramamoorthi and Hanrahan 2001)."""


def harmonics(direction: Float[Array, "*batch 3"]) -> Float[Array, "*batch 9"]:
    """The real spherical harmonics up to degree 2 at unit directions, orthonormal."""
    x, y, z = jnp.moveaxis(direction, -1, 0)
    return jnp.stack(
        [
            jnp.full_like(x, 0.5 * np.sqrt(1 / np.pi)),
            *(float(np.sqrt(3 / (4 * np.pi))) * c for c in (y, z, x)),
            *(float(np.sqrt(15 / (4 * np.pi))) * c for c in (x * y, y * z)),
            float(np.sqrt(5 / (16 * np.pi))) * (3 * z * z - 1),
            float(np.sqrt(15 / (4 * np.pi))) * x * z,
            float(np.sqrt(15 / (16 * np.pi))) * (x * x - y * y),
        ],
        axis=-1,
    )


def uniform(colour: Float[Array, "3"]) -> Float[Array, "9 3"]:
    """Light that comes from everywhere: a white surface shows the colour."""
    constant = float(2 * np.sqrt(np.pi)) * colour
    return jnp.zeros((9, 3)).at[0].set(constant)


def prefilter(picture: Float[np.ndarray, "H W 3"]) -> Float[Array, "9 3"]:
    """What a white Lambertian surface reflects of a panorama, as harmonics of its normal.

    E(n) / pi = sum_lm (A_l / pi) L_lm Y_lm(n), with L_lm the panorama's own coefficients. What
    is left out, l > 2, is under 1 % of the energy for any light (Ramamoorthi and Hanrahan,
    'An Efficient Representation for Irradiance Environment Maps', 2001).
    """
    height, width, _ = picture.shape
    polar = np.linspace(0, np.pi, height + 1)
    # The solid angle of a pixel, exactly: the difference of the cosines at its edges.
    area = 2 * np.pi / width * -np.diff(np.cos(polar))
    directions = jnp.asarray(_directions(height, width))
    basis = np.asarray(harmonics(directions), np.float64)
    coefficients = np.einsum("hwk,hwc,h->kc", basis, picture.astype(np.float64), area)
    return jnp.asarray(_BANDS[:, None] * coefficients, jnp.float32)


def look_up(
    picture: Float[Array, "H W 3"], direction: Float[Array, "*batch 3"]
) -> Float[Array, "*batch 3"]:
    """What is seen of a panorama along unit directions, interpolated."""
    height, width, _ = picture.shape
    x, y, z = jnp.moveaxis(direction, -1, 0)
    column = (0.5 - jnp.arctan2(y, x) / (2 * jnp.pi)) * width - 0.5
    row = jnp.arccos(jnp.clip(z, -1.0, 1.0)) / jnp.pi * height - 0.5
    # One column more on either side: the picture goes around.
    around = jnp.pad(picture, ((0, 0), (1, 1), (0, 0)), mode="wrap")
    sample = [
        jax.scipy.ndimage.map_coordinates(around[..., c], [row, column + 1], 1, mode="nearest")
        for c in range(3)
    ]
    return jnp.stack(sample, axis=-1)


def read_panorama(path: Path) -> Float[np.ndarray, "H W 3"]:
    """A panorama in a file: any picture that Pillow reads, or Radiance .hdr.

    Raises:
        ValueError: It is no picture.
        OSError: There is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no environment picture {path}")
    if path.suffix == ".hdr":
        return _read_hdr(path)
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"), np.float32) / 255
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error


def _read_hdr(path: Path) -> np.ndarray:
    """Floats of a Radiance file, by ffmpeg: three planes, green, blue, red."""
    import imageio_ffmpeg

    frames = imageio_ffmpeg.read_frames(path, pix_fmt="gbrpf32le", bits_per_pixel=96)
    try:
        width, height = next(frames)["size"]
        green, blue, red = np.frombuffer(next(frames), "<f4").reshape(3, height, width)
    except (OSError, RuntimeError, StopIteration) as error:
        raise ValueError(f"{path} cannot be read as a Radiance picture") from error
    return np.stack([red, green, blue], axis=-1)


def _directions(height: int, width: int) -> Float[np.ndarray, "H W 3"]:
    """Unit directions of a panorama's pixels."""
    polar = (np.arange(height) + 0.5) / height * np.pi
    azimuth = (1 - 2 * (np.arange(width) + 0.5) / width) * np.pi
    sine = np.sin(polar)[:, None]
    z = np.broadcast_to(np.cos(polar)[:, None], (height, width))
    return np.stack([sine * np.cos(azimuth), sine * np.sin(azimuth), z], -1).astype(np.float32)

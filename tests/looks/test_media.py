import jax.numpy as jnp
import mediapy
import numpy as np
import pytest
from PIL import Image

from dreamfusion_jax.looks.media import (
    captioned,
    contact_sheet,
    save_png,
    save_video,
    side_by_side,
    to_uint8,
)


def random_images(*shape):
    return np.random.default_rng(0).random(shape, np.float32)


def test_to_uint8_clips_and_rounds():
    values = jnp.array([-0.5, 0.0, 0.499 / 255, 0.501 / 255, 127.4 / 255, 1.0, 2.0])
    np.testing.assert_array_equal(to_uint8(values), [0, 0, 0, 1, 127, 255, 255])
    bytes_ = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(bytes_.astype(np.float32) / 255), bytes_)


@pytest.mark.parametrize("labels", [None, ["colour", "a much longer name"]])
def test_contact_sheet_places_every_image(labels):
    images = random_images(2, 3, 20, 16, 3)
    sheet = contact_sheet(images, labels, padding=4)
    margin = sheet.shape[1] - (3 * 20 + 4)
    assert sheet.shape[0] == 2 * 24 + 4
    rest = sheet.copy()
    for row, column in np.ndindex(2, 3):
        top, left = 4 + row * 24, margin + 4 + column * 20
        tile = np.s_[top : top + 20, left : left + 16]
        np.testing.assert_array_equal(sheet[tile], images[row, column])
        rest[tile] = 1.0
    assert (rest[:, margin:] == 1).all()
    # Each label darkens the margin beside its own row, and touches neither border.
    dark = rest.min(axis=(1, 2)) < 0.5
    if labels is None:
        assert margin == 0
    else:
        assert dark[4:24].any() and dark[28:48].any()
        assert not dark[[0, 1, 2, 3, 24, 25, 26, 27]].any()
        assert (rest[:, :4] == 1).all() and (rest[:, margin - 1] == 1).all()


def test_contact_sheet_wants_a_label_for_each_row():
    with pytest.raises(ValueError, match="1 labels for 2 rows"):
        contact_sheet(random_images(2, 3, 8, 8, 3), ["colour"])


def test_captions_stand_below_their_pictures():
    images = np.round(255 * random_images(3, 20, 50, 3)) / 255
    sheet = captioned(images, ["one", "", "a caption that is much wider than its picture"], 2)
    below = (sheet.shape[0] - 4) // 2 - 24
    rest = sheet.copy()
    for number, image in enumerate(images):
        top, left = 4 + (number // 2) * (24 + below), 4 + (number % 2) * 54
        tile = np.s_[top : top + 20, left : left + 50]
        np.testing.assert_allclose(sheet[tile], image, atol=1e-6)
        rest[tile] = 1.0
    dark = rest.min(axis=2) < 0.5
    first, second, third = dark[24:, :56], dark[24:, 56:], dark[24 + below + 24 :, :56]
    assert first[:below].any() and not second.any() and third.any()
    assert not dark[:, :4].any() and not dark[:, 54:].any()
    with pytest.raises(ValueError, match="1 captions for 3 pictures"):
        captioned(images, ["one"], 2)


def test_png_reads_back_equal(tmp_path):
    image = random_images(7, 5, 3)
    save_png(tmp_path / "image.png", jnp.asarray(image))
    with Image.open(tmp_path / "image.png") as read:
        assert read.format == "PNG"
        np.testing.assert_array_equal(read, np.floor(255 * image + 0.5))


@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_video_reads_back_close(tmp_path, size):
    height, width = size
    y, x = np.mgrid[:height, :width] / 50
    frames = np.stack([np.stack([x, y, np.full_like(x, i / 6)], axis=-1) for i in range(6)]).astype(
        np.float32
    )
    save_video(tmp_path / "video.mp4", frames, fps=12.0)
    video = mediapy.read_video(tmp_path / "video.mp4")
    assert video.metadata.fps == 12
    assert video.shape == (6, 2 * -(-height // 2), 2 * -(-width // 2), 3)
    error = np.abs(np.asarray(video)[:, :height, :width] / 255 - frames)
    assert error.mean() < 0.01 and error.max() < 0.06


def test_side_by_side():
    left, right = random_images(4, 6, 5, 3), random_images(4, 6, 2, 3)
    both = side_by_side(left, jnp.asarray(right), left)
    assert both.shape == (4, 6, 12, 3)
    np.testing.assert_array_equal(both[:, :, 5:7], right)
    np.testing.assert_array_equal(both[:, :, 7:], left)

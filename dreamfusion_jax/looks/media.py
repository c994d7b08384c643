"""Pictures and videos: contact sheets, PNG and MP4 files."""

import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float, UInt8

from dreamfusion_jax.files import write_whole

FRAME_SUFFIXES = (".mp4", ".gif", ".webp", ".png")
"""What `save_frames` writes."""

Images = Array | np.ndarray
"""Colours in [0, 1], of JAX or NumPy."""


def to_uint8(images: Float[Images, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Colours in [0, 1] as bytes, clipped and rounded to the nearest."""
    clipped = np.clip(np.asarray(images, np.float32), 0.0, 1.0)
    return np.round(255 * clipped).astype(np.uint8)


def contact_sheet(
    images: Float[Images, "rows columns H W 3"],
    labels: Sequence[str] | None = None,
    padding: int = 2,
) -> Float[np.ndarray, "sheet_height sheet_width 3"]:
    """One picture of a table of images on white, with `padding` white pixels around each.

    Args:
        images: The table.
        labels: A name for each row, written to its left.
        padding: Width of the white lines, in pixels.

    Raises:
        ValueError: If there are not as many labels as rows.
    """
    around = ((0, 0), (0, 0), (0, padding), (0, padding), (0, 0))
    tiles = np.pad(np.asarray(images, np.float32), around, constant_values=1.0)
    rows, columns, height, width, _ = tiles.shape
    sheet = tiles.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, 3)
    sheet = np.pad(sheet, ((padding, 0), (padding, 0), (0, 0)), constant_values=1.0)
    if labels is None:
        return sheet
    if len(labels) != rows:
        raise ValueError(f"{len(labels)} labels for {rows} rows")
    return np.concatenate([_write_labels(labels, height, padding), sheet], axis=1)


def captioned(
    images: Float[Images, "N H W 3"], captions: Sequence[str], columns: int, padding: int = 4
) -> Float[np.ndarray, "sheet_height sheet_width 3"]:
    """Pictures in rows on white, each with its caption below it, cut to the picture's width.

    Args:
        images: From left to right, then from the top down.
        captions: A text for each.
        columns: Pictures in a row.
        padding: Width of the white lines, pixels.

    Raises:
        ValueError: There are not as many captions as pictures.
    """
    from PIL import Image, ImageDraw, ImageFont

    if len(captions) != len(images):
        raise ValueError(f"{len(captions)} captions for {len(images)} pictures")
    font = ImageFont.load_default()
    height, width = (side + padding for side in np.shape(images)[1:3])
    below = round(max(font.getbbox(caption)[3] for caption in captions)) + padding
    rows = -(-len(images) // columns)
    size = (columns * width + padding, rows * (height + below) + padding)
    sheet = Image.new("RGB", size, "white")
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        row, column = divmod(number, columns)
        tile = Image.new("RGB", (width - padding, height + below - padding), "white")
        tile.paste(Image.fromarray(to_uint8(image)), (0, 0))
        middle = ((width - padding) / 2, height - padding + below / 2)
        ImageDraw.Draw(tile).text(middle, caption, fill="black", font=font, anchor="mm")
        sheet.paste(tile, (padding + column * width, padding + row * (height + below)))
    return np.asarray(sheet, np.float32) / 255


def enlarge(images: Float[Images, "*batch H W 3"], least: int = 64) -> np.ndarray:
    """Repeats the pixels of pictures until they are at least so wide."""
    images = np.asarray(images)
    factor = -(-least // images.shape[-2])
    return images.repeat(factor, axis=-3).repeat(factor, axis=-2)


def side_by_side(*videos: Float[Images, "*batch H _ 3"]) -> Float[np.ndarray, "*batch H _ 3"]:
    """Images or videos of one height and length next to each other, left to right."""
    return np.concatenate([np.asarray(video) for video in videos], axis=-2)


def save_png(path: str | pathlib.Path, image: Float[Images, "H W 3"]) -> None:
    """Writes an image as PNG."""
    from PIL import Image

    Image.fromarray(to_uint8(image)).save(path, format="png")


def save_video(path: str | pathlib.Path, frames: Float[Images, "F H W 3"], fps: float) -> None:
    """Writes frames as an H.264 video (MP4) that every player reads.

    Players want even sides; a missing row or column repeats the last one.
    """
    import imageio_ffmpeg
    import mediapy  # Brings matplotlib with it.

    mediapy.set_ffmpeg(imageio_ffmpeg.get_ffmpeg_exe())
    _, height, width, _ = frames.shape
    even = ((0, 0), (0, height % 2), (0, width % 2), (0, 0))
    mediapy.write_video(path, np.pad(to_uint8(frames), even, mode="edge"), fps=fps, crf=17)


def save_frames(
    path: pathlib.Path, frames: Float[Images, "F H W channels"], fps: float
) -> tuple[pathlib.Path, ...]:
    """Writes frames as what the suffix says; a fourth channel is opacity, colours straight.

    - .mp4: a video, which has no opacity.
    - .gif, .webp: an animation that repeats for ever; of a .gif's opacity one bit is kept.
    - .png: one picture, or of several frames a file each: name-0000.png and so on.

    Args:
        path: Where.
        frames: At least one.
        fps: Frames a second.

    Returns:
        The files.

    Raises:
        ValueError: Another suffix, or opacity in a video.
        OSError: A file cannot be written.
    """
    from PIL import Image

    check_frames(path, opacity=frames.shape[-1] == 4)
    if path.suffix == ".mp4":
        write_whole(path, lambda part: save_video(part, frames, fps))
        return (path,)
    pictures = [Image.fromarray(frame) for frame in to_uint8(frames)]
    if path.suffix == ".png":
        several = [path.with_name(f"{path.stem}-{i:04d}.png") for i in range(len(pictures))]
        names = several if len(pictures) > 1 else [path]
        for name, picture in zip(names, pictures, strict=True):
            write_whole(name, lambda part, picture=picture: picture.save(part))
        return tuple(names)
    first, *rest = pictures
    write_whole(
        path,
        lambda part: first.save(
            part,
            save_all=True,
            append_images=rest,
            duration=round(1000 / fps),
            loop=0,
            quality=90,  # Of .webp.
            disposal=2,  # Of .gif: a frame does not show through the next.
        ),
    )
    return (path,)


def check_frames(path: pathlib.Path, *, opacity: bool) -> None:
    """Refuses what `save_frames` cannot write.

    Raises:
        ValueError: An unknown suffix, or opacity in a video.
    """
    if path.suffix not in FRAME_SUFFIXES:
        known = ", ".join(FRAME_SUFFIXES)
        raise ValueError(f"pictures are written as {known}, not as {path.suffix!r}")
    if opacity and path.suffix == ".mp4":
        raise ValueError("an .mp4 has no opacity: choose a background, or write .webp or .png")


def _write_labels(
    labels: Sequence[str], height: int, padding: int
) -> Float[np.ndarray, "sheet_height margin 3"]:
    """A white strip with black labels, one in the middle of each row of a contact sheet."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default()
    width = int(max(font.getlength(label) for label in labels)) + 1
    strip = Image.new("RGB", (width + 2 * padding, height * len(labels) + padding), "white")
    draw = ImageDraw.Draw(strip)
    for row, label in enumerate(labels):
        middle = (row + 0.5) * height + padding / 2
        draw.text((2 * padding, middle), label, fill="black", font=font, anchor="lm")
    return np.asarray(strip, np.float32) / 255

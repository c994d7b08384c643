"""Beginning a prior with the weights of another one, as far as they fit.

Weights are dictionaries of arrays under PyTorch's names, so that every trainer can use them.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file
from transformers import CLIPTokenizer

from dreamfusion_jax.toybox.architecture import OLDEST_BLOCK, read_json

Weights = dict[str, np.ndarray]

_TOKENS = "embeddings.token_embedding.weight"
_POSITIONS = "embeddings.position_embedding.weight"


def read_weights(folder: Path) -> tuple[Weights, Weights]:
    """Float32 weights of a prior's UNet and text encoder.

    Raises:
        FileNotFoundError: The folder holds none.
    """
    unet = load_file(folder / "unet/diffusion_pytorch_model.safetensors")
    text = load_file(folder / "text_encoder/model.safetensors")
    return tuple({n: x.astype(np.float32) for n, x in part.items()} for part in (unet, text))  # pyright: ignore[reportReturnType]


def start_text(old: Weights, fresh: Weights, words: CLIPTokenizer, old_words: CLIPTokenizer):
    """Weights of a text encoder: old ones where they fit, fresh ones elsewhere.

    Args:
        old: Of the prior to begin with.
        fresh: Random ones of the right shapes.
        words: Tokens of the fresh one.
        old_words: Tokens of the old one; rows are moved to where the same token is now.

    Returns:
        Weights, and how many numbers of them are old.
    """
    plain = {name.removeprefix("text_model."): x for name, x in old.items()}
    found, taken = {}, 0
    for name, values in fresh.items():
        key, values = name.removeprefix("text_model."), values.copy()
        before = plain.get(key)
        if before is None:
            pass
        elif key == _TOKENS:
            ids = old_words.get_vocab()
            for token, row in words.get_vocab().items():
                if token in ids:
                    values[row], taken = before[ids[token]], taken + values.shape[1]
        elif key == _POSITIONS:
            # Further positions begin like the last, which the old prior had for padding.
            count = min(len(before), len(values))
            values[:count], values[count:] = before[:count], before[-1]
            taken += count * values.shape[1]
        elif before.shape == values.shape:
            values, taken = before.copy(), taken + before.size
        found[name] = values
    return found, taken


def start_unet(old: Weights, fresh: Weights, block: int, old_block: int) -> tuple[Weights, int]:
    """Weights of a UNet: old ones where they fit, fresh ones elsewhere.

    Levels are counted from the coarsest, so that a UNet with one more fine level takes the
    others. With squares twice as large, the first and last convolution begin as those of the
    picture's average over 2 x 2 pixels.

    Returns:
        Weights, and how many numbers of them are old.
    """
    deeper = _levels(fresh) - _levels(old)
    moved = {_deeper(name, deeper): x for name, x in old.items()}
    if block == 2 * old_block:
        moved["conv_in.weight"] = _spread(moved["conv_in.weight"], old_block, axis=1) / 4
        for name in ("conv_out.weight", "conv_out.bias"):
            moved[name] = _spread(moved[name], old_block, axis=0)
    if (first := "time_embedding.linear_1.weight") in moved:
        moved[first] = _thinned(moved[first], fresh[first].shape[1])
    found, taken = {}, 0
    for name, values in fresh.items():
        before = moved.get(name)
        fits = before is not None and before.shape == values.shape
        found[name] = before.copy() if fits else values.copy()  # pyright: ignore[reportOptionalMemberAccess]
        taken += values.size if fits else 0
    return found, taken


def _levels(weights: Weights) -> int:
    return 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("down_blocks."))


def _deeper(name: str, by: int) -> str:
    parts = name.split(".")
    if parts[0] == "down_blocks":
        parts[1] = str(int(parts[1]) + by)
    return ".".join(parts)


def _spread(x: np.ndarray, block: int, axis: int) -> np.ndarray:
    """Repeats channels (row, column, colour) for each pixel of squares twice as large."""
    x = np.moveaxis(x, axis, 0)
    squares = x.reshape(block, block, 3, *x.shape[1:])
    squares = squares.repeat(2, axis=0).repeat(2, axis=1)
    return np.ascontiguousarray(np.moveaxis(squares.reshape(-1, *x.shape[1:]), 0, axis))


def _thinned(x: np.ndarray, columns: int) -> np.ndarray:
    """Sums the columns of neighbouring frequencies of the time; cosines come before sines."""
    if x.shape[1] != 2 * columns:
        return x
    return x.reshape(len(x), 2, columns // 2, 2).sum(axis=-1).reshape(len(x), columns)


def start_from(
    folder: Path, unet: Weights, text: Weights, block: int, words: CLIPTokenizer
) -> tuple[Weights, Weights, float]:
    """Weights to begin with: those of a folder where they fit, else fresh ones.

    Args:
        folder: Of the prior to begin with.
        unet: Fresh weights.
        text: Fresh weights.
        block: Pixels per side of the new prior's squares.
        words: The new prior's tokenizer.

    Returns:
        UNet, text encoder, and the share of all numbers that is old.

    Raises:
        FileNotFoundError: The folder holds no prior.
    """
    old_unet, old_text = read_weights(folder)
    old_block = read_json(folder / "toybox.json").get("block", OLDEST_BLOCK)
    new_unet, first = start_unet(old_unet, unet, block, old_block)
    old_words = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    new_text, second = start_text(old_text, text, words, old_words)
    total = sum(x.size for x in (*unet.values(), *text.values()))
    return new_unet, new_text, (first + second) / total

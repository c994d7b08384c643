"""Tensors of safetensors files, read only when they are asked for.

Only safetensors are read: a pickle can run code.
"""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from safetensors import SafetensorError, safe_open

_STEMS = ("diffusion_pytorch_model", "model")
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
"""Endings of files that may hold code."""
FULL, HALF = "", ".fp16"
"""Variants of a component's weights."""


class WeightsError(ValueError):
    """Weights that cannot be read, or do not fit the model; the message says which and why."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor that stays in its memory-mapped file; `tensor[:]` or `tensor[3:5]` reads it.

    Attributes:
        shape: Its shape.
        dtype: Its type, as safetensors names them: "F32", "BF16".
        read: Reads the part with an index.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[Any], Shaped[np.ndarray, "..."]]

    def __getitem__(self, index: Any) -> Shaped[np.ndarray, "..."]:
        """The part with this index, as a NumPy array of its own."""
        return self.read(index)

    @property
    def bytes(self) -> int:
        """Its size in the file, which names its type by the bits of a number."""
        bits = re.search(r"\d+", self.dtype)
        return math.prod(self.shape) * (int(bits[0]) if bits else 8) // 8

    def derive(
        self,
        shape: tuple[int, ...],
        change: Callable[[Shaped[np.ndarray, "..."]], Shaped[np.ndarray, "..."]],
    ) -> "Tensor":
        """The tensor of another shape that `change` makes of this one when it is read."""
        return Tensor(shape, self.dtype, lambda index: change(self.read(slice(None)))[index])


Tensors = dict[str, Tensor]
"""Tensors by the names that a checkpoint gives them."""


def open_tensors(path: Path) -> Tensors:
    """The tensors of a safetensors file, of an index of several, or of a folder with either.

    Raises:
        WeightsError: There are none, or a file is missing or damaged.
    """
    return {name: tensor for file in weight_files(path) for name, tensor in open_file(file).items()}


def open_file(file: Path) -> Tensors:
    """The tensors of one safetensors file.

    Raises:
        WeightsError: It is damaged, or is something else.
    """
    try:
        opened = safe_open(file, framework="numpy")
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{file} is truncated or not a safetensors file ({error})") from error
    slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
    return {
        name: Tensor(tuple(x.get_shape()), x.get_dtype(), x.__getitem__)
        for name, x in slices.items()
    }


def file_metadata(file: Path) -> dict[str, str]:
    """What a safetensors file says about itself.

    Raises:
        WeightsError: It is damaged, or is something else.
    """
    try:
        with safe_open(file, framework="numpy") as opened:
            return dict(opened.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{file} is truncated or not a safetensors file ({error})") from error


def find_weights(names: Collection[str], variants: tuple[str, ...]) -> str | None:
    """The safetensors file, or the index of several, of the first variant that is there.

    Args:
        names: Names of the files of a folder.
        variants: `FULL` and `HALF`, the preferred one first.
    """
    for variant in variants:
        for stem in _STEMS:
            single = f"{stem}{variant}.safetensors"
            old = f"{stem}.safetensors.index{variant}.json"
            for name in (single, old, f"{single}.index.json"):
                if name in names:
                    return name
    return None


def shard_names(index: Path) -> list[str]:
    """Names of the files that an index says the tensors are in.

    Raises:
        WeightsError: It is not such an index.
    """
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{index} is damaged: no index of safetensors files") from error


def weight_files(path: Path) -> list[Path]:
    """The safetensors files that a path stands for; see `open_tensors`.

    Raises:
        WeightsError: There are none, or one is missing.
    """
    if path.is_file():
        if path.suffix == ".json":
            return _shards(path)
        if path.suffix != ".safetensors":
            raise WeightsError(f"{path} is not a .safetensors file; other formats are not read")
        return [path]
    if not path.is_dir():
        raise WeightsError(f"{path} does not exist")
    names = {file.name for file in path.iterdir()}
    found = find_weights(names, (FULL, HALF))
    if found is None:
        pickles = sorted(name for name in names if name.endswith(PICKLES))
        hint = f"; {', '.join(pickles)} may hold code and is not read" if pickles else ""
        raise WeightsError(f"{path} holds no {' or '.join(_STEMS)} in .safetensors form{hint}")
    return _shards(path / found) if found.endswith(".json") else [path / found]


def _shards(index: Path) -> list[Path]:
    files = [index.parent / name for name in shard_names(index)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise WeightsError(f"{index} names files that do not exist: {', '.join(missing)}")
    return files

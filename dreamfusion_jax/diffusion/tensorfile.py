"""The safetensors file format: a JSON header, then the tensors' bytes, memory-mapped.

Layout: 8 bytes with the header's length (little endian), the header (each tensor's type,
shape and place), the data.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

_DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(jnp.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_LARGEST_HEADER = 100_000_000


class WeightsError(ValueError):
    """Weights that cannot be read, or do not fit the model; the message says which and why."""


def open_tensors(file: Path) -> dict[str, np.ndarray]:
    """Opens a safetensors file; the arrays are views of it, read when they are used.

    Raises:
        WeightsError: the file is truncated, damaged, or no safetensors file.
    """
    header, start = _read_header(file)
    data = np.memmap(file, mode="r")[start:]
    header.pop("__metadata__", None)
    return {name: _view(file, name, entry, data) for name, entry in header.items()}


def write_tensors(file: Path, tensors: Mapping[str, Any], dtype: Any) -> None:
    """Writes arrays as `dtype` under their names; `file` appears only when complete."""
    dtype = np.dtype(dtype)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + math.prod(tensor.shape) * dtype.itemsize
        shape = list(tensor.shape)
        header[name] = {"dtype": _CODES[dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    part = file.with_name(file.name + ".part")
    with part.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            stream.write(np.asarray(tensor).astype(dtype).tobytes())
    part.replace(file)


def _read_header(file: Path) -> tuple[dict[str, Any], int]:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        text = stream.read(length) if length <= _LARGEST_HEADER else b""
    try:
        header = json.loads(text)
    except ValueError:
        header = None
    if not isinstance(header, dict):
        raise WeightsError(f"{file} is truncated or not a safetensors file (no valid header)")
    return header, 8 + length


def _view(file: Path, name: str, entry: Any, data: np.ndarray) -> np.ndarray:
    code, shape = entry["dtype"], entry["shape"]
    begin, end = entry["data_offsets"]
    if code not in _DTYPES:
        raise WeightsError(f"{file}: tensor {name} has type {code}, which is not supported")
    dtype = _DTYPES[code]
    if end > data.size:
        raise WeightsError(
            f"{file} is truncated: tensor {name} ends at byte {end} of the data, "
            f"of which the file holds {data.size}"
        )
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise WeightsError(f"{file} is damaged: the size of tensor {name} is not that of its shape")
    return data[begin:end].view(dtype).reshape(shape)

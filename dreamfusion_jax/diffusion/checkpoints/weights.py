"""Checkpoints in diffusers' and transformers' layout to Flax parameters, and back.

The models name their submodules by PyTorch paths, so the parameter
`{"down_blocks.0": {"resnets.1": {"conv1": {"kernel": ...}}}}` is the tensor
`down_blocks.0.resnets.1.conv1.weight`. PyTorch stores convolutions as OIHW and matrices as
(out, in); Flax as HWIO and (in, out). Only safetensors are read: a pickle can run code.
"""

import json
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

Params = dict[str, Any]
"""A nested dictionary of arrays, as `model.apply({"params": params}, ...)` takes it."""

_STEMS = ("diffusion_pytorch_model", "model")
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")
_WEIGHT_LEAVES = ("kernel", "scale", "embedding")
_TYPES = ("F64", "F32", "F16", "BF16")


class WeightsError(ValueError):
    """Weights that cannot be read, or do not fit the model; the message says which and why."""


@runtime_checkable
class CheckpointModel(Protocol):
    """A Flax model that can be read from a checkpoint."""

    init: Any

    def example_inputs(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shapes of inputs to trace the model with."""
        ...

    @staticmethod
    def checkpoint_name(name: str) -> str | None:
        """This model's name of a checkpoint's tensor; None if the tensor is not needed."""
        ...


def load_params(path: Path | str, model: CheckpointModel, *, dtype: Any = jnp.float32) -> Params:
    """Reads a model's parameters as `dtype` from a safetensors file or a folder with one.

    A folder may hold one file, a half-precision variant or a sharded index. Each tensor is
    converted while it is read, so that no second copy of the model is held.

    Raises:
        WeightsError: there are no safetensors, a file is damaged, or tensors are missing,
            unexpected, wrongly shaped or of a type that is not read (all of them are named).
    """
    path = Path(path)
    tensors = {}
    for file in _weight_files(path):
        for stored, tensor in _open(file).items():
            name = model.checkpoint_name(stored)
            if name is not None:
                tensors[name] = tensor
    expected = _flatten(param_shapes(model))
    _check(path, tensors, {_name(p): _torch_shape(p, leaf.shape) for p, leaf in expected.items()})
    return unflatten_dict(
        {p: jnp.asarray(_to_flax(p, tensors[_name(p)][:], np.dtype(dtype))) for p in expected}
    )


def save_params(params: Params, file: Path | str, *, dtype: Any = jnp.float16) -> None:
    """Writes parameters as a safetensors file that diffusers and transformers can load.

    `file` appears, or changes, only when it is complete.
    """
    file = Path(file)
    part = file.with_name(f"{file.name}.part")
    leaves = {_name(p): _to_torch(p, x, np.dtype(dtype)) for p, x in _flatten(params).items()}
    save_file(leaves, part, metadata={"format": "pt"})
    part.replace(file)


def param_shapes(model: CheckpointModel) -> Params:
    """Shapes of a model's parameters, found without allocating them."""
    return jax.eval_shape(model.init, jax.random.key(0), *model.example_inputs())["params"]


def count_params(model: CheckpointModel) -> int:
    """Number of a model's parameters, found without allocating them."""
    return sum(leaf.size for leaf in jax.tree.leaves(param_shapes(model)))


def _flatten(params: Params) -> dict[tuple[str, ...], Any]:
    return dict(flatten_dict(params))


def _weight_files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix == ".json":
            return _shards(path)
        if path.suffix != ".safetensors":
            raise WeightsError(f"{path} is not a .safetensors file; other formats are not read")
        return [path]
    for variant in ("", ".fp16"):
        for stem in _STEMS:
            file = path / f"{stem}{variant}.safetensors"
            index = path / f"{stem}.safetensors.index{variant}.json"
            if file.is_file():
                return [file]
            if index.is_file():
                return _shards(index)
    if not path.is_dir():
        raise WeightsError(f"{path} does not exist")
    pickles = sorted(p.name for p in path.iterdir() if p.suffix in _PICKLES)
    hint = f"; {', '.join(pickles)} may hold code and is not read" if pickles else ""
    raise WeightsError(f"{path} holds no {' or '.join(_STEMS)} in .safetensors form{hint}")


def _shards(index: Path) -> list[Path]:
    names = set(json.loads(index.read_text())["weight_map"].values())
    files = [index.parent / name for name in sorted(names)]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise WeightsError(f"{index} names files that do not exist: {', '.join(missing)}")
    return files


def _open(file: Path) -> dict[str, Any]:
    """The file's tensors, memory-mapped: `tensor[:]` reads one as a NumPy array."""
    try:
        opened = safe_open(file, framework="numpy")
    except SafetensorError as error:
        raise WeightsError(f"{file} is truncated or not a safetensors file ({error})") from error
    names = opened.keys()
    return {name: opened.get_slice(name) for name in names}


def _check(path: Path, tensors: dict[str, Any], expected: dict[str, tuple[int, ...]]) -> None:
    missing = sorted(expected.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - expected.keys())
    known = {name: tensors[name] for name in sorted(expected.keys() & tensors.keys())}
    wrong = [
        f"{name} is {tensor.get_shape()}, not {list(expected[name])}"
        for name, tensor in known.items()
        if tensor.get_shape() != list(expected[name])
    ]
    # Integers and eight-bit floats mean nothing without the scales they were quantized with.
    unread = [
        f"{name} is {tensor.get_dtype()}"
        for name, tensor in known.items()
        if tensor.get_dtype() not in _TYPES
    ]
    problems = {
        "missing": missing,
        "unexpected": unexpected,
        "wrongly shaped": wrong,
        "of a type that is not read": unread,
    }
    found = [f"{len(v)} {kind} ({', '.join(v)})" for kind, v in problems.items() if v]
    if found:
        raise WeightsError(f"the tensors of {path} do not fit the model: {'; '.join(found)}")


def _name(path: tuple[str, ...]) -> str:
    leaf = "weight" if path[-1] in _WEIGHT_LEAVES else path[-1]
    return ".".join((*path[:-1], leaf))


def _torch_axes(path: tuple[str, ...], ndim: int) -> tuple[int, ...]:
    """Order in which PyTorch stores the axes of a Flax parameter."""
    if path[-1] != "kernel":
        return tuple(range(ndim))
    return (3, 2, 0, 1) if ndim == 4 else (1, 0)


def _torch_shape(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] for axis in _torch_axes(path, len(shape)))


def _to_torch(path: tuple[str, ...], leaf: Any, dtype: np.dtype) -> np.ndarray:
    # `save_file` writes an array's memory as it lies, whatever its strides say: hence order="C".
    return np.asarray(np.asarray(leaf).transpose(_torch_axes(path, leaf.ndim)), dtype, order="C")


def _to_flax(path: tuple[str, ...], tensor: np.ndarray, dtype: np.dtype) -> np.ndarray:
    axes = np.argsort(_torch_axes(path, tensor.ndim))
    return np.array(tensor.transpose(axes), dtype=dtype, order="C")

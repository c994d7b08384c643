"""Checkpoints in diffusers' and transformers' layout to Flax parameters, and back.

The models name their submodules by PyTorch paths, so the parameter
`{"down_blocks.0": {"resnets.1": {"conv1": {"kernel": ...}}}}` is the tensor
`down_blocks.0.resnets.1.conv1.weight`. PyTorch stores convolutions as OIHW and matrices as
(out, in); Flax as HWIO and (in, out).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import save_file

from dreamfusion_jax.devices import device_errors, require_memory
from dreamfusion_jax.diffusion.checkpoints.tensors import (
    Tensor,
    Tensors,
    WeightsError,
    open_tensors,
)
from dreamfusion_jax.files import write_whole
from dreamfusion_jax.kept import remembered

Params = dict[str, Any]
"""A nested dictionary of arrays, as `model.apply({"params": params}, ...)` takes it."""

_WEIGHT_LEAVES = ("kernel", "scale", "embedding")
_TYPES = ("F64", "F32", "F16", "BF16")
# Rows that are transposed at a time: few enough to stay in the processor's cache.
_ROWS = 256


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
        WeightsError: there are no safetensors, a file is damaged, or the tensors do not fit.
    """
    path = Path(path)
    return read_params(str(path), open_tensors(path), model, dtype=dtype)


def read_params(
    source: str, tensors: Tensors, model: CheckpointModel, *, dtype: Any = jnp.float32
) -> Params:
    """Reads a model's parameters as `dtype` from the tensors of a checkpoint.

    Args:
        source: Where the tensors come from, for errors.
        tensors: The tensors; those that the model does not need are left alone.
        model: The model.
        dtype: Type of the parameters.

    Raises:
        WeightsError: Tensors are missing, unexpected, wrongly shaped or of a type that is not
            read (all of them are named).
        OutOfMemoryError: They have no room.
    """
    expected = _flatten(param_shapes(model))
    known = _known(source, tensors, model, expected)
    size = sum(leaf.size for leaf in expected.values()) * np.dtype(dtype).itemsize
    require_memory(size, weights_of(source, dtype))
    return read_leaves(source, known, expected, dtype=dtype)


def weights_of(source: str, dtype: Any) -> str:
    """How errors call the parameters of a model."""
    return f"the weights of {source} in {np.dtype(dtype)}"


def known_tensors(source: str, tensors: Tensors, model: CheckpointModel) -> Tensors:
    """The tensors that a model needs, by its own names for them, checked to be all there.

    Raises:
        WeightsError: As `read_params`.
    """
    return _known(source, tensors, model, _flatten(param_shapes(model)))


def _known(
    source: str, tensors: Tensors, model: CheckpointModel, leaves: dict[tuple[str, ...], Any]
) -> Tensors:
    """`known_tensors` of a model whose parameters are these."""
    named = {model.checkpoint_name(stored): tensor for stored, tensor in tensors.items()}
    known = {name: tensor for name, tensor in named.items() if name is not None}
    _check(source, known, _tensor_shapes(leaves))
    return known


def tensor_shapes(model: CheckpointModel) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors that a checkpoint of the model has, by name."""
    return _tensor_shapes(_flatten(param_shapes(model)))


def _tensor_shapes(leaves: dict[tuple[str, ...], Any]) -> dict[str, tuple[int, ...]]:
    return {_name(path): _torch_shape(path, leaf.shape) for path, leaf in leaves.items()}


def read_leaves(
    source: str, tensors: Tensors, paths: Iterable[tuple[str, ...]], *, dtype: Any, prefix: str = ""
) -> Params:
    """The parameters with these paths, each converted while it is read.

    Args:
        source: Where the tensors come from, for errors.
        tensors: Tensors by the model's names.
        paths: Where the parameters are in the tree that is returned.
        dtype: Type of the parameters.
        prefix: What the names of the tensors have before the path.

    Raises:
        WeightsError: The memory does not suffice.
    """
    with device_errors(weights_of(source, dtype)):
        return unflatten_dict(
            {
                p: jax.device_put(_to_flax(p, tensors[prefix + _name(p)], np.dtype(dtype)))
                for p in paths
            }
        )


def save_params(params: Params, file: Path | str, *, dtype: Any = jnp.float16) -> None:
    """Writes parameters as a safetensors file that diffusers and transformers can load.

    `file` appears, or changes, only when it is complete.
    """
    file = Path(file)
    leaves = {_name(p): _to_torch(p, x, np.dtype(dtype)) for p, x in _flatten(params).items()}
    write_whole(file, lambda part: save_file(leaves, part, metadata={"format": "pt"}))


def param_shapes(model: CheckpointModel) -> Params:
    """Shapes of a model's parameters, found without allocating them."""

    def find() -> Params:
        return jax.eval_shape(model.init, jax.random.key(0), *model.example_inputs())["params"]

    return remembered("shapes", model, find)


def shape_paths(module: nn.Module, *inputs: Any) -> list[tuple[str, ...]]:
    """Paths of the parameters that a module has for these inputs."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    return list(_flatten(shapes))


def count_params(model: CheckpointModel) -> int:
    """Number of a model's parameters, found without allocating them."""
    return sum(leaf.size for leaf in jax.tree.leaves(param_shapes(model)))


def _flatten(params: Params) -> dict[tuple[str, ...], Any]:
    return dict(flatten_dict(params))


def _check(source: str, tensors: Tensors, expected: dict[str, tuple[int, ...]]) -> None:
    missing = sorted(expected.keys() - tensors.keys())
    unexpected = sorted(tensors.keys() - expected.keys())
    known = {name: tensors[name] for name in sorted(expected.keys() & tensors.keys())}
    wrong = [
        f"{name} is {list(tensor.shape)}, not {list(expected[name])}"
        for name, tensor in known.items()
        if tensor.shape != expected[name]
    ]
    # Integers and eight-bit floats mean nothing without the scales they were quantized with.
    unread = [
        f"{name} is {tensor.dtype}" for name, tensor in known.items() if tensor.dtype not in _TYPES
    ]
    problems = {
        "missing": missing,
        "unexpected": unexpected,
        "wrongly shaped": wrong,
        "of a type that is not read": unread,
    }
    found = [f"{len(v)} {kind} ({', '.join(v)})" for kind, v in problems.items() if v]
    if found:
        raise WeightsError(f"the tensors of {source} do not fit the model: {'; '.join(found)}")


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


def _to_flax(path: tuple[str, ...], tensor: Tensor, dtype: np.dtype) -> np.ndarray:
    axes = np.argsort(_torch_axes(path, len(tensor.shape)))
    stored = tensor[:]
    leaf = np.empty([tensor.shape[axis] for axis in axes], dtype)
    if path[-1] == "kernel" and leaf.ndim == 2:
        # The matrices of text encoders are larger than any cache.
        for row in range(0, len(stored), _ROWS):
            leaf[:, row : row + _ROWS] = stored[row : row + _ROWS].T
    else:
        leaf[...] = stored.transpose(axes)
    return leaf

"""Frozen dataclasses that JAX understands, and what is done with whole trees of arrays."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np

_T = TypeVar("_T")


def static(**kwargs: Any) -> Any:
    """Declares a dataclass field that is part of the tree's structure, not an array."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(frozen_default=True, field_specifiers=(static, dataclasses.field))
def pytree(cls: type[_T]) -> type[_T]:
    """Makes a class a frozen dataclass registered as a JAX pytree.

    Unflattening skips `__init__`, so that JAX may put placeholders (tracers, axis
    numbers, `None`) where run-time type checks expect arrays.
    """
    cls = dataclasses.dataclass(frozen=True)(cls)
    fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    data = [f.name for f in fields if not f.metadata.get("static")]
    meta = [f.name for f in fields if f.metadata.get("static")]

    def flatten_with_keys(node: _T):
        children = [(jax.tree_util.GetAttrKey(name), getattr(node, name)) for name in data]
        return children, tuple(getattr(node, name) for name in meta)

    def unflatten(aux: tuple, children: Any) -> _T:
        node = object.__new__(cls)
        for name, value in [*zip(data, children, strict=True), *zip(meta, aux, strict=True)]:
            object.__setattr__(node, name, value)
        return node

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten)
    return cls


def stack(trees: Sequence[_T]) -> _T:
    """Trees of one structure as one, their arrays along a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack(tree: _T) -> list[_T]:
    """The inverse of `stack`, cut by NumPy, for which nothing has to be compiled."""
    tree = jax.tree.map(np.asarray, tree)
    count = len(jax.tree.leaves(tree)[0])
    return [jax.tree.map(lambda leaf, at=at: leaf[at], tree) for at in range(count)]


def tree_bytes(tree: Any) -> int:
    """What the arrays of a tree take, or would take where it holds their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))

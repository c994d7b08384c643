"""Text that says what a value is, for finding again what was made from it."""

import dataclasses
import hashlib
import types
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

_KNOWN = ("dreamfusion_jax", "builtins", "enum", "flax", "jax", "jaxlib", "numpy", "tokenizers")
"""Packages whose code is told by versions or, of this one, by its digest. What others hold, such as
a field that someone is writing, may change without a trace of it here."""


class NotDescribedError(ValueError):
    """A value cannot be told from others of its kind by what it holds, such as a closure."""


def described(value: Any) -> str:
    """Text that is the same in every program for values that are the same, and for no others.

    Raises:
        NotDescribedError: There is none.
    """
    return "".join(_described(value))


def _described(value: Any) -> Iterator[str]:
    named = value if isinstance(value, type | types.FunctionType) else type(value)
    if named.__module__.partition(".")[0] not in _KNOWN:
        raise NotDescribedError(f"{named.__module__}.{named.__qualname__} may change")
    if isinstance(value, np.ndarray | jax.Array):
        held = np.asarray(value)
        yield f"{held.dtype}{held.shape}{hashlib.sha256(held.tobytes()).hexdigest()};"
    elif isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        if "<" in value.__qualname__:
            raise NotDescribedError(f"{value} was made within a function")
        yield f"{value.__module__}.{value.__qualname__};"
    elif isinstance(value, types.MethodType):
        yield from _within("method", [value.__self__, value.__name__])
    elif dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}
        yield from _within(described(type(value)), [fields])
    elif isinstance(value, dict):
        yield from _within("dict", [part for pair in value.items() for part in pair])
    elif isinstance(value, tuple | list | set | frozenset):
        ordered = sorted(value, key=described) if isinstance(value, set | frozenset) else value
        yield from _within(described(type(value)), ordered)
    else:
        text = repr(value)
        if " at 0x" in text:
            raise NotDescribedError(f"{text} does not say what it holds")
        yield f"{type(value).__qualname__} {text};"


def _within(name: str, parts: Any) -> Iterator[str]:
    yield f"{name}("
    for part in parts:
        yield from _described(part)
    yield ")"

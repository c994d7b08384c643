"""Stand-ins for packages that a bare machine lacks, so that the library can be imported there.

For machines with jax, flax, optax, orbax, numpy and transformers alone. Annotations then say
nothing, and pictures are not written as PNG; the arithmetic is the same.
"""

import importlib.util
import sys
import types
from typing import Any

ANNOTATIONS, LAZY = "jaxtyping", "lazy_loader"


class _Anything(type):
    """A type that takes any subscript and any union."""

    def __getitem__(cls, _: object) -> Any:
        return Any

    def __or__(cls, _: object) -> Any:
        return Any

    __ror__ = __or__


def stand_in() -> list[str]:
    """Puts stand-ins for jaxtyping and lazy_loader into place where they are not installed.

    Returns:
        Names of what was put into place.
    """
    anything = _Anything("Anything", (), {})
    # Every name that is asked for is a type that takes any subscript.
    annotations = types.ModuleType(ANNOTATIONS)
    annotations.__getattr__ = lambda _: anything  # pyright: ignore[reportAttributeAccessIssue]
    # The package then has no names of its own, only modules.
    lazy = types.ModuleType(LAZY)
    lazy.attach_stub = lambda *_: (_no_name, list, [])  # pyright: ignore[reportAttributeAccessIssue]
    missing = [m for m in (annotations, lazy) if importlib.util.find_spec(m.__name__) is None]
    sys.modules |= {module.__name__: module for module in missing}
    return [module.__name__ for module in missing]


def _no_name(name: str) -> Any:
    raise AttributeError(name)

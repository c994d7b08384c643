"""Stand-ins for packages that a bare machine lacks, so that the library can be imported there.

For machines with jax, flax, optax, orbax, numpy and transformers alone. Annotations then say
nothing, and pictures are not written as PNG; the arithmetic is the same.
"""

import importlib.util
import sys
import types
from typing import Any

ANNOTATIONS = "jaxtyping"


class _Anything(type):
    """A type that takes any subscript and any union."""

    def __getitem__(cls, _: object) -> Any:
        return Any

    def __or__(cls, _: object) -> Any:
        return Any

    __ror__ = __or__


def stand_in() -> list[str]:
    """Puts a stand-in for jaxtyping into place if it is not installed.

    Returns:
        Names of what was put into place.
    """
    if importlib.util.find_spec(ANNOTATIONS) is not None:
        return []
    module = types.ModuleType(ANNOTATIONS)
    anything = _Anything("Anything", (), {})
    # Every name that is asked for is a type that takes any subscript.
    module.__getattr__ = lambda _: anything  # pyright: ignore[reportAttributeAccessIssue]
    sys.modules[ANNOTATIONS] = module
    return [ANNOTATIONS]

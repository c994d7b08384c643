"""Checks of the values in a model's config.json."""

from collections.abc import Mapping
from typing import Any


def check_choices(
    what: str, values: Mapping[str, Any], choices: Mapping[str, tuple[Any, ...]]
) -> None:
    """Checks that each value with a list of supported ones is in it.

    Raises:
        ValueError: a value is not supported; names its key and what is supported.
    """
    for key, supported in choices.items():
        if key in values and values[key] not in supported:
            raise unsupported(what, key, values[key], *supported)


def check_known(what: str, values: Mapping[str, Any], known: set[str]) -> None:
    """Checks that no unknown option is switched on.

    Raises:
        ValueError: an unknown option has a value other than null and false.
    """
    for key, value in values.items():
        if key not in known and value not in (None, False):
            raise ValueError(f"{what} config: unknown option {key!r} = {value!r}")


def unsupported(what: str, key: str, value: Any, *supported: Any) -> ValueError:
    """The error for a value that a model does not support."""
    choices = ", ".join(repr(v) for v in supported)
    return ValueError(f"{what} config: {key} = {value!r} is not supported; supported: {choices}")

"""Checks of settings where they are declared: a message names the setting and its range."""

import dataclasses
import math


class SettingError(ValueError):
    """A setting is out of its range.

    Attributes:
        owner: Name of the dataclass that declares it.
        name: Its field there.
        reason: What it must be, and what it is.
    """

    def __init__(self, owner: object, name: str, wanted: str) -> None:
        self.owner, self.name = type(owner).__name__, name
        self.reason = f"must be {wanted}, not {getattr(owner, name)!r}"
        super().__init__(f"{name} of {self.owner} {self.reason}")


class MissingExtraError(ValueError):
    """A library of one of this package's extras is not installed; the message is one line."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs more: pip install 'dreamfusion_jax[{extra}]'")


@dataclasses.dataclass(frozen=True)
class Range:
    """Finite numbers between two ends.

    Attributes:
        low: Lower end.
        high: Upper end; infinite where there is none.
        above: Whether the lower end is left out.
        below: Whether the upper end is left out.
    """

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float | int) -> bool:
        low = value > self.low if self.above else value >= self.low
        high = value < self.high if self.below else value <= self.high
        return math.isfinite(value) and low and high

    def __str__(self) -> str:
        if math.isinf(self.low):
            return "finite"
        low = f"{'above' if self.above else 'at least'} {self.low:g}"
        high = f"{'below' if self.below else 'at most'} {self.high:g}"
        return low if math.isinf(self.high) else f"{low} and {high}"


SHARE = Range(0.0, 1.0)
"""Probabilities, and times as fractions of a run or of a schedule."""

DECAY = Range(0.0, 1.0, below=True)
"""Decays of moving averages."""

POSITIVE = Range(0.0, above=True)
"""Rates, distances, sizes."""

NOT_NEGATIVE = Range(0.0)
"""Weights of losses."""

FINITE = Range(-math.inf)
"""Anything but infinity and NaN."""


def check_range(owner: object, wanted: Range, *names: str) -> None:
    """Refuses numbers outside a range.

    Args:
        owner: The settings.
        wanted: The range.
        names: Fields that hold one number each.

    Raises:
        SettingError: One of them is outside.
    """
    for name in names:
        if getattr(owner, name) not in wanted:
            raise SettingError(owner, name, str(wanted))


def check_span(owner: object, wanted: Range, *names: str) -> None:
    """Refuses pairs that are not a lower and an upper end within a range.

    Args:
        owner: The settings.
        wanted: The range of both ends.
        names: Fields that hold two numbers each.

    Raises:
        SettingError: One of them is outside, or in the wrong order.
    """
    for name in names:
        low, high = getattr(owner, name)
        if low not in wanted or high not in wanted or low > high:
            raise SettingError(owner, name, f"two numbers, each {wanted}, the smaller first")


def check_count(owner: object, *names: str, least: int = 1) -> None:
    """Refuses what is not a whole number, or too small.

    Args:
        owner: The settings.
        names: Fields that hold one number each, or a tuple of them.
        least: Smallest number.

    Raises:
        SettingError: One of them is smaller, or not whole.
    """
    for name in names:
        value = getattr(owner, name)
        several = isinstance(value, tuple)
        for number in value if several else (value,):
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                kind = "whole numbers" if several else "a whole number"
                raise SettingError(owner, name, f"{kind} of at least {least}")

"""Small plots as the numbers of an inline SVG."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 320, 120
"""Of the area that lines are drawn in, in the units of the SVG."""

COLOURS = ("#1f77b4", "#d95f02", "#2a9d5c", "#7b4fa3")


@dataclasses.dataclass(frozen=True)
class Line:
    """One series.

    Attributes:
        name: In the legend.
        colour: Of its stroke.
        points: As the attribute of an SVG polyline.
        last: Its last value.
    """

    name: str
    colour: str
    points: str
    last: str


@dataclasses.dataclass(frozen=True)
class Plot:
    """Lines over the steps of a run.

    Attributes:
        title: What is plotted.
        lines: The series, of one scale.
        low: Label of the lower end of the scale.
        high: Label of the upper end.
        steps: Label of the right end of the axis.
    """

    title: str
    lines: tuple[Line, ...]
    low: str
    high: str
    steps: str


def plot(title: str, steps: Sequence[float], series: Mapping[str, Sequence[float]]) -> Plot:
    """Scales series to one plot; what is not finite is left out.

    Args:
        title: What is plotted.
        steps: Of the values of each series.
        series: Names and values.
    """
    values = [value for column in series.values() for value in column if math.isfinite(value)]
    low, high = min(values, default=0.0), max(values, default=1.0)
    span, length = (high - low) or 1.0, max(steps, default=0.0) or 1.0

    def place(step: float, value: float) -> str:
        return f"{WIDTH * step / length:.1f},{HEIGHT * (1 - (value - low) / span):.1f}"

    lines = [
        Line(
            name,
            colour,
            " ".join(place(s, v) for s, v in zip(steps, column, strict=True) if math.isfinite(v)),
            f"{column[-1]:.3g}" if column else "",
        )
        for (name, column), colour in zip(
            series.items(), (COLOURS * len(series))[: len(series)], strict=True
        )
    ]
    return Plot(title, tuple(lines), f"{low:.3g}", f"{high:.3g}", f"{length:g}")

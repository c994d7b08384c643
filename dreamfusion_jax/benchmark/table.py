"""What was measured, as a table for people and as JSON."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from dreamfusion_jax.benchmark.ceilings import Ceilings
from dreamfusion_jax.benchmark.timing import Measured

_HEAD = ("what", "median", "GFLOP", "MB", "GFLOP/s", "GB/s", "of the nearest ceiling")


@dataclasses.dataclass(frozen=True)
class Compared:
    """Two programs for the same thing, timed in turn.

    Attributes:
        name: Of the thing.
        ours: Median seconds.
        theirs: Median seconds.
        ratios: Theirs over ours, pair by pair, sorted.
        difference: Largest difference of what they give, as a share of the largest value.
    """

    name: str
    ours: float
    theirs: float
    ratios: tuple[float, ...]
    difference: float


def table(rows: Sequence[Measured], ceilings: Ceilings) -> str:
    """A Markdown table; what is not counted is left out."""
    cells = []
    for row in rows:
        nearest = ceilings.nearest(row)
        share = "" if nearest is None else f"{nearest[0]:.2f} ({nearest[1]})"
        numbers = (row.flops, row.bytes, row.flop_rate, row.byte_rate)
        scaled = (
            "" if number is None else f"{number / unit:.3g}"
            for number, unit in zip(numbers, (1e9, 1e6, 1e9, 1e9), strict=True)
        )
        cells.append((row.name, duration(row.seconds), *scaled, share))
    return markdown(_HEAD, cells)


def compared_table(rows: Sequence[Compared], peer: str) -> str:
    """A Markdown table of ratios."""
    head = ("what", "here", peer, f"{peer} / here: median", "least", "most", "difference")
    cells = []
    for row in rows:
        ratios = (row.ratios[len(row.ratios) // 2], row.ratios[0], row.ratios[-1])
        times = (duration(row.ours), duration(row.theirs))
        shown = (f"{ratio:.2f}" for ratio in ratios)
        cells.append((row.name, *times, *shown, f"{row.difference:.1e}"))
    return markdown(head, cells)


def duration(seconds: float) -> str:
    """Seconds in a unit that fits."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} us"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, whose columns are as wide as what is in them."""
    lines = [[*head], *([*row] for row in rows)]
    widths = [max(len(line[at]) for line in lines) for at in range(len(head))]
    padded = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    rule = "| " + " | ".join("-" * width for width in widths) + " |"
    return "\n".join([padded[0], rule, *padded[1:]])


def as_json(row: Measured, ceilings: Ceilings) -> dict[str, Any]:
    """A row with its rates and its share of a ceiling."""
    nearest = ceilings.nearest(row)
    return {
        **dataclasses.asdict(row),
        "flops_per_second": row.flop_rate,
        "bytes_per_second": row.byte_rate,
        "share": None if nearest is None else nearest[0],
        "ceiling": None if nearest is None else nearest[1],
    }

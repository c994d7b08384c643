"""Figures for papers and pages: tables of pictures and plots, as PNG, PDF and numbers.

They are laid out by matplotlib, which is imported where it is used.
"""

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from dreamfusion_jax.files import write_whole
from dreamfusion_jax.looks.media import Images

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DPI = 150
_LABEL = 8
"""Size of letters, points."""


def tiles(
    images: Float[Images, "rows columns H W 3"] | Sequence[Sequence[Images | None]],
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    *,
    side: float = 1.1,
) -> "Figure":
    """A table of pictures with the names of its rows at the left and of its columns above.

    Args:
        images: Pictures in [0, 1], drawn pixel by pixel; None leaves a place empty.
        rows: Names; none if empty.
        columns: Names; none if empty.
        side: Width of each picture, inches.
    """
    from matplotlib.figure import Figure

    height, width = len(images), len(images[0])
    margin = 0.07 * max((len(name) for name in rows), default=0)
    size = (side * width + margin, side * height + 0.25 * bool(columns))
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.0, hspace=0.0)  # pyright: ignore
    grid = figure.subplots(height, width, squeeze=False)
    for place, axes in np.ndenumerate(grid):
        row, column = place
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        picture = images[row][column]
        if picture is not None:
            axes.imshow(np.clip(np.asarray(picture, np.float32), 0, 1), interpolation="nearest")
        if rows and column == 0:
            axes.set_ylabel(
                rows[row], fontsize=_LABEL, rotation=0, ha="right", va="center", labelpad=4
            )
        if columns and row == 0:
            axes.set_title(columns[column], fontsize=_LABEL, pad=3)
    return figure


def bars(
    groups: Sequence[str], series: Mapping[str, Sequence[float]], label: str, *, width: float = 6.0
) -> "Figure":
    """Bars beside each other: a colour for each of the series, a place for each of the groups.

    Args:
        groups: Names along the axis.
        series: A height for every group, by name.
        label: Of the heights, which are percentages.
        width: Of the figure, inches.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 2.6), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    places, share = np.arange(len(groups)), 0.8 / len(series)
    for number, (name, heights) in enumerate(series.items()):
        offset = (number - (len(series) - 1) / 2) * share
        axes.bar(places + offset, heights, share, label=name)
    # Broken, so that long names do not run into each other.
    names = ["\n".join(textwrap.wrap(group, round(13 * width / len(groups)))) for group in groups]
    axes.set_xticks(places, names, fontsize=_LABEL)
    axes.set_ylabel(label, fontsize=_LABEL)
    axes.set_ylim(0.0, 105.0)  # Nothing is right, and everything is, look like it.
    axes.tick_params(axis="y", labelsize=_LABEL)
    axes.spines[["top", "right"]].set_visible(False)
    _name_series(figure, axes)
    return figure


def strips(
    names: Sequence[str],
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    width: float = 7.0,
) -> "Figure":
    """A line for each name, with a mark for each of the series; panels stand beside each other.

    Args:
        names: Of the lines, from the top.
        panels: By the label of their axis, for each of the series (the same in every panel) the
            values of all names.
        width: Of the figure, inches.
    """
    from matplotlib.figure import Figure

    size = (width, 0.8 + 0.2 * len(names))
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)
    lines = np.arange(len(names))
    for axes, (label, series) in zip(grid[0], panels.items(), strict=True):
        for name, values in series.items():
            axes.plot(values, lines, "o", markersize=4, label=name, alpha=0.8)
        axes.set_yticks(lines, names, fontsize=_LABEL)
        axes.set_xlabel(label, fontsize=_LABEL)
        axes.tick_params(axis="x", labelsize=_LABEL)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", linewidth=0.3)
    grid[0, 0].invert_yaxis()
    _name_series(figure, grid[0, 0])
    return figure


def _name_series(figure: "Figure", axes: "Axes") -> None:
    """Names the series of these axes, once and above all panels."""
    handles, labels = axes.get_legend_handles_labels()
    place = {"loc": "outside upper center", "ncols": len(labels)}
    figure.legend(handles, labels, fontsize=_LABEL, frameon=False, **place)


def save_figure(folder: Path, name: str, figure: "Figure", numbers: Mapping[str, Any]) -> Path:
    """Writes NAME.png, NAME.pdf and NAME.json, the numbers behind it, and returns the first.

    The files do not depend on when they were written.

    Raises:
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    undated = {"png": {"Software": None}, "pdf": {"CreationDate": None}}
    for kind, metadata in undated.items():
        write_whole(
            folder / f"{name}.{kind}",
            lambda part, kind=kind, metadata=metadata: figure.savefig(
                part, format=kind, metadata=metadata, bbox_inches="tight", pad_inches=0.03
            ),
        )
    text = json.dumps(numbers, indent=2) + "\n"
    write_whole(folder / f"{name}.json", text.encode())
    return folder / f"{name}.png"

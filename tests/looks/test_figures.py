"""The layout of figures, read back from the pictures."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from dreamfusion_jax.looks.figures import bars, save_figure, strips, tiles


def test_tiles_stand_where_they_should_and_files_are_the_same_again(tmp_path: Path) -> None:
    colours = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 1, 0], [0, 1, 1], [1, 0, 1]]])
    images = np.broadcast_to(colours[:, :, None, None].astype(np.float32), (2, 3, 5, 5, 3))
    written = []
    for folder in ("one", "two"):
        figure = tiles(images, ["first", "second"], ["a", "b", "c"])
        path = save_figure(tmp_path / folder, "table", figure, {"rows": 2})
        written.append([path.with_suffix(s).read_bytes() for s in (".png", ".pdf", ".json")])
    assert written[0] == written[1]
    assert json.loads(written[0][2]) == {"rows": 2}
    with Image.open(tmp_path / "one" / "table.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    middles = []
    for colour in (255 * colours).reshape(-1, 3):
        rows, columns = np.nonzero((pixels == colour).all(axis=-1))
        assert len(rows) > 1000
        middles.append((rows.mean(), columns.mean()))
    ys, xs = np.array(middles).T.reshape(2, 2, 3)
    assert (np.diff(xs, axis=1) > 50).all() and (np.diff(ys, axis=0) > 50).all()
    assert np.ptp(ys, axis=1).max() < 2 and np.ptp(xs, axis=0).max() < 2


def test_places_may_be_empty_and_bars_are_as_high_as_their_numbers() -> None:
    figure = tiles([[np.zeros((2, 2, 3)), None]])
    assert [len(axes.images) for axes in figure.axes] == [1, 0]
    heights = {"colour": [10.0, 20.0], "shape": [5.0, 40.0]}
    axes = bars(["x", "y"], heights, "%").axes[0]
    drawn = [[bar.get_height() for bar in group] for group in axes.containers]
    assert drawn == list(heights.values())
    centres = [bar.get_x() + bar.get_width() / 2 for bar in axes.patches]
    assert sorted(centres)[:2] == [centres[0], centres[2]]


def test_names_of_groups_do_not_run_into_each_other() -> None:
    names = ["base", "+ wide cameras", "+ view prompts", "+ lighting", "+ textureless", "the truth"]
    figure = bars(names, {"albedo": [1.0] * 6}, "%")
    figure.canvas.draw()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels()]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_strips_have_a_line_for_each_name_and_a_mark_for_each_value() -> None:
    panels = {
        "IoU": {"car": [0.9, 0.8], "duck": [0.7, 0.6]},
        "PSNR": {"car": [9, 8], "duck": [7, 6]},
    }
    figure = strips(["default", "changed"], panels)
    assert [axes.get_xlabel() for axes in figure.axes] == list(panels)
    for axes, series in zip(figure.axes, panels.values(), strict=True):
        drawn = {line.get_label(): line.get_xydata() for line in axes.lines}
        assert {name: list(marks[:, 0]) for name, marks in drawn.items()} == series
        assert all(list(marks[:, 1]) == [0, 1] for marks in drawn.values())
    names = figure.axes[0]
    assert [label.get_text() for label in names.get_yticklabels()] == ["default", "changed"]
    assert names.yaxis_inverted()

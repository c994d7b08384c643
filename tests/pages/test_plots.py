"""Plots: the points are where the numbers say."""

from dreamfusion_jax.pages.plots import HEIGHT, WIDTH, plot


def points_of(line):
    return [tuple(float(x) for x in pair.split(",")) for pair in line.points.split()]


def test_lines_share_a_scale_and_reach_its_ends():
    drawn = plot("p", [0.0, 5.0, 10.0], {"a": [1.0, 2.0, 3.0], "b": [3.0, 3.0, 1.0]})
    a, b = map(points_of, drawn.lines)
    assert a == [(0.0, HEIGHT), (WIDTH / 2, HEIGHT / 2), (WIDTH, 0.0)]
    assert b == [(0.0, 0.0), (WIDTH / 2, 0.0), (WIDTH, HEIGHT)]
    assert (drawn.low, drawn.high, drawn.steps) == ("1", "3", "10")
    assert [line.last for line in drawn.lines] == ["3", "1"]
    assert drawn.lines[0].colour != drawn.lines[1].colour


def test_what_is_flat_empty_or_not_finite_is_drawn_all_the_same():
    assert points_of(plot("p", [1.0, 2.0], {"a": [4.0, 4.0]}).lines[0])[0] == (WIDTH / 2, HEIGHT)
    assert plot("p", [], {"a": []}).lines[0].points == ""
    with_gap = plot("p", [1.0, 2.0, 3.0], {"a": [0.0, float("nan"), 1.0]})
    assert len(points_of(with_gap.lines[0])) == 2

import dataclasses
import math

import pytest

from dreamfusion_jax.checks import (
    DECAY,
    FINITE,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Range,
    SettingError,
    check_count,
    check_range,
    check_span,
)


@dataclasses.dataclass
class Settings:
    value: object


@pytest.mark.parametrize(
    ("wanted", "inside", "outside"),
    [
        (SHARE, [0, 1, 0.3], [-1e-9, 1.0000001]),
        (DECAY, [0, 0.999], [1, -0.1]),
        (POSITIVE, [1e-30, 5, 1e30], [0, -1]),
        (NOT_NEGATIVE, [0, 1e30], [-1e-30]),
        (FINITE, [-1e30, 0, 3], []),
        (Range(2.0, 5.0), [2, 5], [1.9, 5.1]),
    ],
)
def test_ranges(wanted, inside, outside):
    for value in inside:
        check_range(Settings(value), wanted, "value")
    for value in [*outside, math.nan, math.inf, -math.inf]:
        with pytest.raises(SettingError, match=r"^value of Settings must be "):
            check_range(Settings(value), wanted, "value")


def test_the_message_names_the_setting_its_range_and_the_value():
    with pytest.raises(SettingError) as caught:
        check_range(Settings(2), SHARE, "value")
    assert str(caught.value) == "value of Settings must be at least 0 and at most 1, not 2"
    assert (caught.value.owner, caught.value.name) == ("Settings", "value")
    assert caught.value.reason == "must be at least 0 and at most 1, not 2"
    texts = [str(wanted) for wanted in (DECAY, POSITIVE, NOT_NEGATIVE, FINITE)]
    assert texts == ["at least 0 and below 1", "above 0", "at least 0", "finite"]


def test_spans():
    check_span(Settings((1.0, 1.5)), POSITIVE, "value")
    check_span(Settings((1.0, 1.0)), POSITIVE, "value")
    for value in [(5.0, 1.0), (0.0, 1.0), (-1.0, 1.0), (1.0, math.inf), (math.nan, 1.0)]:
        with pytest.raises(SettingError, match="two numbers, each above 0, the smaller first"):
            check_span(Settings(value), POSITIVE, "value")


def test_counts():
    for value in [1, 7, (1, 64), ()]:
        check_count(Settings(value), "value")
    check_count(Settings(0), "value", least=0)
    for value in [0, -1, 1.0, True, (64, 0), (2.5,)]:
        with pytest.raises(SettingError, match="of at least 1"):
            check_count(Settings(value), "value")

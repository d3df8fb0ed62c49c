"""Ranges of thresholds, as the Monitoring Plugins guidelines have them."""

import math

import pytest

from channels_admission.management.terminal.nagios import Range


@pytest.mark.parametrize(
    ("text", "alerts", "rests"),
    [
        ("10", [-1, 11, 10.5], [0, 10]),
        ("10:", [9, -1], [10, 1e9]),
        ("~:10", [11], [10, -1e9]),
        ("10:20", [9, 21], [10, 20]),
        ("@10:20", [10, 15, 20], [9, 21]),
        ("@10", [0, 10], [-1, 11]),
        ("0:0.5", [0.6], [0, 0.5]),
    ],
)
def test_a_range_of_the_guidelines(text, alerts, rests):
    found = Range.parse(text)
    assert [found.alerts(value) for value in alerts] == [True] * len(alerts)
    assert [found.alerts(value) for value in rests] == [False] * len(rests)
    assert Range.parse(str(found)) == found


@pytest.mark.parametrize("text", ["", "@", ":", "x", "1e3", "10:x", "-5", "10:20:30", "~", "10%", "nan", "1" * 10])
def test_what_is_no_range(text):
    with pytest.raises(ValueError, match="must be a number or a range"):
        Range.parse(text)


def test_a_range_begins_below_its_end():
    with pytest.raises(ValueError, match="must begin below its end, not '20:10'"):
        Range.parse("20:10")


@pytest.mark.parametrize(
    ("text", "whole", "shown"),
    [("70", 50, "35"), ("70", 33, "23.1"), ("10:20", 50, "5:10"), ("~:20", 10, "~:2"), ("@10:", 50, "@5:"),
     ("10", 0, "0"), ("90", 100_000_000, "90000000")],
)  # fmt: skip
def test_a_range_of_per_cent_in_slots(text, whole, shown):
    assert str(Range.parse(text).of(whole)) == shown


def test_a_plain_threshold():
    assert [Range.parse(text).is_plain for text in ("70", "~:70", "0:70", "@70", "10:", "10:70")] == [
        True, False, True, False, False, False,
    ]  # fmt: skip
    assert math.isinf(Range().high)

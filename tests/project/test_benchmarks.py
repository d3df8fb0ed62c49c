"""The page of what admission costs, and the first page's part of it, tell what was measured."""

import json

from benchmarks.report import BLOCK, INDEX, Ratio, page, ratio, summary, targets, up

from support import ROOT

DOCS = ROOT / "docs"


def measured():
    return json.loads((DOCS / "speed.json").read_text())


def test_the_page_is_made_of_the_figures():
    assert (DOCS / "speed.md").read_text() == page(measured())


def test_the_first_page_tells_the_figures_of_the_page():
    (told,) = BLOCK.findall(INDEX.read_text())
    assert told == summary(measured())


def test_nothing_is_rounded_in_our_favour():
    assert [up(value) for value in (1.0, 1.0401, 1.049, 0.1)] == ["1.00", "1.05", "1.05", "0.10"]


def test_a_ratio_is_the_median_of_those_within_each_round():
    assert ratio([2.0, 9.0, 4.0], [1.0, 3.0, 4.0]) == Ratio(2.0, 1.5, 2.5)


def test_the_page_tells_how_long_handshakes_take_and_whether_that_is_a_target_met():
    each = {"bare": {"median": 2.0, "p99": 5.0}, "middleware": {"median": 2.7, "p99": 6.0}}
    times = {"0": {"5": each, "50": {**each, "middleware": {"median": 2.5, "p99": 9.0}}}}
    found = {**measured(), "latency": {"loop": "uvloop", "times": times}}
    assert "| + 0 ms | 50 | 2.00 (5.0) ms | 2.50 (9.0) ms |" in page(found)
    (target,) = (each for each in targets(found) if "median" in each.what)
    assert (round(target.value, 3), target.is_met) == (0.4, False)


def test_the_page_tells_what_a_slow_redis_does():
    pile = {
        "workers": 50, "held": 500, "most": 500, "calls": 900, "failed": 1, "away": 2, "rate": 117.4,
        "refilled": [0.1, 0.2, 2.26], "stated": 1.84,
    }  # fmt: skip
    found = {**measured(), "pileup": [pile]}
    assert "| 50 | 117 | 1 of 900 | 2 | 500 of 500 | 0.2 s | 2.3 s | 1.8 s |" in page(found)

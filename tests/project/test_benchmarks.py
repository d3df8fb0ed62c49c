"""The page of what admission costs, and the first page's part of it, tell what was measured."""

import json

from benchmarks.report import BLOCK, INDEX, Ratio, page, ratio, summary, up

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

"""The series of a promtool test as if Prometheus asked several targets that tell the same, or that replace each other.

A site's workers all answer for the whole pool: rules and dashboards must say the same however many of them are asked.
"""

import re
from collections.abc import Callable, Sequence

SERIES = re.compile(r"- series: '(?P<series>.*)instance=\"i:1\"(?P<rest>.*)'\n +values: (?P<values>.+)\n")
STEP = re.compile(r"(?P<first>-?[\d.]+)(?P<slope>[+-][\d.]+)?x(?P<times>\d+)|_x(?P<gap>\d+)|(?P<one>\S+)")
LIFE, OVERLAP = 12, 2
"""Samples for which a target is asked before the next one takes its place, and for which both are asked."""

Samples = list[str]


def samples(values: str) -> Samples:
    """The samples that promtool's notation stands for; ``_`` is a missing one."""
    found: Samples = []
    for step in STEP.finditer(values):
        if step["gap"]:
            found += ["_"] * int(step["gap"])
        elif step["one"]:
            found.append(step["one"])
        else:
            first, slope = float(step["first"]), float(step["slope"] or 0)
            found += [f"{first + slope * number:g}" for number in range(int(step["times"]) + 1)]
    return found


def one(told: Samples) -> Sequence[Samples]:
    """One target, such as a balancer."""
    return [told]


def several(told: Samples) -> Sequence[Samples]:
    """Three targets that live all the time."""
    return [told] * 3


def replaced(told: Samples) -> Sequence[Samples]:
    """Targets that live for :data:`LIFE` samples, as pods in a deployment without end."""
    return [["_"] * start + told[start : start + LIFE + OVERLAP] + ["stale"] for start in range(0, len(told), LIFE)]


def multiplied(test: str, targets: Callable[[Samples], Sequence[Samples]]) -> str:
    """The promtool test with each series told by ``targets``."""

    def series(match: re.Match[str]) -> str:
        lines = enumerate(targets(samples(match["values"])), 1)
        return "".join(
            f"- series: '{match['series']}instance=\"i:{number}\"{match['rest']}'\n"
            f"        values: {' '.join(told)}\n      "
            for number, told in lines
        ).rstrip(" ")

    return SERIES.sub(series, test)

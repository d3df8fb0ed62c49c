"""``python -m benchmarks.herd``: simulate returning herds, print tables, and draw a picture.

With ``--connect-cost`` a herd whose ``connect()`` costs CPU time comes back without admission and by default settings.
With ``--mix`` one herd follows several rules. Both run against the package's own limiters.
"""

import argparse
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import django

from .picture import draw
from .simulation import Return, simulate
from demo import options
from demo.returns import echo_figures, ideal_by_rate, ideal_by_slots
from demo.rules import RULES
from demo.sites import WITHOUT_ADMISSION

if TYPE_CHECKING:
    from .world import Outcome

DOCS = Path(__file__).resolve().parent.parent / "docs"
SIZES = {10_000: 200.0, 1_000_000: 20_000.0}
"""Clients, and the admissions per second of their pool: fifty seconds for either herd."""
TOO_MANY = {"naive": 100_000}
"""Number of clients from which a rule makes too many attempts to simulate."""
MIXED_ONLY = ("ticket", "hammer", "gone")
"""Rules that say something in a mixed herd only."""
ARRIVE_WITHIN = 0.5
"""Seconds over which the first attempts of a mixed herd are spread."""
SETTINGS = {"without admission": WITHOUT_ADMISSION, "defaults": {}}


def table(returns: list[Return]) -> Iterator[str]:
    """A Markdown table of herds of one size."""
    yield "| the clients' rule | 99 % back | of the ideal | attempts per client | most in a second | after the first |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for each in returns:
        per_second, late = each.per_second(), each.until(0.99)
        yield (
            f"| `{each.rule.name}`: {each.rule.meaning} | {late:.1f} s | {late / each.ideal:.2f} × "
            f"| {each.per_client:.1f} | {per_second.max():,} | {per_second[1:].max(initial=0):,} |"
        )


def costly_table(outcomes: dict[str, "Outcome"]) -> Iterator[str]:
    """A Markdown table of one herd under several settings."""
    yield "| settings | 50 % back | 99 % | attempts per client | echo p50 | p99 | longest |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    for name, outcome in outcomes.items():
        echo = " | ".join(f"{wait:.3f} s" for wait in echo_figures(outcome.waits).values())
        yield (
            f"| {name} | {_seconds(outcome.until(0.5))} | {_seconds(outcome.until(0.99))} "
            f"| {outcome.per_client:.2f} | {echo} |"
        )


def mixed_table(outcome: "Outcome", ideal_seconds: float) -> Iterator[str]:
    """A Markdown table of the groups of one herd."""
    yield "| the clients' rule | clients | 50 % back | 99 % | of the ideal | attempts per client |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: |"
    for group in outcome.groups.values():
        late = group.until(0.99)
        of_ideal = "–" if late is None else f"{late / ideal_seconds:.2f} ×"
        yield (
            f"| `{group.rule.name}`: {group.rule.meaning} | {group.clients:,} | {_seconds(group.until(0.5))} "
            f"| {_seconds(late)} | {of_ideal} | {group.per_client:.2f} |"
        )


def _seconds(at: float | None) -> str:
    return "never" if at is None else f"{at:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate the return of a herd, by several rules.")
    parser.add_argument("--plot", type=Path, default=DOCS / "rules.png", help="the picture to draw (%(default)s)")
    parser.add_argument("--connect-cost", type=options.seconds, help="what connect() costs, such as 10ms")
    parser.add_argument("--mix", type=options.mix, help="such as ticket=600,hammer=600; rules: " + ", ".join(RULES))
    parser.add_argument("--clients", type=options.positive, default=600, help="of a costly herd (%(default)s)")
    parser.add_argument("--workers", type=options.positive, default=2)
    parser.add_argument("--rate", type=options.positive, default=100, help="of a mixed herd's pool (%(default)s)")
    parser.add_argument("--limit", type=options.positive, help="the slots of a mixed herd's pool, instead of a rate")
    parser.add_argument("--stay", type=options.seconds, default=3.0, help="how long each has its slot then")
    chosen = parser.parse_args()
    if chosen.connect_cost is None and chosen.mix is None:
        _compare_rules(chosen.plot)
        return
    _set_up()
    if chosen.connect_cost is None:
        _mix(chosen)
    else:
        _compare_settings(chosen)


def _set_up() -> None:
    logging.disable(logging.WARNING)  # the levels of a pool
    os.environ.update(REDIS_URL="", CHANNELS_ADMISSION="{}", DJANGO_SETTINGS_MODULE="benchmarks.settings")
    django.setup()


def _compare_rules(plot: Path) -> None:
    for clients, rate in SIZES.items():
        started = time.monotonic()
        alone = {name: rule for name, rule in RULES.items() if name not in MIXED_ONLY}
        rules = [rule for name, rule in alone.items() if clients < TOO_MANY.get(name, clients + 1)]
        returns = [simulate(rule, clients, rate) for rule in rules]
        best = f"ideally {returns[0].ideal:.1f} s"
        print(f"{clients:,} clients, {rate:,.0f} admissions a second, {best}:\n")
        print(*table(returns), sep="\n")
        print(f"\n({time.monotonic() - started:.0f} s)\n")
        if clients == min(SIZES):
            draw({each.rule.name: each for each in returns}, plot)


def _compare_settings(chosen: argparse.Namespace) -> None:
    from .world import Scene, play

    cost, groups = chosen.connect_cost, chosen.mix or {"hint": chosen.clients}
    scenes = {name: Scene(groups, keys, chosen.workers, cost) for name, keys in SETTINGS.items()}
    outcomes = {name: play(scene) for name, scene in scenes.items()}
    print(
        f"{sum(groups.values()):,} clients at once on {chosen.workers} workers; connect() costs {1000 * cost:g} ms:\n"
    )
    print(*costly_table(outcomes), sep="\n")


def _mix(chosen: argparse.Namespace) -> None:
    from .world import Scene, play

    if chosen.limit:
        stay, best = chosen.stay, ideal_by_slots(chosen.mix, chosen.limit, chosen.stay)
        keys, where = {"MAX_CONNECTIONS": chosen.limit}, f"{chosen.limit} slots, each kept for {stay:g} s"
    else:
        stay, best = None, ideal_by_rate(chosen.mix, chosen.rate)
        keys, where = {"CONNECT_RATE": chosen.rate}, f"{chosen.rate} admissions a second"
    scene = Scene(chosen.mix, keys, chosen.workers, arrive_within=ARRIVE_WITHIN, stay=stay)
    print(f"{sum(chosen.mix.values()):,} clients, {where}, ideally {best:.1f} s:\n")
    print(*mixed_table(play(scene), best), sep="\n")


if __name__ == "__main__":
    main()

"""``python -m benchmarks.herd``: simulate returning herds, print tables, and draw the README's picture."""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from .picture import draw
from .simulation import Return, simulate
from demo.rules import RULES

DOCS = Path(__file__).resolve().parent.parent / "docs"
SIZES = {10_000: 200.0, 1_000_000: 20_000.0}
"""Clients, and the admissions per second of their pool: fifty seconds for either herd."""
TOO_MANY = {"naive": 100_000}
"""Number of clients from which a rule makes too many attempts to simulate."""


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


def main() -> None:
    parser = argparse.ArgumentParser(description="Simulate the return of a herd, by several rules.")
    parser.add_argument("--plot", type=Path, default=DOCS / "herd.png", help="the picture to draw (%(default)s)")
    options = parser.parse_args()
    for clients, rate in SIZES.items():
        started = time.monotonic()
        rules = [rule for name, rule in RULES.items() if clients < TOO_MANY.get(name, clients + 1)]
        returns = [simulate(rule, clients, rate) for rule in rules]
        ideal = f"ideally {returns[0].ideal:.1f} s"
        print(f"{clients:,} clients, {rate:,.0f} admissions a second, {ideal}:\n")
        print(*table(returns), sep="\n")
        print(f"\n({time.monotonic() - started:.0f} s)\n")
        if clients == min(SIZES):
            draw({each.rule.name: each for each in returns}, options.plot)


if __name__ == "__main__":
    main()

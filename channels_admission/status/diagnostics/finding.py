"""A finding: one problem or note, with advice."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from ...core.overrides import utc
from ..values import PoolSnapshot, Side
from .model import Inputs


class Severity(StrEnum):
    CRITICAL = "critical"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """``title`` states the problem, ``detail`` the numbers, ``advice`` what to do."""

    id: str
    severity: Severity
    title: str
    detail: str
    advice: str


Finder = Callable[[Inputs], Iterator[Finding]]
"""Yields the findings of one kind, if any."""


def measured(pool: PoolSnapshot) -> str:
    """What the workers have lately taken, in brackets; empty if unknown."""
    return "" if pool.speed is None else f" (measured: {pool.speed:,g} connections per second)"


def since(pools: Iterable[PoolSnapshot]) -> str:
    """Since when the counters of these pools count, or ``so far`` if that is unknown."""
    known = [pool.since for pool in pools if pool.since is not None]
    return f" since {utc(min(known)):%d %b %H:%M:%S} UTC" if known else " so far"


def clock(second: float) -> str:
    """A Unix time as a time of day."""
    return f"{utc(second):%H:%M:%S} UTC"


def counted(side: Side) -> str:
    """The workers of a side: the first few by name, and the number of the others."""
    names = [" ".join(name.split(":")[:2]) for name in side.workers]
    more = f" and {side.number - len(names):,} more" if side.number > len(names) else ""
    return f"{', '.join(names)}{more}" if names else "workers that have ended"

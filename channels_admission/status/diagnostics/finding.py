"""A finding: one problem or note, with advice."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from ...core.overrides import utc
from ..values import PoolSnapshot, Side
from ..words import duration
from .model import Inputs, Process


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


NAMED = 5
"""Workers named in one finding."""


def exceeding(processes: Iterable[Process], amount: Callable[[Process], float], allowed: float = 0.0) -> list[Process]:
    """Those of which the amount is more than is allowed, the greatest first."""
    return sorted((each for each in processes if amount(each) > allowed), key=amount, reverse=True)


def named(processes: list[Process], told: Callable[[Process], str]) -> str:
    """The first few processes, each with its description."""
    text = "; ".join(f"{name_of(process)}: {told(process)}" for process in processes[:NAMED])
    return f"{text}; and {len(processes) - NAMED:,} more" if len(processes) > NAMED else text


def name_of(process: Process) -> str:
    """Host and pid."""
    return f"{process.host} {process.pid}"


def share_of(share: float | None) -> str:
    """A share in per cent."""
    return "unknown" if share is None else f"{100 * share:.0f} %"


def age_of(process: Process) -> str:
    """How long it has run."""
    return " ".join(duration(process.uptime))

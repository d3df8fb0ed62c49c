"""``ws_status --check``: one line by the Monitoring Plugins guidelines, for Nagios, Icinga and others.

The worst pool decides, and in it the worst of what is wrong. The performance data has two entries per pool:
``'pool NAME'=held;warning;critical;0;limit`` and ``'pool NAME refused'=number;0``, of the last five minutes.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum
from typing import NamedTuple

from ...core.agreement import SITE
from ...core.counters import unwanted
from ...core.levels import CRITICAL_AT, ROUNDING
from ...core.overrides import Order, signature
from ...ledger.base import LATELY
from ...ledger.memory import MemoryLedger
from ...status.values import Health, PoolSnapshot, Snapshot, WorkerSnapshot
from ...status.words import alone, numbered
from .layout import plain
from .status import problem

NO_WORKER = "no worker known"
UNHEARD = "without AdmissionLifespan, and under Daphne, one is known from its first connection on"
MOST_NAMED = 3
"""Workers, reasons and monitors named in one text."""
INCIDENTS = {
    "data_lost": "ledger lost its data",
    "layer_failed": "channel layer failed and ended connections",
    "shed": "connections closed for lack of memory",
    "channels_full": "full channels ended connections",
    "unaccepted": "connections not accepted in time",
    "lost": "workers lost without a goodbye",
    "healed": "damaged counts repaired",
    "events_dropped": "events dropped",
    "faults": "unexpected errors",
}
"""Incidents in words, the likeliest cause of another first."""


NUMBER = r"\d{1,9}(?:\.\d{1,9})?"
RANGE = re.compile(rf"(@?)(?:(~|{NUMBER}):)?({NUMBER})?")


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from ``low`` to ``high``, both included. It alerts outside of them, or ``inside``.

    As text it is that of the Monitoring Plugins guidelines:

    ===========  ===========================================
    ``10``       alert below 0 and above 10
    ``10:``      alert below 10
    ``~:10``     alert above 10
    ``10:20``    alert below 10 and above 20
    ``@10:20``   alert from 10 to 20
    ===========  ===========================================
    """

    high: float = math.inf
    low: float = 0.0
    inside: bool = False

    @classmethod
    def parse(cls, text: str) -> "Range":
        """:exc:`ValueError` for a text that is no range."""
        match = RANGE.fullmatch(text)
        if match is None or (match[2] is None and match[3] is None):
            raise ValueError(f"must be a number or a range such as 10:20 or @10:20, not {text!r:.40}")
        low = -math.inf if match[2] == "~" else float(match[2] or 0)
        high = float(match[3]) if match[3] else math.inf
        if low > high:
            raise ValueError(f"must begin below its end, not {text!r:.40}")
        return cls(high, low, bool(match[1]))

    @property
    def is_plain(self) -> bool:
        """Whether it is a single number."""
        return not self.inside and self.low == 0 and math.isfinite(self.high)

    def alerts(self, value: float) -> bool:
        return (self.low <= value <= self.high) is self.inside

    def of(self, whole: float) -> "Range":
        """The range of per cent as a range of ``whole``, to three decimals."""
        low, high = (round(each * whole / 100, 3) if math.isfinite(each) else each for each in (self.low, self.high))
        return replace(self, low=low, high=high)

    def __str__(self) -> str:
        low = "~:" if math.isinf(self.low) else f"{self.low:g}:" if self.low or math.isinf(self.high) else ""
        high = "" if math.isinf(self.high) else f"{self.high:.10g}"
        return f"{'@' if self.inside else ''}{low}{high}"


class ServiceState(IntEnum):
    """The result of a check, and its exit code. UNKNOWN has the highest number but is not the worst."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class Ranges:
    """Ranges of per cent of the limit, in which a pool's slots held are well; each None for the pool's level.

    A pool is in warning from its ``WARN_AT`` on, and critical from 90 % on.
    """

    warning: Range | None = None
    critical: Range | None = None

    def of(self, pool: PoolSnapshot) -> tuple[Range, Range]:
        """The two ranges in slots."""
        return (
            self.warning.of(pool.limit) if self.warning else _below(min(pool.warn_at, CRITICAL_AT), pool.limit),
            self.critical.of(pool.limit) if self.critical else _below(CRITICAL_AT, pool.limit),
        )


def _below(share: float, limit: int) -> Range:
    """The numbers of slots below a share of the limit."""
    return Range(max(0, math.ceil(share * limit - ROUNDING) - 1))


@dataclass(frozen=True, slots=True)
class Result:
    """The worst state, and the text of the line."""

    state: ServiceState
    text: str

    @property
    def line(self) -> str:
        return f"ADMISSION {self.state.name} - {self.text}"


class Fault(NamedTuple):
    """What is wrong, and how bad that is."""

    state: ServiceState
    text: str


def unknown(text: str) -> Result:
    """The state is unknown, for the reason in ``text``."""
    return Result(ServiceState.UNKNOWN, plain(text).replace("|", "/"))


def check(snapshot: Snapshot, thresholds: Ranges) -> Result:
    """Find what is wrong with the pools."""
    if snapshot.ledger.health is Health.DOWN:
        return unknown(problem(snapshot.ledger))
    if not snapshot.enabled:
        return unknown("admission is switched off, and nothing is counted")
    if snapshot.ledger.kind == MemoryLedger.kind:
        return unknown("the memory ledger keeps the counts inside each worker")
    is_unwell = snapshot.ledger.health in (Health.SETTLING, Health.LATE)
    is_served = any(pool.workers for pool in snapshot.pools)
    faults = {
        pool.name: (*_filled(pool, thresholds), *_faults(pool, is_served), *_incidents(pool, snapshot.taken))
        for pool in snapshot.pools
    }
    states = {name: max((fault.state for fault in found), default=ServiceState.OK) for name, found in faults.items()}
    worst = max(states.values())
    alike = [pool for pool in snapshot.pools if states[pool.name] is worst]
    fullest = max(alike, key=lambda pool: pool.share)
    shown = alike if worst is not ServiceState.OK else [fullest]
    parts = [f"ledger {snapshot.ledger.health}"] if is_unwell else []
    parts += [_described(pool, faults[pool.name]) for pool in shown]
    data = " ".join(_data(pool, thresholds) for pool in snapshot.pools)
    return Result(max(worst, ServiceState(is_unwell)), f"{', '.join(parts)} | {data}")


def _filled(pool: PoolSnapshot, thresholds: Ranges) -> Iterator[Fault]:
    """How many slots are held is told in any case."""
    warning, critical = thresholds.of(pool)
    if critical.alerts(pool.held):
        yield Fault(ServiceState.CRITICAL, "")
    elif warning.alerts(pool.held):
        yield Fault(ServiceState.WARNING, "")


def _faults(pool: PoolSnapshot, is_served: bool) -> Iterator[Fault]:
    """Whether no client is admitted; else the workers that admit none or not all, and what was refused lately.

    Without ``AdmissionLifespan`` a worker is known from a pool's first handshake on; where ``is_served`` tells that
    others have workers, it may admit.
    """
    closed = {worker.id: why for worker in pool.workers if (why := _closed(worker, pool))}
    if pool.paused:
        yield Fault(
            ServiceState.OK if pool.dry_run else ServiceState.CRITICAL, f"paused{_signature(pool.controls.paused)}"
        )
    if not pool.workers and pool.elsewhere.workers:
        told = numbered(pool.elsewhere.workers, "worker")
        yield Fault(ServiceState.WARNING, f"{NO_WORKER} but {told} of another version, ask with that")
    elif not pool.workers:
        yield (
            Fault(ServiceState.WARNING, NO_WORKER)
            if is_served
            else Fault(ServiceState.CRITICAL, f"{NO_WORKER} ({UNHEARD})")
        )
    elif len(closed) == len(pool.workers):
        yield Fault(ServiceState.CRITICAL, f"no worker admits: {_counted(Counter(closed.values()))}")
    else:
        yield from _silent(pool)
        yield from _alone(pool)
        yield from _pressed(pool)
    if pool.held >= pool.limit and not pool.dry_run:
        yield Fault(ServiceState.CRITICAL, "full")
    if refused := unwanted(pool.connects.refused):
        text = f"{sum(refused.values()):,} refused in {LATELY // 60} minutes: {_counted(refused)}"
        yield Fault(ServiceState.OK if pool.dry_run else ServiceState.WARNING, text)
    if pool.dry_run:
        yield Fault(ServiceState.OK, f"dry run{_signature(pool.controls.dry_run)}")


def _incidents(pool: PoolSnapshot, now: datetime) -> Iterator[Fault]:
    """What has happened lately, and what lasts until an operator mends it."""
    ages = pool.lately(now)
    for event, text in INCIDENTS.items():
        if event in ages:
            last = [f"{each.host} {each.pid}" for each in pool.lost_workers[:MOST_NAMED]] if event == "lost" else []
            named = f" ({plain(', '.join(last)).replace('|', '/')})" if last else ""
            yield Fault(ServiceState.WARNING, f"{text}{named}, the latest {ages[event]:.0f} s ago")
    if sites := pool.differs.get(SITE):
        yield Fault(ServiceState.WARNING, f"workers of {len(sites)} sites share the PREFIX")
    if others := sorted(name for name in pool.differs if name != SITE):
        yield Fault(
            ServiceState.WARNING, f"workers have different settings ({plain(', '.join(others)).replace('|', '/')})"
        )
    if pool.none_authenticated:
        yield Fault(ServiceState.WARNING, "no connection has ever authenticated")


def _signature(order: Order | None) -> str:
    """The operator, and when the override was set; empty where the settings say so."""
    return plain(signature(order)).replace("|", "/") if order else ""


def _closed(worker: WorkerSnapshot, pool: PoolSnapshot) -> str:
    """Why a worker admits no client, or an empty text. In a dry run a monitor refuses none, but a drain does."""
    if worker.silent:
        return "silent"
    if worker.draining:
        return "draining"
    names = [] if pool.dry_run else sorted(load.name for load in worker.load if load.pressure >= 1)
    return f"saturated ({', '.join(names[:MOST_NAMED])})" if names else ""


def _silent(pool: PoolSnapshot) -> Iterator[Fault]:
    silent = sorted((worker for worker in pool.workers if worker.silent), key=lambda worker: -worker.silence)
    if silent:
        names = ", ".join(f"{each.host} {each.pid} for {each.silence:.0f} s" for each in silent[:MOST_NAMED])
        yield Fault(
            ServiceState.WARNING, f"{len(silent):,} of {numbered(len(pool.workers), 'worker')} silent ({names})"
        )


def _alone(pool: PoolSnapshot) -> Iterator[Fault]:
    if failing := sum(worker.failing > 0 for worker in pool.workers):
        told = alone(failing, len(pool.workers))
        yield Fault(ServiceState.WARNING, f"{told}, as the ledger does not answer in time")


def _pressed(pool: PoolSnapshot) -> Iterator[Fault]:
    """The monitors that refuse, each with the highest share of handshakes; in a dry run they refuse none."""
    pressures: dict[str, list[float]] = {}
    for load in (load for worker in pool.workers for load in worker.load if load.pressure):
        pressures.setdefault(load.name, []).append(load.pressure)
    for name, found in sorted(pressures.items()):
        of_all = f"{len(found):,} of {numbered(len(pool.workers), 'worker')}"
        text = f"{name} refuses up to {100 * max(found):.0f} % on {of_all}"
        yield Fault(ServiceState.OK if pool.dry_run else ServiceState.WARNING, text)


def _counted(counts: Mapping[str, int]) -> str:
    """The most frequent words with their numbers."""
    words = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(words) - MOST_NAMED:,} more" if len(words) > MOST_NAMED else ""
    return ", ".join(f"{count:,} {word}" for word, count in words[:MOST_NAMED]) + more


def _described(pool: PoolSnapshot, faults: Iterable[Fault]) -> str:
    held = f"pool {pool.name}: {pool.held} of {pool.limit} slots held ({int(100 * pool.share)} %)"
    return ", ".join([held, *(fault.text for fault in faults if fault.text)])


def _data(pool: PoolSnapshot, thresholds: Ranges) -> str:
    warning, critical = thresholds.of(pool)
    refused = sum(unwanted(pool.connects.refused).values())
    return f"'pool {pool.name}'={pool.held};{warning};{critical};0;{pool.limit} 'pool {pool.name} refused'={refused};0"

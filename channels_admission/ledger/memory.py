"""The embedded ledger: counts in this process, shared by its event loops. For development, tests and single workers."""

import math
import os
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from .. import policy
from ..conf import Settings
from ..fairness import Decision, decide
from ..pace import Pace
from ..types import (
    NOTHING_SET,
    RELEASED,
    Controls,
    Counters,
    Edge,
    Key,
    Level,
    Moment,
    Neighbour,
    Past,
    Reading,
    Reason,
    Report,
    View,
    WorkerReading,
    is_decision,
)
from .base import LATELY, MINUTES, SECONDS, SPREAD, OutOfOrder
from .moments import add, parse, within, written

REAPED_PER_CALL = 100
EDGES_KEPT = 16
"""Changes of the level that wait to be told; the oldest beyond them are forgotten."""


@dataclass(slots=True)
class _Entry:
    report: Report
    held: int
    expires: float
    seen: float
    claims: dict[Key, int] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Pool:
    entries: dict[str, _Entry] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    claims: Counter[Key] = field(default_factory=Counter)
    version: int = 0
    clock: float = 0.0
    real: float = 0.0
    pace: Pace | None = None
    seconds: dict[int, str] = field(default_factory=dict)
    """Place in a ring of :data:`SECONDS` -> a moment as text."""
    minutes: dict[int, str] = field(default_factory=dict)
    controls: Controls = NOTHING_SET
    level: Level = Level.CALM
    edges: list["_Telling"] = field(default_factory=list)


@dataclass(slots=True)
class _Telling:
    """An edge that is to be told, by whom, and the version of the answer that said so."""

    version: int
    edge: Edge
    worker: str | None


class MemoryLedger:
    """A :class:`~.base.Ledger` that loses nothing while the process lives, and so never settles."""

    kind = "memory"
    address = "this process"

    _pools: dict[tuple[str, str], _Pool] = {}
    _lock = threading.Lock()

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._wall_clock = wall_clock

    async def reconcile(self, pool: str, report: Report) -> View:
        # Held for microseconds and never across an await: event loops in other threads share the pools.
        with self._lock:
            return self._apply(self._pools.setdefault((self._settings.prefix, pool), _Pool()), report)

    async def read(self, pools: tuple[str, ...]) -> tuple[Reading, ...]:
        with self._lock:
            return tuple(self._read(self._pools.get((self._settings.prefix, pool), _Pool())) for pool in pools)

    async def control(self, pool: str, controls: Controls, replaced: int) -> bool:
        with self._lock:
            theirs = self._pools.setdefault((self._settings.prefix, pool), _Pool())
            if theirs.controls.version != replaced:
                return False
            version = max(replaced + 1, round(1000 * self._wall_clock()))
            theirs.controls = replace(controls, version=version)
            return True

    async def past(self, pool: str) -> Past:
        with self._lock:
            known, now = self._pools.get((self._settings.prefix, pool), _Pool()), int(self._wall_clock())
            seconds = within(SECONDS, now, known.seconds.values())
            return Past(now, seconds, within(MINUTES, now // 60, known.minutes.values()))

    async def aclose(self) -> None:
        pass

    @classmethod
    def forget_all(cls) -> None:
        """Start over with no pools, as a forked child or a new test must."""
        cls._lock = threading.Lock()
        cls._pools.clear()

    def _apply(self, pool: _Pool, report: Report) -> View:
        self._advance(pool)
        entries, worker = pool.entries, report.worker
        entry = entries.get(worker)
        if entry and report.seq <= entry.report.seq:
            raise OutOfOrder(f"report {report.seq} of {worker} comes after report {entry.report.seq}")
        self._reap(pool, report)
        others = sum(other.held for name, other in entries.items() if name != worker)
        pace = pool.pace = pool.pace or Pace(pool.clock, report.terms)
        if report.controls.version > pool.controls.version:
            pool.controls = report.controls
        controls = pool.controls
        limit = controls.limit.value if controls.limit else report.limit
        paused = controls.paused is not None
        room = 0 if paused else max(0, min(report.wanted, limit - others - report.held))
        claims, decided = entry.claims if entry else {}, Decision()
        if report.fair is not None:
            _count(pool.claims, claims, report.fair.claims)
            decided = decide(report.fair, limit, others + report.held, pool.claims, math.inf, paused=paused)
            room = decided.used
        granted = pace.admit(room, pool.clock, report.terms, empty=others + report.held == 0)
        shortfall = self._shortfall(pool, report.wanted, room, granted)
        refused = report.wanted - granted
        if report.fair is not None:
            if granted < room:
                decided = decide(report.fair, limit, others + report.held, pool.claims, granted, paused=paused)
            _count(pool.claims, claims, [(key, claims.get(key, 0) + more) for key, more in decided.claims.items()])
            granted, shortfall, refused = decided.given, decided.shortfall, decided.refused(report.fair)
        before = entry.report.counters if entry else report.acknowledged
        pool.counters.update({name: count - before.get(name, 0) for name, count in report.counters.items()})
        pace.measure(pool.clock, pool.counters[RELEASED], self._settings.beat)
        pool.version += 1
        held = report.held + granted
        classes = decided.classes(report.fair) if report.fair is not None else {}
        entries[worker] = _Entry(report, held, pool.clock + self._settings.lease, self._clock(), claims, classes)
        if report.goodbye and held == 0:
            self._forget(pool, worker)
        edges = self._edges(pool, report, others + held, limit)
        known = entry is not None or not report.version
        elapsed = self._clock() - entry.seen if entry else report.age
        self._remember(pool, others + held, limit, _decided(report.counters, before) if known else {}, elapsed)
        return View(
            granted=granted,
            total=others + held,
            limit=limit,
            workers=sum(not other.report.draining for other in entries.values()),
            version=pool.version,
            settling=False,
            lapsed=entry is None and report.version > 0,
            shortfall=shortfall,
            offer=pace.offer(pool.clock, report.terms, refused, report.owed, full=shortfall is Reason.FULL),
            now=self._wall_clock(),
            controls=controls if controls.version > report.controls.version else None,
            level=pool.level,
            edges=edges,
            neighbours=self._neighbours(pool, report) if report.beat else (),
            verdicts=tuple(decided.verdicts),
            retell=report.fair is not None and entry is None and report.fair.heard > 0,
        )

    def _shortfall(self, pool: _Pool, wanted: int, room: int, granted: int) -> Reason | None:
        if granted == wanted:
            return None
        if pool.controls.paused:
            return Reason.PAUSED
        return Reason.RATE if granted < room else Reason.FULL

    def _edges(self, pool: _Pool, report: Report, total: int, limit: int) -> tuple[Edge, ...]:
        """What this report's worker is to tell of: what it brought about, and what nobody else can tell any more."""
        told = [each for each in pool.edges if each.worker == report.worker and report.version >= each.version]
        pool.edges = [each for each in pool.edges if each not in told]
        before, pool.level = pool.level, policy.alert(total, limit, report.warn_at, pool.level)
        if pool.level is not before:
            pool.edges.append(_Telling(0, Edge(before, pool.level, total, limit), None))
        del pool.edges[:-EDGES_KEPT]
        ours = [each for each in pool.edges if each.worker == report.worker or each.worker not in pool.entries]
        teller = report.worker if report.worker in pool.entries else None
        for each in ours:
            each.version, each.worker = pool.version, teller
        return tuple(each.edge for each in ours) if teller else ()

    def _advance(self, pool: _Pool) -> None:
        now = self._clock()
        pool.clock += min(max(now - pool.real, 0.0), 2 * self._settings.beat)
        pool.real = now

    def _remember(self, pool: _Pool, held: int, limit: int, decided: Counters, elapsed: float) -> None:
        """Note what is held, and spread the handshakes decided over the ``elapsed`` seconds that end now."""
        now = self._wall_clock()
        second, span = int(now), max(1, min(int(now) - int(now - elapsed), SPREAD))
        by_second: defaultdict[int, Counter[str]] = defaultdict(Counter, {second: Counter()})
        by_minute: defaultdict[int, Counter[str]] = defaultdict(Counter, {second // 60: Counter()})
        for name, count in decided.items():
            for at, share in _shares(count, second, span):
                by_second[at][name] += share
                by_minute[at // 60][name] += share
        for ring, size, last, told in (
            (pool.seconds, SECONDS, second, by_second),
            (pool.minutes, MINUTES, second // 60, by_minute),
        ):
            for at, counts in told.items():
                moment = add(_moment(ring, size, at), counts)
                if at == last:
                    moment = replace(moment, held=max(held, moment.held or 0), limit=limit)
                ring[at % size] = written(moment)

    def _reap(self, pool: _Pool, report: Report) -> None:
        dead = [name for name, entry in pool.entries.items() if entry.expires <= pool.clock]
        known_gone = [name for name in report.gone if name in pool.entries]
        for name in dead[:REAPED_PER_CALL] + known_gone:
            if name != report.worker:
                self._forget(pool, name)

    def _forget(self, pool: _Pool, worker: str) -> None:
        entry = pool.entries.pop(worker, None)
        if entry is not None:
            _count(pool.claims, entry.claims, [(key, 0) for key in entry.claims])

    def _neighbours(self, pool: _Pool, report: Report) -> tuple[Neighbour, ...]:
        return tuple(
            Neighbour(name, entry.report.born)
            for name, entry in pool.entries.items()
            if name != report.worker and entry.report.home == report.home
        )

    def _read(self, pool: _Pool) -> Reading:
        now = self._clock()
        alive = [entry for entry in pool.entries.values() if now - entry.seen < self._settings.lease]
        workers = tuple(
            WorkerReading(
                worker=entry.report.worker,
                held=entry.held,
                silence=now - entry.seen,
                uptime=entry.report.age + now - entry.seen,
                server=entry.report.server,
                load=entry.report.load,
                classes=entry.classes,
                draining=entry.report.draining,
            )
            for entry in alive
        )
        limits = [entry.report.limit for entry in sorted(alive, key=lambda entry: entry.seen)]
        lately = within(LATELY, int(self._wall_clock()), pool.seconds.values())
        seconds = {moment.at: moment.handshakes for moment in lately if moment.handshakes}
        return Reading(
            limit=limits[-1] if limits else None,
            settling=False,
            counters=dict(pool.counters),
            workers=workers,
            seconds=seconds,
            now=self._wall_clock(),
            controls=pool.controls,
            level=pool.level,
        )


def _count(sums: Counter[Key], own: dict[Key, int], claims: Iterable[tuple[Key, int]]) -> None:
    """Let a worker's claims be those that it says, and the sums follow; of nobody no key is left."""
    for key, count in list(claims):
        sums[key] += count - own.get(key, 0)
        own[key] = count
        for counts in (sums, own):
            if not counts[key]:
                del counts[key]


def _decided(counters: Counters, before: Counters) -> dict[str, int]:
    """Handshakes decided since the counters ``before``, by their decision."""
    rises = {name: count - before.get(name, 0) for name, count in counters.items() if is_decision(name)}
    return {name: rise for name, rise in rises.items() if rise > 0}


def _shares(count: int, last: int, span: int) -> Iterator[tuple[int, int]]:
    """``count`` dealt out evenly over the ``span`` seconds that end with ``last``, as far as it reaches."""
    span = min(span, count)
    for number in range(span):
        yield last - number, count // span + (number < count % span)


def _moment(ring: dict[int, str], size: int, at: int) -> Moment:
    """What a ring of that size knows of a moment, or nothing yet."""
    moment = parse(ring.get(at % size, ""))
    return moment if moment and moment.at == at else Moment(at, None, None, 0, {})


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=MemoryLedger.forget_all)

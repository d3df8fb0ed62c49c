"""The embedded ledger: counts in this process, shared by its event loops. For development, tests and single workers."""

import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from ..conf import Settings
from ..core import agreement, levels
from ..core.agreement import MOST_SETTINGS, differences, fingerprint, numbers_of, strictest
from ..core.attempts import Buckets, judge
from ..core.counters import ADMITTED, RELEASED, Counters, Reason, faults_in, is_decision
from ..core.holders import Holders
from ..core.levels import Edge, Level
from ..core.overrides import EVERYBODY, NOTHING_SET, Controls, Drain
from ..core.protocol import Key, Neighbour, Reply, Report
from ..core.quota import decide
from ..core.rate import Pace, Situation
from ..core.readings import Past, Reading, WorkerReading
from ..core.shares import Bound
from .base import (
    COUNTER_BYTES,
    COUNTERS_BYTES,
    COUNTERS_KEPT,
    EDGES_KEPT,
    LATELY,
    MINUTES,
    REAPED_PER_CALL,
    SECONDS,
    SWEPT_PER_CALL,
    Forgotten,
    OutOfOrder,
)
from .buckets import packed, within
from .history import Rings


@dataclass(slots=True)
class _Entry:
    report: Report
    held: int
    expires: int
    """When its lease ends, milliseconds of the pool's clock."""
    seen: float
    since: int
    """The report that began its claims."""
    claims: dict[Key, int] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Pool:
    entries: dict[str, _Entry] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    claims: Counter[Key] = field(default_factory=Counter)
    dead: dict[str, dict[Key, int]] = field(default_factory=dict)
    """The claims of forgotten workers that are still to be given back."""
    attempts: Buckets = field(default_factory=Buckets)
    holders: Holders = field(default_factory=Holders)
    version: int = 0
    milliseconds: int = 0
    """The pool's clock, in whole milliseconds as Redis keeps it."""
    began: int = 0
    """Its time at the first report."""
    real: int = 0
    pace: Pace | None = None
    past: Rings = field(default_factory=Rings)
    controls: Controls = NOTHING_SET
    level: Level = Level.CALM
    edges: list["_Telling"] = field(default_factory=list)
    settings: dict[str, int] = field(default_factory=dict)
    """Those that workers have lately had, as text, and until when by the pool's clock."""
    limit: int | None = None
    """By the settings in force."""

    def stamp(self, drain: Drain) -> Drain:
        """A drain with the version and the clock at which it is ordered, if that is now."""
        return drain if drain.version is not None else replace(drain, version=self.version, clock=self.milliseconds)

    @property
    def clock(self) -> float:
        """Seconds since the pool began."""
        return (self.milliseconds - self.began) / 1000

    @property
    def heir(self) -> str:
        """The dead worker whose claims are given back next: the last that died."""
        return next(reversed(self.dead), "")

    @property
    def in_force(self) -> dict[str, float]:
        """The strictest of the settings; none before the first report."""
        return strictest(map(numbers_of, self.settings))


@dataclass(slots=True)
class _Grant:
    """What one report is given."""

    slots: int
    refused: int
    """Handshakes that may come again at a free moment."""
    shortfall: Reason | None
    classes: dict[str, int] = field(default_factory=dict)
    verdicts: tuple[str, ...] = ()
    waits: tuple[float, ...] = ()


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
    grace = 0.0
    """Heartbeats for which the settings of a worker are in force after its goodbye. None: the settings of the next test
    are in force at once."""

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

    async def reconcile(self, pool: str, report: Report) -> Reply:
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
            theirs.controls = replace(controls, version=version, drains=tuple(map(theirs.stamp, controls.drains)))
            return True

    async def past(self, pool: str, *, minutes: bool = True) -> Past:
        with self._lock:
            known, now = self._pools.get((self._settings.prefix, pool), _Pool()), int(self._wall_clock())
            seconds = within(SECONDS, now, known.past.seconds.values())
            return Past(now, seconds, within(MINUTES, now // 60, known.past.minutes.values()) if minutes else ())

    async def aclose(self) -> None:
        pass

    @classmethod
    def forget_all(cls) -> None:
        """Start over with no pools, as a forked child or a new test must."""
        cls._lock = threading.Lock()
        cls._pools.clear()

    def _apply(self, pool: _Pool, report: Report) -> Reply:
        entries, worker = pool.entries, report.worker
        entry = entries.get(worker)
        if entry and report.seq <= entry.report.seq:
            raise OutOfOrder(f"report {report.seq} of {worker} comes after report {entry.report.seq}")
        if report.fair and worker in pool.dead and worker not in entries:
            raise Forgotten(f"the lease of {worker} had run out")
        self._advance(pool)
        swept = self._sweep(pool, report.fair.sweep) if report.fair else ()
        self._reap(pool, report)
        if report.controls.version > pool.controls.version:
            pool.controls = report.controls
        asked, report = report, self._agree(pool, report)
        pool.limit = report.limit
        limit = pool.controls.limit.value if pool.controls.limit else report.limit
        others = sum(other.held for name, other in entries.items() if name != worker)
        claims = entry.claims if entry else {}
        pace = pool.pace = pool.pace or Pace(pool.clock, report.terms)
        grant = self._grant(pool, pace, report, others + report.held, limit, claims, swept)
        held = report.held + grant.slots
        total = others + held
        pool.version += 1
        lease_ends = pool.milliseconds + round(1000 * self._settings.lease)
        since = entry.since if entry else report.seq
        entries[worker] = _Entry(asked, held, lease_ends, self._clock(), since, claims, grant.classes)
        if report.goodbye and held == 0:
            self._forget(pool, worker)
        if report.beat:
            self._end_orders(pool, total, limit)
        edges = self._edges(pool, report, total, limit)
        admitted = self._count_events(pool, report, entry, total, limit)
        is_admitting = bool(admitted and pool.controls.paused is None)
        pace.measure(pool.clock, pool.counters[RELEASED], self._settings.heartbeat, admitting=is_admitting)
        workers = sum(not other.report.draining for other in entries.values())
        situation = Situation(
            why=grant.shortfall or self._shut(pool, total, limit),
            workers=workers,
            speed=sum(other.report.speed for other in entries.values()),
            is_open=pool.controls.paused is None and not levels.scarce(total, limit),
        )
        return Reply(
            granted=grant.slots,
            total=total,
            limit=limit,
            workers=workers,
            version=pool.version,
            settling=False,
            lapsed=entry is None and report.version > 0,
            shortfall=grant.shortfall,
            offer=pace.offer(pool.clock, report.terms, grant.refused, report.owed, situation),
            now=self._wall_clock(),
            controls=pool.controls if pool.controls.version > report.controls.version else None,
            level=pool.level,
            edges=edges,
            neighbours=self._neighbours(pool, report) if report.beat else (),
            verdicts=grant.verdicts,
            waits=grant.waits,
            evicted=pool.holders.due(worker, pool.claims) if report.fair else (),
            retell=report.fair is not None and 0 < report.fair.heard < since,
            sweep=pool.heir if report.fair else "",
            settings=self._differing(pool, asked),
        )

    def _agree(self, pool: _Pool, report: Report) -> Report:
        """The report with the settings that are in force: the strictest of those that workers have."""
        own, now = self._text(report), pool.milliseconds
        lease, beat = (round(1000 * each) for each in (self._settings.lease, self._settings.heartbeat))
        others = {text: ends for text, ends in pool.settings.items() if text != own and ends > now}
        was, ends = min(pool.settings.get(own, now), now + lease), now + lease
        if report.goodbye or report.retired:
            ends = was if self._is_had_by_others(pool, report) else min(was, now + round(self.grace * beat))
        elif [*pool.settings] == [own] and abs(ends - was) < beat / 4:
            ends = was  # as Redis, which writes them so rarely while all have the same
        pool.settings = others if others and ends <= now else {**others, own: ends}
        while len(pool.settings) > MOST_SETTINGS:
            self._merge(pool)
        return report if [*pool.settings] == [own] else _narrowed(report, pool.in_force)

    def _is_had_by_others(self, pool: _Pool, report: Report) -> bool:
        """Whether others have the same settings, so that a goodbye without grace does not end them."""
        others = (each.report for name, each in pool.entries.items() if name != report.worker)
        stay = (each for each in others if not (each.retired or each.goodbye))
        return not self.grace and self._text(report) in map(self._text, stay)

    def _merge(self, pool: _Pool) -> None:
        """Let the two settings that end first become one, the strictest of both."""
        first, second = sorted(pool.settings, key=pool.settings.__getitem__)[:2]
        ends = max(pool.settings.pop(first), pool.settings.pop(second))
        merged = strictest(map(numbers_of, (first, second)))
        pool.settings[agreement.text(merged)] = ends

    def _differing(self, pool: _Pool, report: Report) -> str:
        """The settings in force, where they are not the worker's."""
        own = self._text(report)
        if [*pool.settings] == [own]:
            return ""
        in_force = pool.in_force
        return agreement.text(in_force) if differences((numbers_of(own), in_force)) else ""

    def _text(self, report: Report) -> str:
        return agreement.text_of(report, self._settings.lease, self._settings.heartbeat)

    def _grant(
        self,
        pool: _Pool,
        pace: Pace,
        report: Report,
        held: int,
        limit: int,
        claims: dict[Key, int],
        swept: Iterable[Key],
    ) -> _Grant:
        """What the report's worker is given, with ``held`` slots in the pool; its ``claims`` follow what it says."""
        paused, fair = pool.controls.paused is not None, report.fair
        if fair is None:
            room = 0 if paused else max(0, min(report.wanted, limit - held))
            granted = pace.admit(room, pool.clock, report.terms, empty=held == 0)
            return _Grant(granted, report.wanted - granted, self._shortfall(pool, report.wanted, room, granted))
        _count(pool.claims, claims, fair.claims)
        told, most = (
            [key for key, _ in fair.claims],
            {place: bound.most or 0 for place, bound in enumerate(fair.quotas)},
        )
        pool.holders.tell(report.worker, told, fair.ages, most, pool.clock)
        known = {key: pool.holders.number(key) for key in told}
        over = judge(pool.attempts, fair, pool.clock, report.terms.retry_after[1])
        decided = decide(fair, limit, held, pool.claims, math.inf, paused=paused, over=over, known=known.__getitem__)
        tokens = pace.admit(decided.used, pool.clock, report.terms, empty=held == 0)
        if tokens < decided.used:
            decided = decide(fair, limit, held, pool.claims, tokens, paused=paused, over=over, known=known.__getitem__)
        _count(pool.claims, claims, [(key, claims.get(key, 0) + more) for key, more in decided.claims.items()])
        for ask, reason in zip(fair.asks, decided.verdicts, strict=True):
            for bound, key in zip(fair.quotas, ask.claims, strict=False):
                if key and bound.oldest and not reason:
                    pool.holders.grant(report.worker, key, bound.most or 0, pool.clock)
        pool.holders.post([*told, *swept], pool.claims)
        return _Grant(
            decided.given, decided.refused(fair), decided.shortfall, decided.classes(fair), tuple(decided.verdicts),
            tuple(over[place].wait for place in sorted(over)),
        )  # fmt: skip

    def _shortfall(self, pool: _Pool, wanted: int, room: int, granted: int) -> Reason | None:
        if granted == wanted:
            return None
        if pool.controls.paused:
            return Reason.PAUSED
        return Reason.RATE if granted < room else Reason.FULL

    def _shut(self, pool: _Pool, total: int, limit: int) -> Reason | None:
        """Why a handshake would be refused now."""
        if pool.controls.paused:
            return Reason.PAUSED
        return Reason.FULL if total >= limit else None

    def _count_events(self, pool: _Pool, report: Report, entry: _Entry | None, total: int, limit: int) -> int:
        """Count what has happened since the report before, and note when; how many were admitted."""
        before = entry.report.counters if entry else report.acknowledged
        rises = _rises(report.counters, before)
        _add(pool.counters, rises)
        known = entry is not None or not report.version
        elapsed = self._clock() - entry.seen if entry else report.age
        decided = _decided(report.counters, before) if known else {}
        pool.past.note(self._wall_clock(), total, limit, decided, elapsed)
        return rises.get(ADMITTED, 0)

    def _edges(self, pool: _Pool, report: Report, total: int, limit: int) -> tuple[Edge, ...]:
        """What this report's worker is to tell of: what it brought about, and what nobody else can tell any more."""
        told = [each for each in pool.edges if each.worker == report.worker and report.version >= each.version]
        pool.edges = [each for each in pool.edges if each not in told]
        before, pool.level = pool.level, levels.alert(total, limit, report.warn_at, pool.level)
        if pool.level is not before:
            pool.edges.append(_Telling(0, Edge(before, pool.level, total, limit), None))
        del pool.edges[:-EDGES_KEPT]
        ours = [each for each in pool.edges if each.worker == report.worker or each.worker not in pool.entries]
        teller = report.worker if report.worker in pool.entries else None
        for each in ours:
            each.version, each.worker = pool.version, teller
        return tuple(each.edge for each in ours) if teller else ()

    def _end_orders(self, pool: _Pool, total: int, limit: int) -> None:
        """Let go of what is done: see the contract."""
        controls, heard_by_all = pool.controls, pool.milliseconds - round(1000 * self._settings.lease)
        if controls.limit and controls.limit.over is not None and total <= limit:
            controls = replace(controls, limit=replace(controls.limit, over=None))
        if not any(entry.report.draining for entry in pool.entries.values()):
            left = (each for each in controls.drains if not self._is_over(pool, each, heard_by_all))
            controls = replace(controls, drains=tuple(left))
        if controls != pool.controls:
            pool.controls = replace(controls, version=controls.version + 1)

    def _is_over(self, pool: _Pool, drain: Drain, heard_by_all: int) -> bool:
        """Whether nobody is left to obey a drain, with nobody draining."""
        if heard_by_all < drain.clock <= pool.milliseconds:
            return False
        return drain.target == EVERYBODY or (":" in drain.target and drain.target not in pool.entries)

    def _advance(self, pool: _Pool) -> None:
        now = round(1000 * self._clock())
        if not pool.real:
            pool.milliseconds = pool.real = pool.began = now
        pool.milliseconds += min(max(now - pool.real, 0), 2 * round(1000 * self._settings.heartbeat))
        pool.real = now

    def _reap(self, pool: _Pool, report: Report) -> None:
        dead = [name for name, entry in pool.entries.items() if entry.expires <= pool.milliseconds]
        known_gone = [name for name in report.gone if name in pool.entries]
        for name in sorted(dead[:REAPED_PER_CALL] + known_gone):
            if name != report.worker:
                self._forget(pool, name)

    def _forget(self, pool: _Pool, worker: str) -> None:
        entry = pool.entries.pop(worker, None)
        if entry is not None and entry.claims:
            pool.dead[worker] = entry.claims
            pool.holders.bury(worker)
        elif entry is not None:
            pool.holders.forget(worker)

    def _sweep(self, pool: _Pool, worker: str) -> tuple[Key, ...]:
        """Give back claims of a dead worker whose turn it is; the keys under which fewer are counted now."""
        if not worker or worker != pool.heir:
            return ()
        own = pool.dead[worker]
        keys = tuple(own)[:SWEPT_PER_CALL]
        _count(pool.claims, own, [(key, 0) for key in keys])
        pool.holders.give_back(worker, keys)
        if not own:
            del pool.dead[worker]
            pool.holders.forget(worker)
        return keys

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
                faults=faults_in(entry.report.counters),
                settings=fingerprint(self._text(entry.report)),
                speed=entry.report.speed,
            )
            for entry in alive
        )
        settings = {text: numbers_of(text) for text, ends in pool.settings.items() if ends > pool.milliseconds}
        lately = within(LATELY, int(self._wall_clock()), pool.past.seconds.values())
        seconds = {moment.at: moment.handshakes for moment in lately if moment.handshakes}
        return Reading(
            limit=pool.limit,
            settling=False,
            counters=dict(pool.counters),
            workers=workers,
            seconds=seconds,
            now=self._wall_clock(),
            controls=pool.controls,
            level=pool.level,
            settings={fingerprint(text): numbers for text, numbers in settings.items()},
        )


def _narrowed(report: Report, in_force: Mapping[str, float]) -> Report:
    """The report with the settings in force instead of its own."""
    rate = in_force.get("rate")
    terms = replace(report.terms, rate=rate, burst=int(in_force["burst"])) if rate else report.terms
    fair = report.fair
    if fair is not None:
        classes = tuple(replace(each, share=in_force.get(f"share:{each.name}", each.share)) for each in fair.classes)
        fair = replace(fair, classes=classes, quotas=tuple(_strict(bound, in_force) for bound in fair.quotas))
    return replace(report, limit=int(in_force["limit"]), warn_at=in_force["warn_at"], terms=terms, fair=fair)


def _strict(bound: Bound, in_force: Mapping[str, float]) -> Bound:
    if bound.most is None:
        return replace(bound, share=in_force.get(f"quota%:{bound.name}", bound.share))
    rate = in_force.get(f"attempts:{bound.name}")
    if bound.rate and rate:
        bound = replace(bound, rate=rate, burst=int(in_force[f"at_once:{bound.name}"]))
    return replace(bound, most=int(in_force.get(f"quota:{bound.name}", bound.most or 0)))


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
    return {name: rise for name, rise in _rises(counters, before).items() if is_decision(name)}


def _rises(counters: Counters, before: Counters) -> dict[str, int]:
    """By how much each counter has risen; one that has fallen adds nothing, and counts from there."""
    now, then = _bounded(counters), _bounded(before)
    rises = {name: count - then.get(name, 0) for name, count in now.items() if len(f"{name}={count}") <= COUNTER_BYTES}
    return {name: rise for name, rise in rises.items() if rise > 0}


def _bounded(counters: Counters) -> Counters:
    """The counters of a report; none if they take too many bytes."""
    is_long = len(counters) > COUNTERS_KEPT and len(packed(counters)) > COUNTERS_BYTES
    return {} if is_long else counters


def _add(counters: Counter[str], rises: Counters) -> None:
    for name, rise in rises.items():
        if name in counters or len(counters) < COUNTERS_KEPT:
            counters[name] += rise


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=MemoryLedger.forget_all)

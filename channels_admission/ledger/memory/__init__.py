"""The embedded ledger: counts in this process, shared by its event loops. For development, tests and single workers."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace

from ...conf import Settings
from ...core import agreement, levels
from ...core.agreement import MOST_SETTINGS, differences, fingerprint, numbers_of
from ...core.counters import ADMITTED, RELEASED, faults_in
from ...core.overrides import Controls
from ...core.protocol import Offer, Reply, Report, Turn
from ...core.rate import Pace, Situation
from ...core.readings import Past, Reading, WorkerReading
from ..base import (
    LATELY,
    MINUTES,
    SECONDS,
    Forgotten,
    OutOfOrder,
)
from ..buckets import within
from .counters import add, decided, rises
from .grants import Granting
from .pool import Entry, Grant, Pool
from .settings import narrowed
from .tickets import Presented


class MemoryLedger:
    """A :class:`~.base.Ledger` that loses nothing while the process lives, and so never settles."""

    kind = "memory"
    address = "this process"
    grace = 0.0
    """Heartbeats for which the settings of a worker are in force after its goodbye. None: the settings of the next test
    are in force at once."""

    _pools: dict[tuple[str, str], Pool] = {}
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
            return self._apply(self._pools.setdefault((self._settings.prefix, pool), Pool()), report)

    async def read(self, pools: tuple[str, ...]) -> tuple[Reading, ...]:
        with self._lock:
            return tuple(self._read(self._pools.get((self._settings.prefix, pool), Pool())) for pool in pools)

    async def control(self, pool: str, controls: Controls, replaced: int) -> bool:
        with self._lock:
            theirs = self._pools.setdefault((self._settings.prefix, pool), Pool())
            if theirs.controls.version != replaced:
                return False
            version = max(replaced + 1, round(1000 * self._wall_clock()))
            theirs.controls = replace(controls, version=version, drains=tuple(map(theirs.stamp, controls.drains)))
            return True

    async def past(self, pool: str, *, minutes: bool = True) -> Past:
        with self._lock:
            known, now = self._pools.get((self._settings.prefix, pool), Pool()), int(self._wall_clock())
            seconds = within(SECONDS, now, known.past.seconds.values())
            return Past(now, seconds, within(MINUTES, now // 60, known.past.minutes.values()) if minutes else ())

    async def aclose(self) -> None:
        pass

    @classmethod
    def forget_all(cls) -> None:
        """Start over with no pools, as a forked child or a new test must."""
        cls._lock = threading.Lock()
        cls._pools.clear()

    def _apply(self, pool: Pool, report: Report) -> Reply:
        entries, worker = pool.entries, report.worker
        entry = entries.get(worker)
        if entry and report.seq <= entry.report.seq:
            raise OutOfOrder(f"report {report.seq} of {worker} comes after report {entry.report.seq}")
        if report.fair and worker in pool.dead and worker not in entries:
            raise Forgotten(f"the lease of {worker} had run out")
        pool.advance(round(1000 * self._clock()), 2 * round(1000 * self._settings.heartbeat))
        swept = pool.sweep(report.fair.sweep) if report.fair else ()
        pool.reap(report)
        if report.controls.version > pool.controls.version:
            pool.controls = report.controls
        asked, report = report, self._agree(pool, report)
        pool.limit = report.limit
        limit = pool.controls.limit.value if pool.controls.limit else report.limit
        others = sum(other.held for name, other in entries.items() if name != worker)
        claims = entry.claims if entry else {}
        pace = pool.pace = pool.pace or Pace(pool.clock, report.terms)
        wall = self._wall_clock()
        pace.line.advance(wall)
        shown = Presented(report.shown, pool.redeemed, pace.line, wall)
        granting = Granting(pool, pace, report, shown, others + report.held, limit)
        grant = granting.give_shared(report.fair, claims, swept) if report.fair else granting.give()
        held = report.held + grant.slots
        total = others + held
        pool.version += 1
        lease_ends = pool.milliseconds + round(1000 * self._settings.lease)
        since = entry.since if entry else report.seq
        entries[worker] = Entry(asked, held, lease_ends, self._clock(), since, claims, grant.classes)
        if report.goodbye and held == 0:
            pool.forget(worker)
        if report.beat:
            pool.end_orders(total, limit, round(1000 * self._settings.lease))
        edges = pool.tell_edges(report, total, limit)
        admitted = self._count_events(pool, report, entry, total, limit)
        is_admitting = bool(admitted and pool.controls.paused is None)
        pace.measure(pool.clock, pool.counters[RELEASED], self._settings.heartbeat, admitting=is_admitting)
        workers = sum(not other.report.draining for other in entries.values())
        situation = Situation(
            why=grant.shortfall or pool.shut(total, limit),
            workers=workers,
            speed=sum(other.report.speed for other in entries.values()),
            is_open=pool.controls.paused is None and not levels.scarce(total, limit),
        )
        turns, offer = self._tell_times(pool, pace, report, shown, grant, situation)
        return Reply(
            granted=grant.slots,
            total=total,
            limit=limit,
            workers=workers,
            version=pool.version,
            settling=False,
            lapsed=entry is None and report.version > 0,
            shortfall=grant.shortfall,
            offer=offer,
            now=wall,
            controls=pool.controls if pool.controls.version > report.controls.version else None,
            level=pool.level,
            edges=edges,
            neighbours=pool.neighbours(report) if report.beat else (),
            granted_shown=() if report.fair else tuple(sorted(grant.shown)),
            turns=turns,
            has_line=not pace.line.is_empty,
            verdicts=grant.verdicts,
            waits=grant.waits,
            evicted=pool.holders.due(worker, pool.claims) if report.fair else (),
            retell=report.fair is not None and 0 < report.fair.heard < since,
            sweep=pool.heir if report.fair else "",
            settings=self._differing(pool, asked),
        )

    def _agree(self, pool: Pool, report: Report) -> Report:
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
            pool.merge()
        return report if [*pool.settings] == [own] else narrowed(report, pool.in_force)

    def _is_had_by_others(self, pool: Pool, report: Report) -> bool:
        """Whether others have the same settings, so that a goodbye without grace does not end them."""
        others = (each.report for name, each in pool.entries.items() if name != report.worker)
        stay = (each for each in others if not (each.retired or each.goodbye))
        return not self.grace and self._text(report) in map(self._text, stay)

    def _differing(self, pool: Pool, report: Report) -> str:
        """The settings in force, where they are not the worker's."""
        own = self._text(report)
        if [*pool.settings] == [own]:
            return ""
        in_force = pool.in_force
        return agreement.text(in_force) if differences((numbers_of(own), in_force)) else ""

    def _text(self, report: Report) -> str:
        return agreement.text_of(report, self._settings.lease, self._settings.heartbeat)

    def _tell_times(
        self, pool: Pool, pace: Pace, report: Report, shown: Presented, grant: Grant, now: Situation
    ) -> tuple[tuple[Turn, ...], Offer | None]:
        """When the refused should come again: those with tickets, and the others."""
        low, number = report.terms.retry_after[0], grant.refused - shown.keeping(grant.unserved)
        shown.redeem(grant.shown, low)
        turns = shown.turns(grant.unserved, low, lambda due: pace.turns(pool.clock, report.terms, due, now))
        return turns, pace.offer(pool.clock, report.terms, number, report.owed, now)

    def _count_events(self, pool: Pool, report: Report, entry: Entry | None, total: int, limit: int) -> int:
        """Count what has happened since the report before, and note when; how many were admitted."""
        before = entry.report.counters if entry else report.acknowledged
        risen = rises(report.counters, before)
        add(pool.counters, risen)
        known = entry is not None or not report.version
        elapsed = self._clock() - entry.seen if entry else report.age
        decisions = decided(report.counters, before) if known else {}
        pool.past.note(self._wall_clock(), total, limit, decisions, elapsed)
        return risen.get(ADMITTED, 0)

    def _read(self, pool: Pool) -> Reading:
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


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=MemoryLedger.forget_all)

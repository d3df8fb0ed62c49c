"""The embedded ledger: counts in this process, shared by its event loops. For development, tests and single workers.

It is also the contract in Python: its modules bear the names of the script's parts, and the contract tests compare the
replies of both.
"""

import os
import threading
import time
from collections.abc import Callable, Set
from dataclasses import replace

from ...conf import Settings
from ...core.agreement import fingerprint, numbers_of
from ...core.counters import AT, GONE, counts_in, faults_in, times_in
from ...core.overrides import Controls
from ...core.protocol import Reply, Report
from ...core.readings import Past, Reading, WorkerReading
from ..base import LATELY, MINUTES, SECONDS
from ..buckets import lately, within
from .main import Call
from .pool import Entry, StoredPool


class MemoryLedger:
    """A :class:`~.base.Ledger` that loses nothing while the process lives."""

    kind = "memory"
    address = "this process"
    volatile = False
    """Whether its data may be lost while workers live, as those of Redis; only in tests. A pool without a past then
    settles, and the settings of a worker count for one and a half heartbeats after its goodbye. Otherwise no worker can
    hold a slot in a new pool, and the settings of the next test are in force at once."""

    _pools: dict[tuple[str, str], StoredPool] = {}
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

    async def connect(self, within: float) -> None:
        pass

    async def reconcile(self, pool: str, report: Report) -> Reply:
        # Held for microseconds and never across an await: event loops in other threads share the pools.
        with self._lock:
            theirs = self._pools.setdefault((self._settings.prefix, pool), StoredPool())
            call = Call(theirs, report, self._settings, self._clock(), self._wall_clock(), volatile=self.volatile)
            return call.apply()

    async def read(self, pools: tuple[str, ...]) -> tuple[Reading, ...]:
        with self._lock:
            return tuple(self._read(self._pools.get((self._settings.prefix, pool), StoredPool())) for pool in pools)

    def _read(self, pool: StoredPool) -> Reading:
        return reading_of(pool, self._clock(), self._wall_clock(), self._settings.lease)

    async def control(self, pool: str, controls: Controls, replaced: int) -> bool:
        with self._lock:
            theirs = self._pools.setdefault((self._settings.prefix, pool), StoredPool())
            if theirs.controls.version != replaced:
                return False
            version = max(replaced + 1, round(1000 * self._wall_clock()))
            theirs.controls = replace(controls, version=version, drains=tuple(map(theirs.stamp, controls.drains)))
            return True

    async def past(self, pool: str, *, minutes: bool = True) -> Past:
        with self._lock:
            known, now = self._pools.get((self._settings.prefix, pool), StoredPool()), int(self._wall_clock())
            seconds = within(SECONDS, now, known.past.seconds.values())
            return Past(now, seconds, within(MINUTES, now // 60, known.past.minutes.values()) if minutes else ())

    async def aclose(self) -> None:
        pass

    @classmethod
    def forget_all(cls) -> None:
        """Start over with no pools, as a forked child or a new test must."""
        cls._lock = threading.Lock()
        cls._pools.clear()

    @classmethod
    def keep_only(cls, workers: Set[str]) -> None:
        """Forget all other workers, and the pools without any of these."""
        with cls._lock:
            for key, pool in list(cls._pools.items()):
                if workers.isdisjoint(pool.entries):
                    del cls._pools[key]
                else:
                    for name in pool.entries.keys() - workers:
                        pool.forget(name)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=MemoryLedger.forget_all)


def reading_of(pool: StoredPool, now: float, wall: float, lease: float) -> Reading:
    """``now`` by the ledger's clock, ``wall`` in Unix time. A worker that has been silent for its lease is left out; it
    is ``lease`` where its settings no longer count."""
    settings = {text: numbers_of(text) for text, ends in pool.settings.ends.items() if ends > pool.clock.time}
    leases = {text: numbers["lease"] / 1000 for text, numbers in settings.items()}
    alive = (each for each in pool.entries.values() if now - each.seen < leases.get(each.settings, lease))
    return Reading(
        limit=pool.limit,
        settling=pool.clock.is_settling,
        counters=counts_in(pool.counters),
        latest=times_in(pool.counters, AT),
        gone=times_in(pool.counters, GONE),
        since=pool.since,
        version=pool.version,
        workers=tuple(_worker(each, now) for each in alive),
        **lately(within(LATELY, int(wall), pool.past.seconds.values())),
        now=wall,
        controls=pool.controls,
        level=pool.levels.level,
        settings={fingerprint(text): numbers for text, numbers in settings.items()},
    )


def _worker(entry: Entry, now: float) -> WorkerReading:
    return WorkerReading(
        worker=entry.report.worker,
        held=entry.held - entry.reserve,
        silence=now - entry.seen,
        uptime=entry.report.age + now - entry.seen,
        server=entry.report.server,
        load=entry.report.load,
        classes=entry.classes,
        draining=entry.report.draining,
        counters={name: count for name, count in entry.report.counters.items() if count},
        faults=faults_in(entry.report.counters),
        settings=fingerprint(entry.settings),
        speed=entry.report.speed,
        footprint=entry.report.footprint,
        work=entry.report.work,
        release=entry.report.release,
        reserve=entry.reserve,
    )

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
from ...core.overrides import Controls
from ...core.protocol import Reply, Report
from ...core.readings import Past, Reading
from ..base import MINUTES, SECONDS
from ..buckets import within
from .main import Call
from .pool import Pool
from .reading import reading_of


class MemoryLedger:
    """A :class:`~.base.Ledger` that loses nothing while the process lives."""

    kind = "memory"
    address = "this process"
    volatile = False
    """Whether its data may be lost while workers live, as those of Redis; only in tests. A pool without a past then
    settles, and the settings of a worker count for one and a half heartbeats after its goodbye. Otherwise no worker can
    hold a slot in a new pool, and the settings of the next test are in force at once."""

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

    async def connect(self, within: float) -> None:
        pass

    async def reconcile(self, pool: str, report: Report) -> Reply:
        # Held for microseconds and never across an await: event loops in other threads share the pools.
        with self._lock:
            theirs = self._pools.setdefault((self._settings.prefix, pool), Pool())
            call = Call(theirs, report, self._settings, self._clock(), self._wall_clock(), volatile=self.volatile)
            return call.apply()

    async def read(self, pools: tuple[str, ...]) -> tuple[Reading, ...]:
        with self._lock:
            return tuple(self._read(self._pools.get((self._settings.prefix, pool), Pool())) for pool in pools)

    def _read(self, pool: Pool) -> Reading:
        return reading_of(pool, self._clock(), self._wall_clock(), self._settings.lease)

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

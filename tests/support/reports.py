"""Reports as a worker would send them, and a Redis ledger whose clock the test holds."""

import hashlib
import time
from contextlib import contextmanager
from dataclasses import replace
from unittest import mock

from redis.asyncio import Redis

from channels_admission.conf import Settings
from channels_admission.core import levels
from channels_admission.core.protocol import Reply, Report
from channels_admission.ledger import script
from channels_admission.ledger.redis import RedisLedger
from channels_admission.ledger.redis.cluster import RedisClusterLedger

HOST = "aaaaaaaaaaaa"


@contextmanager
def reserving(part: int):
    """Let reserves be at most one such part of the free slots, also by scripts that are made now."""
    with mock.patch.object(levels, "RESERVE_PARTS", part), mock.patch.dict(script.CONSTANTS, {"RESERVE_PARTS": part}):
        yield


LEASE, HEARTBEAT = 6.0, 1.0


class Reporter:
    """One worker of the contract tests: numbers its reports and remembers the version."""

    def __init__(
        self, ledger, nonce: str, *, limit: int = 10, pool: str = "default", host: str = HOST, pid: int = 1
    ) -> None:
        self.ledger = ledger
        self.pool = pool
        self.last = Report(
            worker=f"host:{pid}:{nonce}",
            seq=0,
            held=0,
            wanted=0,
            limit=limit,
            version=0,
            allowance=limit,
            host=host,
            born=7,
        )

    async def say(self, held: int = 0, wanted: int = 0, **changes) -> Reply:
        self.last = replace(self.last, seq=self.last.seq + 1, held=held, wanted=wanted, **changes)
        return await self.repeat()

    async def repeat(self) -> Reply:
        reply = await self.ledger.reconcile(self.pool, self.last)
        self.last = replace(self.last, version=max(self.last.version, reply.version))
        return reply


class Clock:
    """Seconds that pass only when the test says so."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class Clocked(RedisLedger):
    """A Redis ledger with the real script, except that TIME is what the test's clock says.

    ``replaced`` are further functions of the script and what they are instead.
    """

    def __init__(self, settings: Settings, clock: Clock, replaced: dict[str, str] | None = None) -> None:
        super().__init__(settings)
        if not isinstance(self, RedisClusterLedger):
            self._redis = Redis(connection_pool=self._connections.pool)
        self._clock = clock
        wall = {"clock.wall": "function() return tonumber(redis.call('GET', key.counts .. ':now')) end"}
        self._source = script.reconcile({**wall, **(replaced or {})})
        self._sha = hashlib.sha1(self._source.encode()).hexdigest()

    async def reconcile(self, pool: str, report: Report) -> Reply:
        await self.tell_time(pool)
        return await super().reconcile(pool, report)

    async def tell_time(self, pool: str) -> None:
        await self._redis.set(f"{self._key(pool, 'counts')}:now", self._now())

    def _now(self, time: tuple[int, int] = (0, 0)) -> int:
        return round(self._clock() * 1000)


class ClockedRedisLedger(Clocked):
    """The ledger over one Redis."""


class ClockedRedisClusterLedger(Clocked, RedisClusterLedger):
    """The ledger over a cluster."""

    async def tell_time(self, pool: str) -> None:
        await self._redis.initialize()
        await super().tell_time(pool)

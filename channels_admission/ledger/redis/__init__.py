"""The Redis ledger. Only this folder imports ``redis``.

A pool has the keys ``PREFIX:{pool}:counts``, ``…:leases``, ``…:seconds``, ``…:minutes``, ``…:controls``, and
``…:host:TOKEN`` for each host and process namespace, and where clients show tickets ``…:tickets``. A pool that is
shared by quotas or classes also has ``…:claims``, ``…:claims:WORKER`` for each worker, ``…:attempts`` if a quota has a
rate, and ``…:holders`` if a quota evicts its oldest connection. The hash tag keeps all of them in one slot of a
cluster.
"""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

from channels_redis.utils import create_pool
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError

from ...conf import Settings
from ...conf.ledger import DEFAULT_URL, address_of, passwords_of
from ...core.overrides import Controls
from ...core.protocol import Reply, Report
from ...core.readings import Past, Reading
from ...exceptions import LedgerUnavailable
from ...runtime.reserve import is_exhausted, reserve
from ..base import Forgotten, OutOfOrder
from ..codec import past_of, reading_of, reply_of, text_of
from ..newest import newest
from ..overrides import entries
from ..script import CONTROL, RECONCILE
from .argument import keys_expire, milliseconds, packed_report, parts
from .errors import translated

Look = tuple[tuple[int, int], Sequence[Mapping[Any, Any]]]
"""The time by Redis, seconds and microseconds, and some of a pool's hashes."""
LOOKED_AT = ("counts", "seconds", "controls")

LENT = 2
"""Descriptors of the reserve that one call may use: for its connection, and the look-up of a name."""


class RedisLedger:
    """A :class:`~.base.Ledger` over one Redis, given in any form that channels_redis takes."""

    kind = "redis"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._source = RECONCILE
        host = settings.ledger.host or {"address": DEFAULT_URL}
        self.address = address_of(host)
        self._passwords = frozenset().union(*map(passwords_of, (host, *settings.ledger.nodes)))
        self._connect(host)

    def _connect(self, host: Mapping[str, Any]) -> None:
        """Make a client, which connects when first asked."""
        self._redis: Any = Redis(connection_pool=create_pool(_prepared(host, self._settings.ledger_timeout)))

    async def reconcile(self, pool: str, report: Report) -> Reply:
        keys = [self._key(pool, part) for part in parts(report)]
        try:
            reply = await self._reach(self._source, keys, [packed_report(report, self._settings)])
        except BaseException as error:
            raise await self._fault(error) from None
        try:
            understood = self._understood(reply, report)
        except LedgerUnavailable:
            await self._drop_connections()
            raise
        newest.hear((self.address, self._settings.prefix, pool), understood.version)
        return understood

    def _understood(self, reply: Any, report: Report) -> Reply:
        """What the script says; a reply that makes no sense is no reply."""
        try:
            if reply[1] == report.seq and text_of(reply[0]) == "ok":
                return reply_of(reply, report.fair)
            verdict, seq, last = text_of(reply[0]), reply[1], reply[2:3]
        except Exception as error:
            raise LedgerUnavailable(f"a reply that makes no sense ({type(error).__name__})") from error
        if seq != report.seq:
            raise LedgerUnavailable(f"the reply to another call: {seq!r:.80} for {report.seq}")
        if verdict == "forgotten":
            raise Forgotten(f"the lease of {report.worker} had run out")
        raise OutOfOrder(f"report {report.seq} of {report.worker} comes after report {last!r:.80}")

    async def _reach(self, script: str, keys: list[str], arguments: list[str | bytes | float]) -> Any:
        """As :meth:`_run`, with a second try by the descriptors of the reserve where no socket could be opened."""
        try:
            return await self._run(script, keys, arguments)
        except Exception as error:
            if not is_exhausted(error):
                raise
        await self._drop_connections()
        # Not earlier: the server accepts connections on the same event loop, and takes what is free.
        reserve.let_go(LENT)
        try:
            return await self._run(script, keys, arguments)
        finally:
            reserve.fill()

    async def _run(self, script: str, keys: list[str], arguments: list[str | bytes | float]) -> Any:
        client = self._redis
        with suppress(NoScriptError):
            return await client.evalsha(_sha(script), len(keys), *keys, *arguments)
        return await client.eval(script, len(keys), *keys, *arguments)

    async def control(self, pool: str, controls: Controls, replaced: int) -> bool:
        arguments: list[str | bytes | float] = [
            replaced,
            entries(controls),
            milliseconds(keys_expire(self._settings)),
        ]
        try:
            return bool(await self._run(CONTROL, [self._key(pool, part) for part in ("controls", "counts")], arguments))
        except BaseException as error:
            raise await self._fault(error) from None

    async def read(self, pools: tuple[str, ...]) -> tuple[Reading, ...]:
        looks = await self._see(pools, LOOKED_AT)
        return tuple(reading_of(hashes, self._now(time), self._settings.lease) for time, hashes in looks)

    async def past(self, pool: str, *, minutes: bool = True) -> Past:
        ((time, rings),) = await self._see((pool,), ("seconds", "minutes") if minutes else ("seconds",))
        return past_of(self._now(time), *rings)

    async def _see(self, pools: tuple[str, ...], parts: tuple[str, ...]) -> list[Look]:
        try:
            return await self._look([[self._key(pool, part) for part in parts] for pool in pools])
        except BaseException as error:
            raise await self._fault(error) from None

    async def _look(self, pools: list[list[str]]) -> list[Look]:
        """For the keys of each pool, as many for each, the time by Redis, and their hashes."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.time()
            for keys in pools:
                for key in keys:
                    pipeline.hgetall(key)
            time, *hashes = await pipeline.execute()
        each = len(pools[0])
        return [(time, hashes[at : at + each]) for at in range(0, len(hashes), each)]

    def _now(self, time: tuple[int, int]) -> int:
        """Redis's answer to TIME, in milliseconds."""
        return int(time[0]) * 1000 + int(time[1]) // 1000

    async def aclose(self) -> None:
        await self._drop_connections()

    def _key(self, pool: str, part: str) -> str:
        return f"{self._settings.prefix}:{{{pool}}}:{part}"

    async def _fault(self, error: BaseException) -> BaseException:
        """What to raise for ``error``, with the connection it came over gone: its state is unknown."""
        await self._drop_connections()
        return translated(error, self._passwords)

    async def _drop_connections(self) -> None:
        pool = self._redis.connection_pool
        # A pool of sentinels keeps clients of its own, and does not close them.
        manager = getattr(pool, "sentinel_manager", None)
        sentinels = manager.sentinels if manager else ()
        for each in (pool, *(sentinel.connection_pool for sentinel in sentinels)):
            with suppress(Exception):  # the fault that led here is to be told, not what comes of it
                await each.disconnect()
        # Before the server accepts with what the connections have left.
        reserve.fill()


def _prepared(host: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """``host`` with the client's own retries off, since the limiter decides when to ask again, and few greetings.

    A first call under a herd waits a turn of a busy event loop for every exchange of a connection's set-up.
    A call has ``timeout`` seconds in all.
    """
    ours = {"protocol": 2, **host, "retry": Retry(NoBackoff(), 0)}
    if "sentinels" in host:
        # They are asked in turn, and a silent one must leave time for the others and for the primary.
        each = timeout / (len(host["sentinels"]) + 1)
        patience = {"socket_timeout": each, "socket_connect_timeout": each}
        ours["sentinel_kwargs"] = {"retry": ours["retry"], **patience, **(host.get("sentinel_kwargs") or {})}
    return ours


@cache
def _sha(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()

"""The Redis ledger. Only this folder imports ``redis``.

A pool has the keys ``PREFIX:{pool}:counts``, ``…:leases``, ``…:seconds``, ``…:minutes``, ``…:controls``, and
``…:layouts``, ``…:host:TOKEN`` for each host and process namespace, and where clients show tickets ``…:tickets``. A
pool that is shared by quotas or classes also has ``…:claims``, ``…:claims:WORKER`` for each worker, ``…:attempts`` if a
quota has a rate, and ``…:holders`` if a quota evicts its oldest connection. The hash tag keeps all of them in one slot
of a cluster. In another layout than the first, the names of most keys bear its number (:mod:`~..layout`).
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import cache
from typing import Any

from redis.exceptions import NoScriptError

from ...conf import Settings
from ...conf.ledger import DEFAULT_URL, address_of, passwords_of
from ...core.overrides import Controls
from ...core.protocol import Reply, Report
from ...core.readings import Past, Reading
from ...exceptions import LedgerUnavailable
from ...runtime.descriptors import is_exhausted, spares
from ..base import Forgotten, OutOfOrder
from ..codec import reply_of
from ..layout import LAYOUT, key_of
from ..newest import newest
from ..overrides import entries
from ..record import past_of, reading_of, text_of
from ..script import CONTROL, RECONCILE
from .argument import Caller, keys_expire, milliseconds
from .connections import Connections
from .errors import translated

Look = tuple[tuple[int, int], Sequence[Mapping[Any, Any]]]
"""The time by Redis, seconds and microseconds, and some of a pool's hashes."""
LOOKED_AT = ("counts", "seconds", "controls", "layouts")
LOOK = """
local look = {redis.call('TIME')}
for i, key in ipairs(KEYS) do look[i + 1] = redis.call('HGETALL', key) end
return look
"""
"""A look at one pool. Some proxies know no command without a key, such as TIME."""

OK = (b"ok", "ok")
"""How the answer to a report begins that was applied, as the client gives it."""
LENT = 2
"""Spare descriptors that one call may use: for its connection, and the look-up of a name."""


class RedisLedger:
    """A :class:`~.base.Ledger` over one Redis, given in any form that channels_redis takes."""

    kind = "redis"
    layout = LAYOUT

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._source = RECONCILE
        self._callers: dict[str, Caller] = {}
        host = settings.ledger.host or {"address": DEFAULT_URL}
        self.address = address_of(host)
        self._passwords = frozenset().union(*map(passwords_of, (host, *settings.ledger.nodes)))
        self._connect(host)

    def _connect(self, host: Mapping[str, Any]) -> None:
        """Prepare to connect, which is done when first asked."""
        self._connections = Connections(host, self._settings.ledger_timeout)

    async def connect(self, within: float) -> None:
        try:
            await self._connections.ready(within)
        except BaseException as error:
            raise await self._fault(error) from None

    async def reconcile(self, pool: str, report: Report) -> Reply:
        caller = self._callers.get(pool) or self._callers.setdefault(pool, Caller(self._settings, pool, self.layout))
        try:
            reply = await self._reach(self._source, caller.keys(report), [caller.argument(report)])
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
            if reply[1] == report.seq and reply[0] in OK:
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
        """As :meth:`_run`, with a second try by spare descriptors where no socket could be opened."""
        try:
            return await self._run(script, keys, arguments)
        except Exception as error:
            if not is_exhausted(error):
                raise
        await self._drop_connections()
        # Not earlier: the server accepts connections on the same event loop, and takes what is free.
        spares.let_go(LENT)
        try:
            return await self._run(script, keys, arguments)
        finally:
            spares.fill()

    async def _run(self, script: str, keys: list[str], arguments: list[str | bytes | float]) -> Any:
        async with self._connections.lent() as connection:

            async def ask(*command: Any) -> Any:
                await connection.send_command(*command)
                return await connection.read_response()

            return await evaluated(ask, script, keys, arguments)

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
        return tuple(reading_of(hashes, self._now(time), self._settings.lease, self.layout) for time, hashes in looks)

    async def past(self, pool: str, *, minutes: bool = True) -> Past:
        ((time, rings),) = await self._see((pool,), ("seconds", "minutes") if minutes else ("seconds",))
        return past_of(self._now(time), *rings)

    async def _see(self, pools: tuple[str, ...], parts: tuple[str, ...]) -> list[Look]:
        try:
            return await self._look([[self._key(pool, part) for part in parts] for pool in pools])
        except BaseException as error:
            raise await self._fault(error) from None

    async def _look(self, pools: list[list[str]]) -> list[Look]:
        """For the keys of each pool, the time by Redis, and their hashes."""
        async with self._connections.lent() as connection:
            looks = [("EVAL", LOOK, len(keys), *keys) for keys in pools]
            await connection.send_packed_command(connection.pack_commands(looks))
            return [look_of(await connection.read_response()) for _ in looks]

    def _now(self, time: tuple[int, int]) -> int:
        """Redis's answer to TIME, in milliseconds."""
        return int(time[0]) * 1000 + int(time[1]) // 1000

    async def aclose(self) -> None:
        await self._connections.aclose()
        spares.fill()

    def _key(self, pool: str, part: str) -> str:
        return key_of(self._settings.prefix, pool, part, self.layout)

    async def _fault(self, error: BaseException) -> BaseException:
        """What to raise for ``error``. A call that is given up leaves the connections as they are; any other fault ends
        them, for the server may be another one by now.
        """
        if isinstance(error, Exception):
            await self._drop_connections()
        return translated(error, self._passwords)

    async def _drop_connections(self) -> None:
        await self._connections.drop()
        # Before the server accepts with what the connections have left.
        spares.fill()


def look_of(answer: list[Any]) -> Look:
    """What :data:`LOOK` found."""
    time, *hashes = answer
    return time, [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in hashes]


async def evaluated(
    ask: Callable[..., Awaitable[Any]], script: str, keys: list[str], arguments: list[str | bytes | float]
) -> Any:
    """What a script answers, by its digest where Redis knows it. ``ask`` sends a command and returns the answer."""
    try:
        return await ask("EVALSHA", _sha(script), len(keys), *keys, *arguments)
    except NoScriptError:
        return await ask("EVAL", script, len(keys), *keys, *arguments)


@cache
def _sha(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()

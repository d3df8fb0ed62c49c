"""The Redis ledger. The only module that imports ``redis``.

A pool lives in ``PREFIX:{pool}:counts``, ``…:leases``, ``…:seconds``, ``…:minutes``, ``…:controls`` and,
for each home of workers, ``…:home:TOKEN``; where it is shared by quotas or classes, also in ``…:claims``, for each
worker ``…:claims:WORKER``, where a quota has a rate ``…:attempts``, and where its oldest connection gives way
``…:holders``. The hash tag keeps them in one slot of a cluster.
"""

import asyncio
import hashlib
import random
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import cache
from typing import Any

import msgpack
from channels_redis.utils import create_pool
from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    ClusterError,
    ConnectionError,
    MasterDownError,
    MaxConnectionsError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)

from ..conf import Settings
from ..conf.ledger import DEFAULT_URL, address_of, passwords_of
from ..core import agreement
from ..core.levels import Level
from ..core.overrides import Controls
from ..core.protocol import Reply, Report
from ..core.readings import Past, Reading
from ..exceptions import LedgerRefused, LedgerUnavailable
from ..runtime.reserve import is_exhausted, reserve
from .base import Forgotten, OutOfOrder
from .buckets import packed
from .codec import KEYS, born, loaded, past_of, reading_of, shared, text_of, view_of
from .overrides import entries
from .overrides import text as controls_text
from .script import CONTROL, RECONCILE

Look = tuple[tuple[int, int], Sequence[Mapping[Any, Any]]]
"""The time by Redis, seconds and microseconds, and some of a pool's hashes."""
LOOKED_AT = ("counts", "seconds", "controls")

LOOK = """
local look = {redis.call('TIME')}
for i, key in ipairs(KEYS) do look[i + 1] = redis.call('HGETALL', key) end
return look
"""
"""A look at one pool of a cluster, by the clock of the node that has it."""

UNUSED_KEYS_EXPIRE = 3600.0
"""Seconds after the last report of a pool until its keys disappear; at least two leases."""

LENT = 2
"""Descriptors of the reserve that one call may use: for its connection, and the look-up of a name."""
NODE_HAS = 0.4
"""The share of a call's time in which a node of a cluster must answer, so that another can be asked in the rest."""

LONGEST_ERROR = 500
"""Characters of an error's text that are told."""
SHORTEST_SECRET = 4
"""Characters; a shorter password is no secret, and may stand in any error by chance."""
QUOTING = {ord(mark): None for mark in "\\'\""}

PASSING = re.compile(
    r"\b(OOM|READONLY|BUSY|LOADING|MASTERDOWN|NOREPLICAS|TRYAGAIN|CLUSTERDOWN|MOVED|ASK|UNKILLABLE|Script killed)\b"
)
"""Error replies that waiting mends, wherever they stand: Redis 6 wraps a script's errors into a sentence."""
PASSING_ERRORS = (OutOfMemoryError, ReadOnlyError, MasterDownError, TryAgainError, ClusterDownError, AskError)
"""The same, where the client has taken the word off the reply (a MovedError is an AskError)."""


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
        keys = [self._key(pool, part) for part in _parts(report)]
        try:
            reply = await self._reach(self._source, keys, [packed_report(report, self._settings)])
        except BaseException as error:
            raise await self._fault(error) from None
        try:
            return self._understood(reply, report)
        except LedgerUnavailable:
            await self._drop_connections()
            raise

    def _understood(self, reply: Any, report: Report) -> Reply:
        """What the script says; a reply that makes no sense is no reply."""
        try:
            if reply[1] == report.seq and text_of(reply[0]) == "ok":
                return view_of(reply, report.fair)
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
        # At the last moment: the server accepts connections on the same event loop, and takes what is free.
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
            _milliseconds(_keys_expire(self._settings)),
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
        return _translated(error, self._passwords)

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


class RedisClusterLedger(RedisLedger):
    """A :class:`~.base.Ledger` over a Redis Cluster, each pool in one of its slots.

    The client follows a pool that moves, within the call, and tries nothing again that may have been done.
    """

    def _connect(self, host: Mapping[str, Any]) -> None:
        self._hosts = self._settings.ledger.nodes or (host,)
        self.address = f"cluster://{self.address.partition('://')[2].partition('/')[0]}"
        self._redis = self._client()
        self._closing: set[asyncio.Task[None]] = set()

    def _client(self, known: Sequence[tuple[str, int]] = ()) -> RedisCluster:
        return cluster_client(self._hosts, known, self._settings.ledger_timeout)

    async def _run(self, script: str, keys: list[str], arguments: list[str | bytes | float]) -> Any:
        async with self._informed():
            return await super()._run(script, keys, arguments)

    async def _look(self, pools: list[list[str]]) -> list[Look]:
        looks: list[Look] = []
        async with self._informed() as client:
            for keys in pools:
                time, *hashes = await client.eval(LOOK, len(keys), *keys)
                looks.append((time, [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in hashes]))
        return looks

    @asynccontextmanager
    async def _informed(self) -> AsyncIterator[Any]:
        """The client, told who is where: before that, it would ask anybody."""
        client = self._redis
        try:
            await client.initialize()
            yield client
        finally:
            if client is not self._redis:  # another call has met a fault, and this one may have opened it again
                self._abandon(client)

    async def _fault(self, error: BaseException) -> BaseException:
        if isinstance(error, AttributeError | KeyError):
            # The client stumbles over a node that has no slot yet, and is about to get its first.
            error = ClusterError(f"a pool is on its way to a node not yet known ({error!r})")
        return await super()._fault(error)

    async def _drop_connections(self) -> None:
        """Go on with a client that asks again who is where: one that has met a fault may know it wrongly."""
        client = self._redis
        self._redis = self._client([(node.host, node.port) for node in client.get_nodes()])
        self._abandon(client)

    def _abandon(self, client: RedisCluster) -> None:
        task = asyncio.ensure_future(_close(client))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        await super().aclose()
        await asyncio.gather(*self._closing)


async def _close(client: RedisCluster) -> None:
    # It closes nothing by itself while it wants to be told again who is where.
    for node in (*client.get_nodes(), *client.nodes_manager.startup_nodes.values()):
        with suppress(RedisError, OSError):
            await node.disconnect()
    with suppress(RedisError, OSError):
        await client.aclose()


def cluster_client(
    hosts: Sequence[Mapping[str, Any]], known: Sequence[tuple[str, int]] = (), timeout: float = 0.25
) -> RedisCluster:
    """A client that asks any of ``hosts``, or of the nodes ``known``, for the others; not yet connected.

    The first of the hosts says how to connect to all. Which node is asked first is drawn by lot, for it may be silent;
    a call has ``timeout`` seconds in all.
    """
    nodes = [ClusterNode(*place) for place in {*map(_place, hosts), *known}]
    random.shuffle(nodes)
    ours = {"retry": Retry(NoBackoff(), 0), "reinitialize_steps": 0, "startup_nodes": nodes}
    each = NODE_HAS * timeout
    patience = {"socket_timeout": each, "socket_connect_timeout": each}
    options = {"protocol": 2, "require_full_coverage": False, **patience, **hosts[0], **ours}
    address = options.pop("address", None)
    client = RedisCluster.from_url(address, **options) if address else RedisCluster(**options)
    if hasattr(client, "cluster_error_retry_attempts"):  # redis-py 5
        client.cluster_error_retry_attempts = 0
    client.commands_parser = _FirstIsKey()  # type: ignore[assignment]
    return client


class _FirstIsKey:
    """Takes a command's first argument for its key, and asks no node for those of all commands; scripts say theirs.

    The client would ask the first of the primaries before all else, and be of no use while that one is silent.
    """

    async def initialize(self, node: ClusterNode) -> None:
        """There is nothing to learn."""

    async def get_keys(self, *command: Any) -> tuple[Any, ...]:
        return command[1:2]


def _place(host: Mapping[str, Any]) -> tuple[str, int]:
    parts = {"host": "localhost", "port": 6379, **(parse_url(host["address"]) if "address" in host else host)}
    return str(parts["host"]), int(parts["port"])


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


def _translated(error: BaseException, passwords: frozenset[str]) -> BaseException:
    if not isinstance(error, Exception):
        return error
    error = _origin(error)
    text = type(error).__name__
    if not _quotes(str(error), passwords):
        text = f"{text}: {str(error)[:LONGEST_ERROR]}"
    return LedgerRefused(text) if _is_permanent(error) else LedgerUnavailable(text, reset=_is_reset(error))


def _quotes(text: str, passwords: frozenset[str]) -> bool:
    """Whether a text holds a password, be it within quotes within quotes."""
    secrets = (spelt for each in passwords if len(each) >= SHORTEST_SECRET for spelt in (each, repr(each), ascii(each)))
    return any(spelt.translate(QUOTING) in text.translate(QUOTING) for spelt in secrets)


def _origin(error: Exception) -> Exception:
    """What went wrong at a node, where the client of a cluster only says that no node would do."""
    while isinstance(error, RedisClusterException):
        cause = error.__cause__ or error.__context__
        if not isinstance(cause, RedisError | RedisClusterException | OSError):
            break
        error = cause
    return error


def _is_permanent(error: Exception) -> bool:
    if isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError):
        return True
    if isinstance(error, ResponseError):
        return not (isinstance(error, PASSING_ERRORS) or PASSING.search(str(error)))
    # Anything else is a mistake in the set-up, such as an option the client finds wrong when it connects.
    return not isinstance(error, RedisError | RedisClusterException | OSError)


def _is_reset(error: Exception) -> bool:
    """Whether a new connection may mend it: the old one broke, or leads to a server that lost its office."""
    return isinstance(error, ConnectionError | ReadOnlyError | OSError) and not isinstance(error, MaxConnectionsError)


def _parts(report: Report) -> list[str]:
    """The keys of a pool that the script may touch, in the order of KEYS."""
    named = {"host": f"home:{report.home}", "own": f"claims:{report.worker}"}
    if report.fair is None:
        names = KEYS[: KEYS.index("claims")]
    elif report.fair.sweep:
        named["swept"], names = f"claims:{report.fair.sweep}", KEYS
    else:
        names = KEYS[: KEYS.index("swept")]
    return [named.get(name, name) for name in names]


def _keys_expire(settings: Settings) -> float:
    return max(UNUSED_KEYS_EXPIRE, 2 * settings.lease)


def packed_report(report: Report, settings: Settings) -> bytes:
    """The script's one argument: a map in MessagePack, with times in milliseconds. Whatever is absent is None."""
    own = agreement.text_of(report, settings.lease, settings.heartbeat)
    mark = agreement.fingerprint(own)
    fields = {
        "worker": report.worker,
        "seq": report.seq,
        "held": report.held,  # slots
        "wanted": report.wanted,  # handshakes
        "limit": report.limit,  # slots
        "version": report.version,
        "allowance": report.allowance,  # slots
        "lease": _milliseconds(settings.lease),
        "heartbeat": _milliseconds(settings.heartbeat),
        "expiry": _milliseconds(_keys_expire(settings)),
        "age": _milliseconds(report.age),
        "born": born(report.worker, report.born),
        "server": f"{report.server}#{mark}",
        "counters": packed(report.counters),
        "acknowledged": packed(report.acknowledged),
        "is_heartbeat": report.beat,
        "goodbye": report.goodbye,
        "retired": report.retired,
        "rate": report.terms.rate,  # admissions a second
        "burst": report.terms.burst,
        "slow_start": _milliseconds(report.terms.slow_start),
        "retry_low": _milliseconds(report.terms.retry_after[0]),
        "retry_high": _milliseconds(report.terms.retry_after[1]),
        "owed": report.owed,
        "speed": round(1000 * report.speed) or None,  # connections in a thousand seconds
        "load": loaded(report.load),
        "controls": controls_text(report.controls),
        "draining": int(report.draining),
        "warn_at": report.warn_at,
        "fingerprint": mark,
        "settings": own,
        "in_force": report.settings,
        "level": None if report.level is None else tuple(Level).index(report.level),
        "gone": report.gone,
        "shared": shared(report.fair),
    }
    # Redis knows texts of the older kind only.
    return bytes(msgpack.packb(fields, use_bin_type=False))


@cache
def _sha(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)

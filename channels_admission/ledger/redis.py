"""The Redis ledger. The only module that imports ``redis``.

A pool lives in ``PREFIX:{pool}:counts``, ``PREFIX:{pool}:leases`` and, for each home of workers,
``PREFIX:{pool}:home:TOKEN``; the hash tag keeps them in one slot of a cluster.
"""

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from channels_redis.utils import create_pool
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    ConnectionError,
    MasterDownError,
    MaxConnectionsError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from ..conf import MAX_LIMIT, Settings
from ..exceptions import LedgerRefused, LedgerUnavailable
from ..hosts import DEFAULT_URL
from ..types import Counters, Neighbour, Offer, Reading, Reason, Report, View, WorkerReading
from .base import OutOfOrder

SCRIPT = files(__package__).joinpath("reconcile.lua").read_text()

UNUSED_KEYS_EXPIRE = 3600.0
"""Seconds after the last report of a pool until its keys disappear; at least two leases."""

PASSING = re.compile(
    r"\b(OOM|READONLY|BUSY|LOADING|MASTERDOWN|NOREPLICAS|TRYAGAIN|CLUSTERDOWN|MOVED|ASK|UNKILLABLE|Script killed)\b"
)
"""Error replies that waiting mends, wherever they stand: Redis 6 wraps a script's errors into a sentence."""
PASSING_ERRORS = (OutOfMemoryError, ReadOnlyError, MasterDownError, TryAgainError, ClusterDownError, AskError)
"""The same, where the client has taken the word off the reply (a MovedError is an AskError)."""

WORKER = re.compile(r"[A-Za-z0-9._-]{1,32}:\d{1,10}:[0-9a-f]{1,16}")
SERVER = re.compile(r"[a-z0-9._-]{0,24}")
COUNTER = re.compile(r"([a-z][a-z0-9_.:-]{0,63})=(\d{1,15})")


def address_of(host: Mapping[str, Any]) -> str:
    """Where a channels_redis host entry points, for people: no user, password or query."""
    if "address" in host:
        url = urlsplit(str(host["address"]))
        place = url.hostname or ""
        place = f"[{place}]" if ":" in place else place
        port = f":{url.port}" if url.port else ""
        return f"{url.scheme}://{place}{port}{url.path}"
    if "sentinels" in host:
        return f"sentinel://{host.get('master_name', '')}"
    if "path" in host:
        return f"unix://{host['path']}"
    return f"redis://{host.get('host', 'localhost')}:{host.get('port', 6379)}/{host.get('db', 0)}"


class RedisLedger:
    """A :class:`~.base.Ledger` over one Redis, given in any form that channels_redis takes."""

    kind = "redis"

    def __init__(self, settings: Settings) -> None:
        host = settings.ledger.host or {"address": DEFAULT_URL}
        self._settings = settings
        self.address = address_of(host)
        self._pool = create_pool(_prepared(host))
        self._redis = Redis(connection_pool=self._pool)
        self._source = SCRIPT
        self._sha = hashlib.sha1(SCRIPT.encode(), usedforsecurity=False).hexdigest()

    async def reconcile(self, pool: str, report: Report) -> View:
        keys = [self._key(pool, "counts"), self._key(pool, "leases"), self._key(pool, f"home:{report.home}")]
        try:
            reply = await self._run(keys, self._arguments(report))
        except BaseException as error:
            raise await self._fault(error) from None
        if reply[1] != report.seq:
            await self._drop_connections()
            raise LedgerUnavailable(f"the reply to another call: {reply[1]!r} for {report.seq}")
        if _text(reply[0]) == "out of order":
            raise OutOfOrder(f"report {report.seq} of {report.worker} comes after report {reply[2]}")
        return _view(reply)

    async def _run(self, keys: list[str], arguments: list[str | float]) -> Any:
        try:
            return await self._redis.evalsha(self._sha, len(keys), *keys, *arguments)
        except NoScriptError:
            return await self._redis.eval(self._source, len(keys), *keys, *arguments)

    async def read(self, pools: tuple[str, ...]) -> tuple[Reading, ...]:
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                pipeline.time()
                for pool in pools:
                    pipeline.hgetall(self._key(pool, "counts"))
                (seconds, micros), *hashes = await pipeline.execute()
        except BaseException as error:
            raise await self._fault(error) from None
        now = seconds * 1000 + micros // 1000
        return tuple(_reading(fields, now, self._settings.lease) for fields in hashes)

    async def aclose(self) -> None:
        await self._drop_connections()

    def _key(self, pool: str, part: str) -> str:
        return f"{self._settings.prefix}:{{{pool}}}:{part}"

    def _arguments(self, report: Report) -> list[str | float]:
        lease, beat = self._settings.lease, self._settings.beat
        return [
            report.worker,
            report.seq,
            report.held,
            report.wanted,
            report.limit,
            report.version,
            report.allowance,
            _milliseconds(lease),
            _milliseconds(beat),
            _milliseconds(max(UNUSED_KEYS_EXPIRE, 2 * lease)),
            _milliseconds(report.age),
            report.born,
            report.server,
            _packed(report.counters),
            _packed(report.acknowledged),
            int(report.beat),
            int(report.goodbye),
            report.terms.rate or 0,
            report.terms.burst,
            _milliseconds(report.terms.ramp),
            *map(_milliseconds, report.terms.retry_after),
            report.owed,
            *report.gone,
        ]

    async def _fault(self, error: BaseException) -> BaseException:
        """What to raise for ``error``, with the connection it came over gone: its state is unknown."""
        await self._drop_connections()
        return _translated(error)

    async def _drop_connections(self) -> None:
        # A pool of sentinels keeps clients of its own, and does not close them.
        manager = getattr(self._pool, "sentinel_manager", None)
        sentinels = manager.sentinels if manager else ()
        for pool in (self._pool, *(sentinel.connection_pool for sentinel in sentinels)):
            with suppress(RedisError, OSError):
                await pool.disconnect()


def _prepared(host: Mapping[str, Any]) -> dict[str, Any]:
    """``host`` with the client's own retries off, since the gate decides when to ask again, and few greetings.

    A first call under a herd waits a turn of a busy event loop for every exchange of a connection's set-up.
    """
    ours = {"protocol": 2, **host, "retry": Retry(NoBackoff(), 0)}
    if "sentinels" in host:
        ours["sentinel_kwargs"] = {"retry": ours["retry"], **(host.get("sentinel_kwargs") or {})}
    return ours


def _translated(error: BaseException) -> BaseException:
    if not isinstance(error, Exception):
        return error
    text = f"{type(error).__name__}: {error}"
    return LedgerRefused(text) if _is_permanent(error) else LedgerUnavailable(text, reset=_is_reset(error))


def _is_permanent(error: Exception) -> bool:
    if isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError):
        return True
    if isinstance(error, ResponseError):
        return not (isinstance(error, PASSING_ERRORS) or PASSING.search(str(error)))
    # Anything else is a mistake in the set-up, such as an option the client finds wrong when it connects.
    return not isinstance(error, RedisError | OSError)


def _is_reset(error: Exception) -> bool:
    """Whether a new connection may mend it: the old one broke, or leads to a server that lost its office."""
    return isinstance(error, ConnectionError | ReadOnlyError | OSError) and not isinstance(error, MaxConnectionsError)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _packed(counters: Counters) -> str:
    return ",".join(f"{name}={count}" for name, count in counters.items())


def _view(reply: list[Any]) -> View:
    _, _, granted, total, limit, workers, version, settling, lapsed, why, *rest = reply
    pace, neighbours = rest[:3], rest[3:]
    named = zip(neighbours[::2], neighbours[1::2], strict=True)
    return View(
        granted=granted,
        total=total,
        limit=limit,
        workers=workers,
        version=version,
        settling=bool(settling),
        lapsed=bool(lapsed),
        shortfall=Reason(_text(why)) if why else None,
        offer=Offer(*(float(part) / 1000 for part in pace)) if pace[0] else None,
        neighbours=tuple(
            Neighbour(worker, int(born))
            for worker, born in ((_text(worker), _text(born)) for worker, born in named)
            if WORKER.fullmatch(worker) and born.isdecimal()
        ),
    )


def _text(value: Any) -> str:
    """A Redis string as text, whatever the client's ``decode_responses`` says; never fails."""
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


def _number(value: str | None) -> int | None:
    return int(value) if value is not None and value.isdecimal() and len(value) <= 16 else None


def _reading(fields: Mapping[Any, Any], now: int, lease: float) -> Reading:
    """A pool's hash as a :class:`Reading`; what no worker of ours can have written is left out."""
    texts = {_text(name): _text(value) for name, value in fields.items()}
    limit = _number(texts.get("#limit"))
    clock, settled = (_number(texts.get(name)) or 0 for name in ("#clock", "#settled"))
    workers = (_worker(name, record, now) for name, record in texts.items() if not name.startswith("#"))
    return Reading(
        limit=limit if limit is not None and limit <= MAX_LIMIT else None,
        settling=clock < settled,
        counters={name: int(count) for name, count in COUNTER.findall(texts.get("#counters", ""))},
        workers=tuple(worker for worker in workers if worker is not None and worker.silence < lease),
    )


def _worker(name: str, record: str, now: int) -> WorkerReading | None:
    parts = record.split("|")
    numbers = [number for part in parts[:5] if (number := _number(part)) is not None]
    if len(parts) != 7 or len(numbers) != 5 or not WORKER.fullmatch(name) or not SERVER.fullmatch(parts[5]):
        return None
    held, _, seen, started, _ = numbers
    return WorkerReading(
        worker=name,
        held=min(held, MAX_LIMIT),
        silence=max(0, now - seen) / 1000,
        uptime=max(0, now - started) / 1000,
        server=parts[5],
    )

"""Connections to one Redis, named or found by sentinels.

A connection is set up in the background, one at a time, and stays when the call that wanted it has given up. Each is
used by one call, and by the next one only when the reply to the one before has been read.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from channels_redis.utils import create_pool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import TimeoutError as SocketTimeout

from ...exceptions import LedgerUnavailable
from ..base import done_within
from .names import by_name

LONGEST = 5.0
"""The most seconds for which a connection is set up in one go; ``LEDGER_TIMEOUT`` where that is longer."""
AT_FIRST = 2
"""Times ``LEDGER_TIMEOUT`` for a first attempt."""
SPARE = 10
"""So many times what the last call took may the next connection take."""
CONNECTED_BY = 0.9
"""The part of ``LEDGER_TIMEOUT`` in which a connection must stand for a call to be made."""

_UNNAMED = inspect.signature(AbstractConnection).parameters
UNNAMED: Mapping[str, Any] = (
    {"driver_info": None} if "driver_info" in _UNNAMED else {"lib_name": None, "lib_version": None}
)
"""Options without which a client tells its name. Some proxies end the connection for it."""


class ConnectTimeout:
    """Seconds for which a connection may be set up: few for a near Redis, enough for a far one.

    They begin with ``least``. Each try that was too short doubles them, and each call says how far Redis is.
    """

    def __init__(self, least: float) -> None:
        self._least = least
        self._longest = max(LONGEST, least)
        self.seconds = least

    def grow(self) -> None:
        self.seconds = min(2 * self.seconds, self._longest)

    def allow(self, seconds: float) -> None:
        self.seconds = max(self.seconds, seconds)

    def learn(self, took: float) -> None:
        """A call took so many seconds."""
        self.seconds = min(max(self._least, SPARE * took), self._longest)


class Connections:
    """Belongs to one event loop; ``host`` is as channels_redis writes it, and ``timeout`` is ``LEDGER_TIMEOUT``."""

    def __init__(self, host: Mapping[str, Any], timeout: float) -> None:
        self._timeout = timeout
        self._connect_timeout = ConnectTimeout(AT_FIRST * timeout)
        self.pool: Any = create_pool(prepared(host))
        """Makes the connections, and keeps none of them."""
        self.pool.connection_class = by_name(self.pool.connection_class)
        manager = getattr(self.pool, "sentinel_manager", None)
        self._sentinels = [sentinel.connection_pool for sentinel in manager.sentinels] if manager else []
        self._given = frozenset(host.get("sentinel_kwargs") or ())
        for pool in self._sentinels:
            pool.connection_class = by_name(pool.connection_class)
        self._all: set[Any] = set()
        self._idle: list[Any] = []
        self._newest: Any = None
        self._opening: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[Any]:
        """A connection for one call, or :exc:`~...exceptions.LedgerUnavailable` where none stands in time.

        It is closed where the block raises, also by cancellation.
        """
        connection = await self._take()
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            yield connection
        except BaseException:
            await self._close(connection)
            raise
        took = loop.time() - began
        self._connect_timeout.learn(took)
        # A server that was silent may have been replaced, and the newest connection is to its successor.
        if connection in self._all and (took <= self._timeout or connection is self._newest):
            self._idle.append(connection)
        else:
            await self._close(connection)

    async def _take(self) -> Any:
        while not self._idle:
            opening = self._begin()
            if not await done_within((opening,), CONNECTED_BY * self._timeout):
                raise LedgerUnavailable(f"no connection within {self._timeout:g} s; it is still being set up")
            opening.result()
        return self._idle.pop()

    async def ready(self, within: float) -> None:
        """Return once a connection stands, for which ``within`` seconds are left; cancelling it ends no attempt."""
        if not self._idle:
            self._connect_timeout.allow(within)
            await asyncio.shield(self._begin())

    def _begin(self) -> "asyncio.Task[None]":
        """The one attempt to set up another connection, begun if none is under way."""
        if self._opening is None:
            self._opening = asyncio.get_running_loop().create_task(self._open())
            self._opening.add_done_callback(self._opened)
        return self._opening

    def _opened(self, opening: "asyncio.Task[None]") -> None:
        self._opening = None
        if not opening.cancelled():
            opening.exception()  # whether or not a call waits for it

    async def _open(self) -> None:
        connection = self.pool.make_connection()
        self._all.add(connection)
        self._prepare_sentinels()
        try:
            async with asyncio.timeout(self._connect_timeout.seconds):
                await connection.connect()
        except BaseException as error:
            await self._close(connection)
            if isinstance(error, TimeoutError | SocketTimeout):
                text = f"no connection within {self._connect_timeout.seconds:g} s"
                self._connect_timeout.grow()
                raise LedgerUnavailable(text) from None
            if self._sentinels:
                self._connect_timeout.grow()
            raise
        finally:
            for pool in self._sentinels:
                with suppress(Exception):
                    await pool.disconnect()
        self._newest = connection
        self._idle.append(connection)

    def _prepare_sentinels(self) -> None:
        """Let each sentinel have a part of the time: they are asked in turn, and a silent one must leave the others and
        the primary theirs.
        """
        part = self._connect_timeout.seconds / (len(self._sentinels) + 1)
        for pool in self._sentinels:
            for option in {"socket_timeout", "socket_connect_timeout"} - self._given:
                pool.connection_kwargs[option] = part
            pool.reset()

    async def drop(self) -> None:
        """Close those that no call uses."""
        while self._idle:
            await self._close(self._idle.pop())

    async def aclose(self) -> None:
        """Close all, also those in use. Another call opens others."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait((self._opening,))
        self._idle.clear()
        for connection in tuple(self._all):
            await self._close(connection, nowait=False)
        await self.pool.disconnect()

    async def _close(self, connection: Any, *, nowait: bool = True) -> None:
        self._all.discard(connection)
        with suppress(Exception):  # the fault that led here is to be told, not what comes of it
            await connection.disconnect(nowait=nowait)


def prepared(host: Mapping[str, Any]) -> dict[str, Any]:
    """``host`` with the client's own retries off, since the limiter decides when to ask again, and few greetings.

    A first call under a herd waits a turn of a busy event loop for every exchange of a connection's set-up.
    """
    retry = Retry(NoBackoff(), 0)
    ours = {"protocol": 2, **UNNAMED, **host, "retry": retry}
    if "sentinels" in host:
        ours["sentinel_kwargs"] = {"protocol": 2, **UNNAMED, "retry": retry, **(host.get("sentinel_kwargs") or {})}
    return ours

"""The consumers that the servers run: an echo without a limit, and with the usual ways to limit it.

Each is as fast as possible: one Redis client per process with the compiled parser and room for every
connection, and no look-up or channel layer beside what is measured.
"""

import os
import time
import uuid
from typing import Any

import redis.asyncio as redis
from channels.generic.websocket import AsyncWebsocketConsumer

from channels_admission.consumers import AdmissionMixin

LIMIT = int(os.environ.get("BENCH_LIMIT", "100000"))
"""Connections; 0 to refuse every handshake."""
KEY = "recipe:" + os.environ.get("BENCH_CONTENDER", "")
CLIENTS = 10_000
"""Connections of one process to Redis, so many that none waits for one."""
EXPIRES = 60.0
"""Seconds after which a holder of the semaphore expires."""
ENTER = """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[2] - ARGV[4])
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1])
return 1
"""


class Echo(AsyncWebsocketConsumer):
    """No limit at all."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(text_data, bytes_data)


class Mixin(AdmissionMixin, Echo):
    """This package's mixin."""


class LocalCounter(Echo):
    """A number in the class: one limit for each process."""

    open = 0

    async def connect(self) -> None:
        if LocalCounter.open >= LIMIT:
            await self.close()
            return
        LocalCounter.open += 1
        self.counted = True
        await self.accept()

    async def disconnect(self, code: int) -> None:
        if getattr(self, "counted", False):
            LocalCounter.open -= 1


class IncrDecr(Echo):
    """A number in Redis, changed at every start and end of a connection."""

    async def connect(self) -> None:
        client = _client()
        self.counted = await client.incr(KEY) <= LIMIT
        if self.counted:
            await self.accept()
        else:
            await client.decr(KEY)
            await self.close()

    async def disconnect(self, code: int) -> None:
        if self.counted:
            await _client().decr(KEY)


class Semaphore(Echo):
    """A sorted set in Redis of the connections by their start, so that those of dead workers expire."""

    async def connect(self) -> None:
        self.name = str(uuid.uuid4())
        if await _enter()(keys=[KEY], args=[self.name, time.time(), LIMIT, EXPIRES]):
            await self.accept()
        else:
            await self.close()

    async def disconnect(self, code: int) -> None:
        await _client().zrem(KEY, self.name)


_clients: list[Any] = []


def _client() -> Any:
    """The process's client, created at the first use."""
    if not _clients:
        client = redis.Redis.from_url(os.environ["REDIS_URL"], protocol=2, max_connections=CLIENTS)
        _clients.extend([client, client.register_script(ENTER)])
    return _clients[0]


def _enter() -> Any:
    _client()
    return _clients[1]

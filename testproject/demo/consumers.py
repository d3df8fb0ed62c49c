"""The consumers of the demo page and the integration tests."""

import asyncio
import os
import time
from typing import Any

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer

from channels_admission.consumers import AdmissionMixin

HERD = "herd"
"""The pool with a rate, which only the demo declares."""
PID = "pid"
"""A client's question for the worker process that holds its connection."""
BURN = float(os.environ.get("TESTPROJECT_BURN", "0.01"))
"""Seconds of CPU time that the ``connect()`` of a heavy consumer costs."""
ADDRESS = "address"
"""A client's question for the address that the server sees."""
HANDSHAKE = "handshake"
"""A client's question for what the application sees of its request."""
MOST_BLOCKED = 60.0
"""The most seconds for which a client may block a worker."""


def answer(text: str, scope: dict[str, Any]) -> str:
    if text == ADDRESS:
        return str((scope.get("client") or ["unknown"])[0])
    if text == HANDSHAKE:
        return repr({name: scope.get(name) for name in ("raw_path", "query_string", "headers", "extensions")})
    return str(os.getpid()) if text == PID else text


def first_subprotocol(scope: dict[str, Any]) -> str | None:
    requested = scope.get("subprotocols")
    return requested[0] if requested else None


class EchoConsumer(AsyncWebsocketConsumer):
    """Accepts the first subprotocol asked for, and echoes every message."""

    async def connect(self) -> None:
        await self.accept(first_subprotocol(self.scope))

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if text_data is None:
            await self.send(bytes_data=bytes_data)
        else:
            await self.send(answer(text_data, self.scope))


class MixinConsumer(AdmissionMixin, EchoConsumer):
    """The same with a slot of its own, for use without the middleware."""


class HerdConsumer(AdmissionMixin, EchoConsumer):
    """The same in a pool with a rate, for the demo page and for herds."""

    admission_pool = HERD


class SyncConsumer(WebsocketConsumer):
    """The same in a thread."""

    def connect(self) -> None:
        self.accept(first_subprotocol(self.scope))

    def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if text_data is None:
            self.send(bytes_data=bytes_data)
        else:
            self.send(answer(text_data, self.scope))


def burn() -> None:
    """Use as much CPU time as the environment says, as a look-up or a template would."""
    until = time.thread_time() + BURN
    while time.thread_time() < until:
        pass


class HeavyConsumer(EchoConsumer):
    """The same with a ``connect()`` that costs CPU time on the event loop."""

    begun = 0
    """Connections that this process has begun."""

    async def connect(self) -> None:
        HeavyConsumer.begun += 1
        burn()
        await super().connect()


class WatchConsumer(EchoConsumer):
    """Answers with the most connections of :class:`HeavyConsumer` that began between two turns of the event loop."""

    async def connect(self) -> None:
        await super().connect()
        self.most = 0
        self.task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            before = HeavyConsumer.begun
            await asyncio.sleep(0.001)
            self.most = max(self.most, HeavyConsumer.begun - before)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        await self.send(str(self.most))

    async def disconnect(self, code: int) -> None:
        self.task.cancel()


class HeavySyncConsumer(SyncConsumer):
    """The same in the thread of sync consumers."""

    def connect(self) -> None:
        burn()
        super().connect()


class HeavyDatabaseConsumer(EchoConsumer):
    """The same in a function that goes to the database."""

    async def connect(self) -> None:
        await database_sync_to_async(burn)()
        await super().connect()


class TroubleConsumer(EchoConsumer):
    """The same, but raises on ``raise``, and on ``block FILE`` blocks its event loop while the file is there."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        order, _, file = (text_data or "").partition(" ")
        if order == "raise":
            raise RuntimeError("as told")
        if order == "block":
            until = time.monotonic() + MOST_BLOCKED
            while os.path.exists(file) and time.monotonic() < until:
                time.sleep(0.01)
        await super().receive(text_data, bytes_data)

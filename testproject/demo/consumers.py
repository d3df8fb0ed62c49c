"""The consumers of the demo page and the integration tests."""

import os
import time
from typing import Any

from channels.generic.websocket import AsyncWebsocketConsumer, WebsocketConsumer

from channels_admission.consumers import AdmissionMixin

HERD = "herd"
"""The pool with a rate, which only the demo declares."""
PID = "pid"
"""A client's question for the worker process that holds its connection."""
ADDRESS = "address"
"""A client's question for the address that the server sees."""


def answer(text: str, scope: dict[str, Any]) -> str:
    if text == ADDRESS:
        return str((scope.get("client") or ["unknown"])[0])
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


class TroubleConsumer(EchoConsumer):
    """The same, but raises on ``raise``, and blocks its worker's event loop on ``block SECONDS``."""

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        order, _, seconds = (text_data or "").partition(" ")
        if order == "raise":
            raise RuntimeError("as told")
        if order == "block":
            time.sleep(float(seconds))
        await super().receive(text_data, bytes_data)

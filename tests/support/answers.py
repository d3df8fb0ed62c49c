"""The Python client on a clock of its own, and a server that answers handshakes with bytes."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from websockets.utils import accept_key

from channels_admission.client import connections

OPEN = object()
"""Answers the handshake, and ends without a close frame when the client has sent something."""
RESET = b""
"""Ends without an answer."""
MOST_WAITS = 50
"""A client that waits more often than any test wants has lost its way."""
HELLO = b"\x16"
KEY = re.compile(rb"sec-websocket-key: *(\S+)", re.IGNORECASE)


class Watch:
    """A clock that only sleeping moves, and the waits that a client tells of."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits = []

    async def sleep(self, seconds):
        assert len(self.waits) < MOST_WAITS, self.told
        self.now += seconds
        await asyncio.sleep(0)

    def connections(self, url, **options):
        tools = {"rng": lambda: 1.0, "sleep": self.sleep, "clock": lambda: self.now, "on_wait": self.waits.append}
        return connections(url, **{**tools, "proxy": None, **options})

    @property
    def told(self):
        return [(wait.seconds, wait.attempt, wait.ending.code) for wait in self.waits]


def http(status: int, *lines: str, body: str = "") -> bytes:
    """An HTTP response."""
    head = [f"HTTP/1.1 {status} Answer", f"Content-Length: {len(body)}", "Connection: close", *lines]
    return "\r\n".join([*head, "", body]).encode()


@asynccontextmanager
async def answering(*answers, context: ssl.SSLContext | None = None):
    """The port of a server that gives its answers one after the other, and then the last one again and again."""
    made, tasks = 0, set()

    async def answer(reader, writer):
        nonlocal made
        tasks.add(asyncio.current_task())
        reply = answers[min(made, len(answers) - 1)]
        made += 1
        try:
            request = await _request(reader)
            writer.write(_upgrade(request) if reply is OPEN else reply)
            if reply is OPEN:
                await reader.read(1)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _request(reader: asyncio.StreamReader) -> bytes:
    """The head of an HTTP request, or the beginning of a TLS handshake."""
    first = await reader.readexactly(1)
    return first if first == HELLO else first + await reader.readuntil(b"\r\n\r\n")


def _upgrade(request: bytes) -> bytes:
    accept = accept_key(KEY.search(request)[1].decode())
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    return "\r\n".join([*lines, f"Sec-WebSocket-Accept: {accept}", "", ""]).encode()


async def after_uptime(watch: Watch, sockets: AsyncIterator, uptime: float) -> None:
    """Have a connection that was open for so long, and then the next one."""
    first = await anext(sockets)
    watch.now += uptime
    await first.send("go")
    await first.wait_closed()
    await anext(sockets)

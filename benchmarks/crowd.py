"""The clients: WebSockets as cheap as possible, to leave the machine to the servers."""

import asyncio
import base64
import os
import struct
import time
from collections import Counter
from dataclasses import dataclass

HOST = "127.0.0.1"
BACKLOG = 500
"""Most clients that connect in one turn of the event loop."""
TIMEOUT = 60.0
"""Seconds after which an unfinished crowd has failed."""
FINAL, TEXT, CLOSE, PING, PONG, MASKED = 0x80, 1, 8, 9, 10, 0x80
NORMAL = 1000
OPEN = "open"


def frame(opcode: int, payload: bytes) -> bytes:
    """A client's frame with a short payload, masked with zeros."""
    return struct.pack(">BBI", FINAL | opcode, MASKED | len(payload), 0) + payload


LEAVE = frame(CLOSE, struct.pack(">H", NORMAL))


class Client(asyncio.Protocol):
    """One WebSocket. ``told`` is its first result: ``open``, a close code, an HTTP status, or ``lost``."""

    def __init__(self, request: bytes, hopes: bool) -> None:
        loop = asyncio.get_running_loop()
        self.told: asyncio.Future[str] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self.code = 0
        """The code of the server's close frame."""
        self._request = request
        self._hopes = hopes
        self._received = b""
        self._upgraded = False
        self._answer: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._upgraded:
            head, end, rest = self._received.partition(b"\r\n\r\n")
            if not end:
                return
            status = head[9:12].decode()
            if status != "101":
                self._tell(status)
                self._transport.close()
                return
            self._upgraded, self._received = True, rest
            if self._hopes:
                self._tell(OPEN)
        while len(self._received) >= 2 and len(self._received) >= 2 + self._received[1]:
            end = 2 + self._received[1]
            payload = self._received[2:end]
            opcode, self._received = self._received[0] & 15, self._received[end:]
            self._read(opcode, payload)

    def _read(self, opcode: int, payload: bytes) -> None:
        if opcode == CLOSE:
            (self.code,) = struct.unpack(">H", payload[:2])
            if not self.told.done():
                self._tell(str(self.code))
                self._transport.write(frame(CLOSE, payload[:2]))
        elif self._answer is not None and not self._answer.done():
            self._answer.set_result(None)

    def _tell(self, seen: str) -> None:
        if not self.told.done():
            self.told.set_result(seen)

    def connection_lost(self, error: Exception | None) -> None:
        self._tell("lost")
        if not self.gone.done():
            self.gone.set_result(None)

    async def echo(self, text: bytes) -> None:
        """Send a text of at most 125 bytes, and wait for any answer."""
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(frame(TEXT, text))
        await self._answer

    async def leave(self) -> str:
        """Close it; return its first result and its last."""
        seen = await self.told
        if seen == OPEN:
            self._transport.write(LEAVE)
        await self.gone
        return seen if seen != OPEN or self.code == NORMAL else f"closed {self.code}"


def request(port: int, path: str = "/ws/") -> bytes:
    """A handshake, with a cookie of its own, as those of a site's users have: clients that look alike count as one."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nOrigin: http://{HOST}:{port}\r\n"
        f"Upgrade: websocket\r\nConnection: Upgrade\r\nCookie: client={os.urandom(16).hex()}\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


async def connect(port: int, hopes: bool = True) -> Client:
    """Connect a client. With ``hopes`` a 101 counts as admitted; otherwise it waits for the close."""
    made = request(port)
    _, client = await asyncio.get_running_loop().create_connection(lambda: Client(made, hopes), HOST, port)
    return client


@dataclass(frozen=True, slots=True)
class Rush:
    """The results of a crowd, and the seconds that it took."""

    seen: Counter[str]
    seconds: float

    @property
    def count(self) -> int:
        return self.seen.total()


async def rush(port: int, count: int, in_flight: int, hopes: bool, pause: float = 0.0) -> Rush:
    """Connect and close ``count`` clients, so many at a time, each ``pause`` seconds after the one before."""
    seen: Counter[str] = Counter()
    left = count

    async def one_after_another() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            client = await connect(port, hopes)
            seen[await client.leave()] += 1
            if pause:
                await asyncio.sleep(pause)

    started = time.perf_counter()
    async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as group:
        for _ in range(in_flight):
            group.create_task(one_after_another())
    return Rush(seen, time.perf_counter() - started)


async def enter(port: int, count: int) -> list[Client]:
    """Connect ``count`` clients at once, and keep them."""
    clients: list[Client] = []
    for start in range(0, count, BACKLOG):
        clients += await asyncio.gather(*(connect(port) for _ in range(min(BACKLOG, count - start))))
    async with asyncio.timeout(TIMEOUT):
        seen = Counter(await asyncio.gather(*(client.told for client in clients)))
    if set(seen) != {OPEN}:
        raise RuntimeError(f"Not all of {count} clients got in: {dict(seen)}")
    return clients


async def leave(clients: list[Client]) -> Counter[str]:
    """Close them all at once."""
    async with asyncio.timeout(TIMEOUT):
        return Counter(await asyncio.gather(*(client.leave() for client in clients)))

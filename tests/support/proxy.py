"""A road to a server on the loopback interface that can be made slow, one-sided, or cut; times are in seconds."""

import asyncio
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Self

HOST = "127.0.0.1"
CHUNK = 65536
HARD = struct.pack("ii", 1, 0)
"""A linger time of zero: the connection ends with a reset."""


class Proxy:
    """Carries connections on a port of its own to ``port``, in the test's event loop; with ``secret``, those of TLS.

    While the road is cut nothing gets through and no connection ends. As on a real network nothing is lost by that:
    all of it arrives when the road is mended, in order and however late.
    """

    def __init__(self, port: int, secret: ssl.SSLContext | None = None) -> None:
        self.port = 0
        self.accepted = 0
        """Connections."""
        self._secret = secret
        self._target = port
        self._latency = 0.0
        self._swallows_replies = False
        self._passable = asyncio.Event()
        self._passable.set()
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, HOST, 0, ssl=self._secret)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @contextmanager
    def slow(self, latency: float) -> Iterator[None]:
        """Everything takes so much longer, each way."""
        self._latency = latency
        yield
        self._latency = 0.0

    @contextmanager
    def swallowing_replies(self) -> Iterator[None]:
        """Requests arrive, and what the server says to them does not."""
        self._swallows_replies = True
        yield
        self._swallows_replies = False

    @contextmanager
    def cut(self) -> Iterator[None]:
        self._passable.clear()
        yield
        self._passable.set()

    def reset(self) -> None:
        """End every connection at both ends, with what was on its way."""
        for end in self._ends:
            with suppress(OSError):
                if socket_of := end.get_extra_info("socket"):  # one of TLS may have ended
                    socket_of.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, HARD)
            end.transport.abort()

    async def _accept(self, requests: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self.accepted += 1
        try:
            replies, server = await asyncio.open_connection(HOST, self._target)
        except OSError:
            client.transport.abort()
            return
        self._start(self._carry(requests, server))
        self._start(self._carry(replies, client, replies=True))

    def _start(self, carrying) -> None:
        task = asyncio.ensure_future(carrying)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, replies: bool = False) -> None:
        self._ends.add(sink)
        try:
            with suppress(OSError):
                while data := await source.read(CHUNK):
                    await asyncio.sleep(self._latency)
                    await self._passable.wait()
                    if not (replies and self._swallows_replies):
                        sink.write(data)
                        await sink.drain()
            await self._passable.wait()
        finally:
            self._ends.discard(sink)
            sink.close()
            with suppress(OSError):
                await sink.wait_closed()

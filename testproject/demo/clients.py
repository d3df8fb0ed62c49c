"""Real WebSocket clients, many at once."""

import asyncio
import random
import re
import resource
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.protocol import State
from websockets.typing import Origin

from .consumers import PID

TIMEOUT = 30.0
"""Seconds for a handshake, and for the first answer after it."""

TICKET = re.compile(r"ticket=[\w-]{24}; ", re.ASCII)
"""In a close reason: another one for each client."""


class TooFewFiles(Exception):
    """The system's limit of open files is too low; the message states it."""


def allow_sockets(clients: int, others: int) -> None:
    """Raise this process's limit of open files to one per client plus so many others.

    Raises :exc:`TooFewFiles` if the system allows fewer.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = clients + others
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise TooFewFiles(f"{clients} clients need {needed} open files, and this system allows {hard}.")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


@dataclass(frozen=True, slots=True)
class Client:
    """The result of one client: open in a worker, or closed with a code and a reason."""

    connection: ClientConnection | None
    worker: int | None
    """The process that holds it; None unless it was admitted."""
    code: int | None = None
    """None without a close frame."""
    reason: str = ""

    @property
    def is_open(self) -> bool:
        return self.worker is not None and self.connection is not None and self.connection.state is State.OPEN

    @property
    def group(self) -> tuple[int | None, str]:
        """Its close code and its reason, without the ticket and with every number written as N."""
        return self.code, re.sub(r"\d+(\.\d+)?", "N", TICKET.sub("", self.reason))


@asynccontextmanager
async def crowd(origin: str, path: str, count: int, within: float = 0.0) -> AsyncIterator[list[Client]]:
    """Connect ``count`` clients within so many seconds; yields their results, and closes the open ones at the end."""
    connections: list[ClientConnection] = []
    arrivals = (_arrive(number, origin, path, random.uniform(0, within), connections) for number in range(count))
    try:
        yield await asyncio.gather(*arrivals)
    finally:
        await asyncio.gather(*(connection.close() for connection in connections))


def by_worker(clients: list[Client]) -> Counter[int]:
    """Open connections by worker."""
    return Counter(client.worker for client in clients if client.is_open and client.worker is not None)


def by_refusal(clients: list[Client]) -> Counter[tuple[int | None, str]]:
    """Closed clients by code and reason."""
    return Counter(client.group for client in clients if not client.is_open)


async def _arrive(number: int, origin: str, path: str, delay: float, connections: list[ClientConnection]) -> Client:
    """Connect one client, and return its result; an open connection is added to ``connections``.

    Each has a name of its own: those that look alike count as one that hammers, and are told later.
    """
    await asyncio.sleep(delay)
    try:
        connection = await connect(
            origin.replace("http", "ws", 1) + path,
            origin=Origin(origin), compression=None, open_timeout=TIMEOUT, close_timeout=2, proxy=None,
            user_agent_header=f"client {number}",
        )  # fmt: skip
    except (OSError, WebSocketException) as error:
        because = f" ({error.__cause__!r})" if error.__cause__ else ""
        return Client(None, None, None, f"{type(error).__name__}: {error}{because}")
    connections.append(connection)
    try:
        async with asyncio.timeout(TIMEOUT):
            await connection.send(PID)
            return Client(connection, int(await connection.recv()))
    except ConnectionClosed as error:
        close = error.rcvd
        return Client(connection, None, close.code if close else None, close.reason if close else "connection lost")
    except TimeoutError:
        return Client(connection, None, None, "no answer")

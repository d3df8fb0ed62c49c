"""Real WebSocket clients, and a look at the ledger, for the tests with real servers."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from channels_admission import snapshot
from channels_admission.snapshot import PoolSnapshot

from demo.consumers import PID

PATIENCE = 30.0


@dataclass
class Client:
    """One client of a server: open, with the worker's process id, or refused, with code and reason."""

    socket: ClientConnection
    pid: int | None = None
    code: int | None = None
    reason: str = ""
    seconds: float = 0.0
    """From the first byte sent to the verdict known."""

    @classmethod
    async def enter(cls, origin: str, path: str = "/ws/echo/", **options) -> Self:
        loop = asyncio.get_running_loop()
        started = loop.time()
        url = origin.replace("http", "ws", 1) + path
        options = {"origin": origin, "open_timeout": PATIENCE, "compression": None, "ping_interval": None, **options}
        client = cls(await connect(url, **options))
        try:
            await client.socket.send(PID)
            client.pid = int(await asyncio.wait_for(client.socket.recv(), PATIENCE))
        except ConnectionClosed:
            client.code, client.reason = client.socket.close_code, client.socket.close_reason
        client.seconds = loop.time() - started
        return client

    @property
    def is_open(self) -> bool:
        return self.pid is not None and self.socket.close_code is None

    async def leave(self) -> None:
        await self.socket.close()


async def enter_many(count: int, origins: list[str], **options) -> list[Client]:
    """``count`` clients at once, dealt out over ``origins``."""
    return await asyncio.gather(*(Client.enter(origins[number % len(origins)], **options) for number in range(count)))


async def leave_all(clients: list[Client]) -> None:
    await asyncio.gather(*(client.leave() for client in clients))


async def look(pool: str = "default") -> PoolSnapshot:
    """The pool as ``ws_status`` would show it, by the settings in force here."""
    seen = await snapshot.collect()
    if not seen.pools:
        raise AssertionError(f"the ledger is down: {seen.ledger.error}")
    return next(each for each in seen.pools if each.name == pool)


async def shows(condition: Callable[[PoolSnapshot], bool]) -> bool:
    return condition(await look())

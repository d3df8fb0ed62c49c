"""Real WebSocket clients, and a look at the ledger, for the tests with real servers."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self
from weakref import WeakSet

import redis.asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from channels_admission import conf
from channels_admission.client import Ending, RetryPolicy
from channels_admission.conf import Settings
from channels_admission.status import snapshot
from channels_admission.status.values import PoolSnapshot

from demo.consumers import PID
from support.waiting import PatientClock

TIMEOUT = 30.0
POLICY = RetryPolicy()
_numbers = itertools.count()
_sockets: WeakSet[ClientConnection] = WeakSet()
LONGEST_WAIT = 1.5
"""The most seconds for which a client waits after a refusal that comes again with its ticket."""


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
        agent = {"user_agent_header": f"client {next(_numbers)}"}  # clients that look alike count as one that hammers
        options = {"origin": origin, "open_timeout": TIMEOUT, "compression": None, "ping_interval": None, **options}
        client = cls(await connect(url, **agent, **options))
        _sockets.add(client.socket)
        try:
            await client.socket.send(PID)
            client.pid = int(await asyncio.wait_for(client.socket.recv(), TIMEOUT))
        except ConnectionClosed:
            client.code, client.reason = client.socket.close_code, client.socket.close_reason
        client.seconds = loop.time() - started
        return client

    @property
    def is_open(self) -> bool:
        return self.pid is not None and self.socket.close_code is None

    @property
    def headers(self) -> dict[str, str]:
        """Those that hand back the ticket of the refusal, if there is one."""
        ticket = Ending(reason=self.reason).ticket
        return {"Admission-Ticket": ticket} if ticket else {}

    @property
    def hint(self) -> float:
        """Seconds that the refusal tells the client to wait."""
        return POLICY.hint(self.reason) or 0.0

    async def leave(self) -> None:
        await self.socket.close()


async def enter_many(count: int, origins: list[str], **options) -> list[Client]:
    """``count`` clients at once, dealt out over ``origins``."""
    return await asyncio.gather(*(Client.enter(origins[number % len(origins)], **options) for number in range(count)))


async def admitted(origin: str) -> Client:
    """A client that is let in, perhaps not at once: slots are kept for refused clients of an earlier test."""
    client = await Client.enter(origin)
    async with asyncio.timeout(TIMEOUT):
        while not client.is_open:
            await client.leave()
            await asyncio.sleep(min(client.hint, LONGEST_WAIT))
            client = await Client.enter(origin, additional_headers=client.headers)
    return client


async def all_admitted(count: int, origins: list[str]) -> list[Client]:
    """``count`` of them at once, dealt out over ``origins``."""
    return await asyncio.gather(*(admitted(origins[number % len(origins)]) for number in range(count)))


async def leave_all(clients: list[Client]) -> None:
    await asyncio.gather(*(client.leave() for client in clients))


async def nobody_stays() -> None:
    """Whoever a test that failed has left behind leaves, so that the next test finds an empty pool."""
    await asyncio.gather(*(socket.close() for socket in tuple(_sockets)))


class Crowd:
    """``count`` clients that come, stay for a while and leave, over and over, while the ``async with`` lasts.

    After a refusal they come again as they are told, but within :data:`LONGEST_WAIT`, and with their tickets. A client
    counts as open once it knows that it was let in, and no longer when it begins to leave: ``open_now`` is never above
    the truth.
    """

    def __init__(self, count: int, origins: list[str], seed: int = 1013) -> None:
        self.open_now = self.most = 0
        self.slowest = 0.0
        """Seconds that the slowest verdict took since :meth:`forget`, by a :class:`PatientClock`."""
        self.codes: Counter[int | None] = Counter()
        """Verdicts: None for a client that was let in, else the close code."""
        self._count, self._origins, self._rng = count, origins, random.Random(seed)
        self._going = asyncio.Event()
        self._leaving = False
        self._clock = PatientClock()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._going.set()
        origins = (self._origins[number % len(self._origins)] for number in range(self._count))
        self._tasks = [asyncio.ensure_future(self._live(origin)) for origin in origins]
        await self._clock.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._leaving = True
        self._going.set()
        await asyncio.gather(*self._tasks)
        await self._clock.__aexit__()

    def stay(self) -> None:
        """Nobody comes or leaves from now on, but for those on their way."""
        self._going.clear()

    def go_on(self) -> None:
        self._going.set()

    def forget(self) -> None:
        self.most, self.slowest = self.open_now, 0.0
        self.codes.clear()

    async def _live(self, origin: str) -> None:
        await asyncio.sleep(self._rng.uniform(0, 0.2))
        headers: dict[str, str] = {}
        while not self._leaving:
            began = self._clock.time()
            client = await Client.enter(origin, additional_headers=headers)
            self.slowest = max(self.slowest, self._clock.time() - began)
            self.codes[client.code] += 1
            if client.is_open:
                await self._stay_a_while()
            await client.leave()
            headers = client.headers
            await asyncio.sleep(min(client.hint, LONGEST_WAIT) or self._rng.uniform(0.05, 0.2))
            await self._going.wait()

    async def _stay_a_while(self) -> None:
        self.open_now += 1
        self.most = max(self.most, self.open_now)
        await asyncio.sleep(self._rng.uniform(0.05, 0.3))
        await self._going.wait()
        self.open_now -= 1


async def look(pool: str = "default", settings: Settings | None = None) -> PoolSnapshot:
    """The pool as ``ws_status`` would show it, by the settings given or those in force here."""
    seen = await snapshot.collect(settings)
    if not seen.pools:
        raise AssertionError(f"the ledger is down: {seen.ledger.error}")
    return next(each for each in seen.pools if each.name == pool)


async def keeps_nothing() -> bool:
    """No slot is held, and none is kept for clients that were refused before and have not come again."""
    settings = conf.current()
    async with redis.asyncio.from_url(settings.ledger.host["address"]) as ledger:
        line = await ledger.hget(f"{settings.prefix}:{{default}}:counts", "#line")
    return not line and await shows(lambda pool: pool.held == 0)


async def shows(condition: Callable[[PoolSnapshot], bool], pool: str = "default") -> bool:
    return condition(await look(pool))

"""Connections that a command opens itself, to measure what each takes of the workers."""

import asyncio
import ipaddress
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ..status.capacity import WorkerFootprint

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

SHARE = 0.5
"""The share of a pool's free slots that is used at most."""
FIRST = 20
"""Connections after which the workers have loaded all that they need; the others are measured."""
AT_ONCE, PAUSE = 20, 0.4
"""Connections opened together, and the seconds from these to the next: a worker admits no more at once than its memory
has room for."""
ANSWERED, OPENED, CLOSED = 5.0, 10.0, 2.0
"""Seconds in which a message is answered, a handshake, and a close."""
SHOWN = 2.0
"""Seconds after which the memory of a connection shows in the readings."""
LOOK = 0.1
"""Seconds between two looks at the ledger."""

Room = Callable[[], Awaitable[int | None]]
"""Tells the free slots of the pool; None while a monitor of a worker refuses connections."""
Read = Callable[[], Awaitable[tuple[WorkerFootprint, ...]]]


class Stopped(Exception):
    """The measurement is over, for the reason that the message tells; its connections are closed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is opened: so many connections to ``url``, and the text that each sends so often."""

    url: str
    count: int
    headers: Sequence[tuple[str, str]] = ()
    message: str | None = None
    times: int = 1


def host_of(url: str) -> str:
    """The host of a WebSocket's URL; :exc:`ValueError` for any other URL."""
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError(f"{url!r:.80} is not the URL of a WebSocket, such as ws://127.0.0.1:8000/ws/.")
    return parts.hostname


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def measure(
    plan: Plan, room: Room, read: Read, within: float
) -> tuple[tuple[WorkerFootprint, ...], tuple[WorkerFootprint, ...]]:
    """The workers with the first of the plan's connections, and with all. Then these are closed.

    ``room`` is asked before each few connections; :exc:`Stopped` if it becomes too small. For the end of a refusal, and
    for reports of all workers, it waits up to ``within`` seconds each.
    """
    _require(plan.count, 0, await _free(room, within))
    async with _holding(plan, room, within) as hold:
        await hold(min(FIRST, plan.count))
        before = await _fresh(read, within)
        await hold(plan.count)
        return before, await _fresh(read, within)


@asynccontextmanager
async def _holding(plan: Plan, room: Room, within: float) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
    """A function that opens connections until there are so many, all of which are closed at the end."""
    clients: list[ClientConnection] = []

    async def hold(count: int) -> None:
        first = len(clients)
        while len(clients) < count:
            number = min(AT_ONCE, count - len(clients))
            _require(number, len(clients), await _free(room, within))
            clients.extend(await _connect(plan, number, stack))
            await asyncio.sleep(PAUSE)
        for start in range(first, len(clients), AT_ONCE):
            await asyncio.gather(*(_speak(client, plan) for client in clients[start : start + AT_ONCE]))
        if ended := [client for client in clients if client.close_code is not None]:
            code, reason = ended[0].close_code, ended[0].close_reason
            raise Stopped(f"{len(ended):,} of {len(clients):,} connections were closed, with {code} {reason!r:.80}.")

    async with AsyncExitStack() as stack:
        try:
            yield hold
        finally:  # the stack closes one after another, and a worker that is blocked lets each of them wait
            for start in range(0, len(clients), AT_ONCE):
                await asyncio.gather(*(client.close() for client in clients[start : start + AT_ONCE]))


async def _free(room: Room, within: float) -> int:
    """The free slots, once no monitor refuses."""
    deadline = time.monotonic() + within
    while (free := await room()) is None:
        if time.monotonic() > deadline:
            raise Stopped("A monitor of a worker refuses connections.")
        await asyncio.sleep(LOOK)
    return free


def _require(number: int, opened: int, free: int) -> None:
    """Raise :exc:`Stopped` where so many more would take more than :data:`SHARE` of the slots that were free."""
    if opened + number > SHARE * (free + opened):
        raise Stopped(
            f"{opened:,} connections were opened, and {free:,} slots are free: at most {SHARE:.0%} of a pool's free "
            "room is used."
        )


async def _connect(plan: Plan, number: int, stack: AsyncExitStack) -> list["ClientConnection"]:
    from websockets.asyncio.client import connect

    parts = urlsplit(plan.url)
    headers = [("Origin", f"{parts.scheme.replace('ws', 'http', 1)}://{parts.netloc}"), *plan.headers]
    options: dict[str, Any] = {"proxy": None, "ping_interval": None, "open_timeout": OPENED, "close_timeout": CLOSED}
    options["max_queue"] = None  # all is read that a consumer sends, which would otherwise fill the worker's buffers
    coming = (connect(plan.url, additional_headers=headers, **options) for _ in range(number))
    came = await asyncio.gather(*map(stack.enter_async_context, coming), return_exceptions=True)
    for error in came:
        if isinstance(error, BaseException):
            raise Stopped(f"A connection to {plan.url:.200} was not opened: {error}") from error
    return [client for client in came if not isinstance(client, BaseException)]


async def _speak(client: "ClientConnection", plan: Plan) -> None:
    """Send the message, and wait for any answer, which not every consumer gives."""
    from websockets.exceptions import ConnectionClosed

    if plan.message is None:
        return
    try:
        for _ in range(plan.times):
            await client.send(plan.message)
            await asyncio.wait_for(client.recv(), ANSWERED)
    except (TimeoutError, ConnectionClosed):
        return


async def _fresh(read: Read, within: float) -> tuple[WorkerFootprint, ...]:
    """The workers, each by a report that shows all that has happened so far."""
    await asyncio.sleep(SHOWN)
    since, deadline = time.monotonic(), time.monotonic() + within
    while True:
        workers = await read()
        now = time.monotonic()
        if workers and all(now - worker.silence > since for worker in workers):
            return workers
        if now > deadline:
            raise Stopped("Not every worker has reported in time.")
        await asyncio.sleep(LOOK)

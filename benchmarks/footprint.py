"""What a connection takes of its worker under each server: memory and open files. Prints the table of the document.

``python -m benchmarks.footprint [SERVER…]``. The clients ask for compression, as browsers do. The figures of
``channels_admission.conf.sizing`` are from here.
"""

import asyncio
import json
import random
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass

import psutil
from websockets.asyncio.client import ClientConnection, connect

from demo.servers import Redis, Workers

SERVERS = {
    "uvicorn websockets-sansio": ("uvicorn", ["--ws", "websockets-sansio"]),
    "uvicorn websockets": ("uvicorn", ["--ws", "websockets"]),
    "uvicorn wsproto": ("uvicorn", ["--ws", "wsproto"]),
    "hypercorn": ("hypercorn", []),
    "daphne": ("daphne", []),
    "granian": ("granian", []),
}
FEW, HELD = 50, 1000
"""Clients before the first figure, and those whose cost is measured."""
SHORT, LONG = 100, 4000
"""Characters of the one message after which a connection is measured, and of the many."""
MESSAGES = 20
AT_ONCE = 50
REST = 3.0
"""Seconds after which the memory shows all that has happened."""


@dataclass(frozen=True, slots=True)
class Look:
    memory: int
    """Resident bytes."""
    files: int


def look(pid: int) -> Look:
    process = psutil.Process(pid)
    return Look(process.memory_info().rss, process.num_fds())


@contextmanager
def worker(server: str, args: list[str], redis: str) -> Iterator[Workers]:
    settings = {"LEDGER": redis, "MAX_CONNECTIONS": 10 * HELD, "PRESSURE": {"lag": None}}
    with Workers(server, 1, redis_url=redis, settings=settings, args=args) as workers:
        yield workers


def message(length: int) -> str:
    """Like those of a site: JSON, of which compression leaves about a half."""
    words = [random.randbytes(4).hex() for _ in range(length // 12)]
    return json.dumps(words)[:length]


async def enter(stack: AsyncExitStack, workers: Workers, count: int) -> list[ClientConnection]:
    url, clients = f"{workers.origin.replace('http', 'ws')}/ws/echo/", []
    for _ in range(0, count, AT_ONCE):
        coming = (connect(url, origin=workers.origin, ping_interval=None, open_timeout=60) for _ in range(AT_ONCE))
        clients += await asyncio.gather(*(stack.enter_async_context(each) for each in coming))
    return clients


async def speak(clients: list[ClientConnection], length: int, count: int) -> None:
    """Each sends so many messages and waits for their echo; so many clients at once."""

    async def exchange(client: ClientConnection) -> None:
        for _ in range(count):
            await client.send(message(length))
            await client.recv()

    for start in range(0, len(clients), AT_ONCE):
        await asyncio.gather(*map(exchange, clients[start : start + AT_ONCE]))
    await asyncio.sleep(REST)


async def measure(workers: Workers) -> list[str]:
    (pid,) = workers.pids
    async with AsyncExitStack() as stack:
        await speak(await enter(stack, workers, FEW), SHORT, 1)
    await asyncio.sleep(REST)
    base = look(pid)
    async with AsyncExitStack() as stack:
        clients = await enter(stack, workers, HELD)
        await speak(clients, SHORT, 1)
        quiet = look(pid)
        await speak(clients, LONG, MESSAGES)
        busy = look(pid)
    each = [round((found.memory - base.memory) / HELD / 1024) for found in (quiet, busy)]
    return [f"{base.memory / 2**20:.0f}", *map(str, each), f"{base.files}", f"{(busy.files - base.files) / HELD:.2f}"]


def main(names: list[str]) -> None:
    print(f"| server | MiB | KiB, one message of {SHORT} | KiB, {MESSAGES} of {LONG} | files | files each |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    with Redis("--maxclients", "15000") as redis:
        for name in names or SERVERS:
            with worker(*SERVERS[name], redis.url) as workers:
                print("|", " | ".join([name, *asyncio.run(measure(workers))]), "|", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

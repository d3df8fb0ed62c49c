"""One client that opens and closes sockets as fast as it can, beside many that come back as they are told."""

import asyncio
import os
import time
from dataclasses import dataclass, field

import pytest
from websockets.exceptions import ConnectionClosed

from channels_admission.client import connections

from demo.servers import Workers
from support.clients import Client

GOOD = int(os.environ.get("ADMISSION_GOOD_CLIENTS", "60"))
CONNECT_RATE, ATTACK = 40, 50
RATE, BURST = 2, 20
AHEAD = 2.0
"""Seconds of the attack before the others come."""
SETTINGS = {
    "MAX_CONNECTIONS": 2000,
    "CONNECT_RATE": CONNECT_RATE,
    "QUOTAS": [{"key": "address", "rate": RATE, "burst": BURST}],
    "PRESSURE": {"lag": None},
}
TIMEOUT = 120.0


def address(number: int) -> str:
    """Another one on the loopback interface for each good client."""
    return f"127.0.{1 + number // 250}.{1 + number % 250}"


@dataclass
class Attack:
    """Opens and closes from one address, whatever it is told, until it is cancelled."""

    origin: str
    admitted: int = 0
    refused: int = 0
    hints: list[float] = field(default_factory=list)
    seconds: float = 0.0

    async def run(self) -> None:
        started, under_way = time.monotonic(), set()
        try:
            while True:
                task = asyncio.create_task(self._once())
                under_way.add(task)
                task.add_done_callback(under_way.discard)
                await asyncio.sleep(1 / ATTACK)
        finally:
            await asyncio.gather(*under_way, return_exceptions=True)
            self.seconds = time.monotonic() - started

    async def _once(self) -> None:
        client = await Client.enter(self.origin, local_addr=("127.0.0.1", 0))
        if client.is_open:
            self.admitted += 1
            await client.leave()
        else:
            self.refused += 1
            self.hints.append(float(client.reason.rpartition("=")[2]))


async def come_back(origin: str, number: int, entered: list[float], done: asyncio.Event) -> None:
    """One of the good clients: comes when it is told to, and stays."""
    started = time.monotonic()
    options = {"origin": origin, "compression": None, "proxy": None, "local_addr": (address(number), 0)}
    async for socket in connections(origin.replace("http", "ws", 1) + "/ws/echo/", **options):
        try:
            await socket.send("here")
            await socket.recv()
        except ConnectionClosed:
            continue
        entered.append(time.monotonic() - started)
        await done.wait()
        return


async def last_entry(origin: str) -> float:
    """Seconds until the last of the good clients is in."""
    entered: list[float] = []
    done = asyncio.Event()
    tasks = [asyncio.create_task(come_back(origin, number, entered, done)) for number in range(GOOD)]
    try:
        async with asyncio.timeout(TIMEOUT):
            while len(entered) < GOOD:
                await asyncio.sleep(0.05)
    finally:
        done.set()
        await asyncio.gather(*tasks, return_exceptions=True)
    return max(entered)


@pytest.mark.alone
async def test_good_clients_come_back_as_fast_beside_an_attacker(redis_server, prefix):
    seconds = {}
    for attacked in (False, True):
        settings = {**SETTINGS, "PREFIX": f"{prefix}-{attacked}"}
        with Workers("uvicorn", 2, redis_url=redis_server.url, settings=settings) as workers:
            attack = Attack(workers.origins[0])
            running = asyncio.create_task(attack.run()) if attacked else None
            await asyncio.sleep(AHEAD)
            seconds[attacked] = await last_entry(workers.origins[0])
            if running is not None:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
    print(
        f"{GOOD} good clients: {seconds[False]:.1f} s, beside the attack {seconds[True]:.1f} s; {attack.admitted} of "
        f"{attack.admitted + attack.refused} attempts of the attacker admitted in {attack.seconds:.1f} s"
    )
    assert seconds[True] <= 1.2 * seconds[False] + 1
    assert 0 < attack.admitted <= BURST + RATE * attack.seconds
    assert attack.refused > ATTACK / 4 * attack.seconds
    assert max(attack.hints) >= 10

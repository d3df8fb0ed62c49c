"""A herd whose ``connect()`` costs CPU time, and those who are connected beside it.

``python -m benchmarks.entrance`` runs it without admission and with default settings, one after the other, and prints
a line for each. The clients know nothing but the hint; a process of its own talks to one connection of each worker.
"""

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

import psutil

from .crowd import CLOSE, HOST, OPEN, Client, request
from demo.clients import allow_sockets
from demo.servers import Redis, Workers

WITHOUT = {"ENABLED": False}
PERIOD = 0.02
"""Seconds from one echo to the next."""
STEADY = 1.0
"""Seconds without a loss after which all are taken to be back."""
LOST = (0.5, 1.0)
"""Seconds until a client comes again that was told nothing."""
OTHER_FILES = 200


class Member(Client):
    """One attempt of one client of a herd."""

    def __init__(self, herd: "Herd", number: int, port: int) -> None:
        super().__init__(request(port, herd.path), hopes=True)
        self.herd, self.number, self.port = herd, number, port
        self.back: float | None = None
        """When it was let in, unless it was closed after that."""
        self._is_over = False

    def _tell(self, seen: str) -> None:
        if self._is_over:
            return
        self.back = time.monotonic() if seen == OPEN else None
        if self.back and self.herd.stay is not None:
            asyncio.get_running_loop().call_later(self.herd.stay, self._leave)
        super()._tell(seen)

    def _leave(self) -> None:
        self._is_over = True
        self._transport.abort()  # type: ignore[attr-defined]

    def _read(self, opcode: int, payload: bytes) -> None:
        if opcode == CLOSE:
            found = re.search(rb"retry-after=([\d.]+)", payload)
            self._end(str(int.from_bytes(payload[:2], "big")), float(found[1]) if found else None)
            self._transport.abort()  # type: ignore[attr-defined]
        else:
            super()._read(opcode, payload)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._end(self.told.result())

    def _end(self, why: str, hint: float | None = None) -> None:
        if not self._is_over:
            self._is_over, self.back = True, None
            self.herd.lose(self, why, hint)


class Herd:
    """``count`` clients that come at once, and again when they are told, and leave after ``stay`` seconds, if any."""

    def __init__(self, ports: Sequence[int], path: str, count: int, stay: float | None = None) -> None:
        self.path = path
        self.stay = stay
        self.attempts = 0
        self.refused: Counter[str] = Counter()
        self.hints: list[float] = []
        self._ports, self._count = ports, count
        self._members: dict[int, Member] = {}
        self._is_over = False
        self._loop = asyncio.get_running_loop()

    async def run(self, seconds: float) -> list[float]:
        """When each of those who are back was let in, in order."""
        began = time.monotonic()
        await asyncio.gather(*(self._come(each, self._ports[each % len(self._ports)]) for each in range(self._count)))
        while time.monotonic() < began + seconds:
            await asyncio.sleep(0.1)
            back = self._back()
            if len(back) == self._count and max(back) < time.monotonic() - STEADY:
                break
        self._is_over = True
        times = sorted(back - began for back in self._back())
        for member in self._members.values():
            member._transport.abort()  # type: ignore[attr-defined]
        return times

    def _back(self) -> list[float]:
        return [member.back for member in self._members.values() if member.back is not None]

    async def _come(self, number: int, port: int) -> None:
        self.attempts += 1
        try:
            _, member = await self._loop.create_connection(lambda: Member(self, number, port), HOST, port)
        except OSError:
            await asyncio.sleep(random.uniform(*LOST))
            await self._come(number, port)
        else:
            self._members[number] = member

    def lose(self, member: Member, why: str, hint: float | None) -> None:
        if not self._is_over:
            self.refused[why] += 1
            wait = random.uniform(*LOST) if hint is None else hint
            self.hints.append(wait)
            self._loop.call_later(wait, self._again, member.number, member.port)

    def _again(self, number: int, port: int) -> None:
        self._task = self._loop.create_task(self._come(number, port))


async def talk(port: int, path: str, waits: list[float]) -> None:
    """Say something every :data:`PERIOD`, and note how long the answer took."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(lambda: Client(request(port, path), True), HOST, port)
    await client.told
    while True:
        began = time.monotonic()
        await client.echo(b"x")
        waits.append(time.monotonic() - began)
        await asyncio.sleep(max(0.0, began + PERIOD - time.monotonic()))


async def echo(ports: Sequence[int], path: str) -> None:
    """Talk to every port until the input has a line, then print how long the answers took."""
    waits: list[float] = []
    talks = [asyncio.create_task(talk(port, path, waits)) for port in ports]
    await asyncio.sleep(0.5)
    print("ready", flush=True)
    waits.clear()
    await asyncio.to_thread(sys.stdin.readline)
    for each in talks:
        each.cancel()
    waits.sort()
    found = {"p50": waits[len(waits) // 2], "p99": waits[int(len(waits) * 0.99)], "max": waits[-1]}
    print(json.dumps({f"echo {name}": wait for name, wait in found.items()}), flush=True)


def measure(options: argparse.Namespace, settings: dict[str, Any]) -> dict[str, Any]:
    """One herd: seconds, attempts, the hints told, and the CPU seconds of the workers."""
    keys = {"PRESSURE": {}, **settings}
    with (
        Redis("--maxclients", "15000") as redis,
        Workers(options.server, options.workers, redis_url=redis.url, settings=keys, shared_port=False) as workers,
    ):
        ports = ",".join(map(str, workers.ports))
        command = [sys.executable, "-m", "benchmarks.entrance", "--echo", ports, "--connected", options.connected]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdout.readline()
            before = _used(workers)
            times, herd = asyncio.run(_run(workers.ports, options))
            used = _used(workers) - before
            child.stdin.write("\n")
            child.stdin.flush()
            waits = json.loads(child.stdout.readline())
    reached = {f"{share} %": times[int(share / 100 * options.clients) - 1] for share in (50, 99) if
               len(times) >= int(share / 100 * options.clients)}  # fmt: skip
    hints = [min(herd.hints), median(herd.hints), max(herd.hints)] if herd.hints else []
    attempts = herd.attempts / options.clients
    return {**reached, "attempts": attempts, "refused": dict(herd.refused), "hints": hints, **waits, "CPU": used}


def _used(workers: Workers) -> float:
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in workers.pids)


async def _run(ports: Sequence[int], options: argparse.Namespace) -> tuple[list[float], Herd]:
    herd = Herd(ports, options.path, options.clients, options.stay)
    return await herd.run(options.seconds), herd


def _short(figure: Any) -> Any:
    if isinstance(figure, list):
        return [_short(each) for each in figure]
    return round(figure, 3) if isinstance(figure, float) else figure


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.entrance", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--path", default="/ws/heavy/", help="where the herd connects (%(default)s)")
    parser.add_argument("--connected", default="/ws/echo/", help="where the connected are (%(default)s)")
    parser.add_argument("--server", default="uvicorn")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--clients", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=60, help="the longest to watch")
    parser.add_argument("--stay", type=float, help="seconds after which each of the herd leaves again")
    parser.add_argument("--settings", action="append", type=json.loads, help="as JSON; may be given several times")
    parser.add_argument("--echo", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.echo:
        asyncio.run(echo([int(port) for port in options.echo.split(",")], options.connected))
        return
    allow_sockets(options.clients, OTHER_FILES)
    for settings in options.settings or [WITHOUT, {}]:
        found = measure(options, settings)
        print(json.dumps({"settings": settings, **{name: _short(each) for name, each in found.items()}}), flush=True)


if __name__ == "__main__":
    main()

"""``python -m benchmarks.scale``: measure what one Redis carries, on a server of its own, in a minute.

Pools of ten, a thousand and ten thousand simulated workers report as real ones do, with the package's
own state, report, client and script. ``--page FILE`` puts the figures into a page.
"""

import argparse
import asyncio
import os
import platform
import re
import secrets
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from django.conf import settings as django_settings
from redis.asyncio import Redis

from channels_admission import conf
from channels_admission.core.protocol import Reply
from channels_admission.core.readings import Footprint, Load, Told, Usage
from channels_admission.ledger.redis import RedisLedger
from channels_admission.limiter.books.state import State
from channels_admission.runtime.identity import Worker

from demo import servers
from demo.redises import find_redis

SIZES = (10, 1_000, 10_000)
"""Workers of each pool."""
SLOTS = 100
"""Held by each worker, so that the largest pool holds a million."""
HERD, ROOM = 200_000, 50_000
"""Handshakes that arrive at the largest pool at once, and its free slots."""
PER_HOST = 16
SAMPLES = 4_000
AT_ONCE = 32
"""Concurrent calls, except where single calls are timed."""
HEARTBEATS = 2
"""Heartbeats for which the load of idle workers is measured."""
HEARTBEAT = 3.0
BLOCK = re.compile(r"(?<=<!-- figures -->\n).*?(?=<!-- end of figures -->)", re.DOTALL)
PAST = {"admitted": 1_000_000, "released": 1_000_000, "full": 100_000}
"""Counters of each worker at the start."""
USAGE = Usage(1_000, 200 << 20, 1_020)
FOOTPRINT = Footprint(USAGE, Usage(32, 80 << 20, 52), USAGE, 16 << 30, 8 << 30, 65_536, "websockets-sansio")
TOLD = Told(tuple(Load(name, 0.123, 0.0) for name in ("lag", "memory", "descriptors", "cpu")), FOOTPRINT)


class Named(Worker):
    """A worker of one of many hosts; its name has 29 characters."""

    def __post_init__(self) -> None:
        self.id = f"web-{self.host:04}.eu1:{self.pid}:{self.nonce}"

    @property
    def host(self) -> int:
        return self.pid % 1_000_000 // PER_HOST


class Member:
    """A worker that consists only of its state."""

    def __init__(self, ledger: RedisLedger, pool: conf.PoolSettings, number: int) -> None:
        self.ledger = ledger
        self.worker = Named(pid=1_000_000 + number, born=10**8, nonce=secrets.token_hex(4))
        self.state = State(pool, self.worker, "uvicorn")
        self.state.counters.update(PAST)

    async def tell(self, wanted: int = 0, *, heartbeat: bool = False) -> Reply:
        """Report, and hold the slots that the ledger grants."""
        report = self.state.begin_report(wanted, told=TOLD, heartbeat=heartbeat)
        reply = await self.ledger.reconcile(self.state.pool.name, replace(report, host=f"{self.worker.host:012x}"))
        self.state.settle(report, reply)
        for _ in range(reply.granted):
            self.state.admit()
        self.state.counters["full"] += wanted - reply.granted
        return reply


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures; times are in milliseconds unless noted."""

    report: dict[int, tuple[float, float]]
    """Median and 99th percentile of a report's round trip, by the workers of the pool."""
    inside: dict[int, float]
    """Microseconds that the script takes inside Redis, by the workers of the pool."""
    bytes_per_worker: float
    held: int
    idle_calls: float
    """Calls per second of the largest pool when idle."""
    idle_load: float
    """The share of a core that Redis uses for them."""
    most_calls: float
    """Most calls per second that Redis and one process of clients made."""
    look: float
    admitted: int
    refused: int
    herd_seconds: float
    held_after_herd: int
    limit: int


class Bench:
    """The pools with their workers, on one Redis."""

    def __init__(self, ledger: RedisLedger, redis: Redis, settings: conf.Settings) -> None:
        self.ledger, self.redis = ledger, redis
        self.pools = {size: settings.pool(_name(size)) for size in SIZES}
        self.members = {
            size: [Member(ledger, pool, number) for number in range(size)] for size, pool in self.pools.items()
        }

    async def measure(self) -> Figures:
        for members in self.members.values():
            await at_once(members, wanted=SLOTS)
        # The first calls find a settling ledger, and are granted less.
        await asyncio.sleep(1.6 * HEARTBEAT)
        for members in self.members.values():
            await at_once(members)
            await at_once([member for member in members if member.state.held < SLOTS], wanted=SLOTS)
        bytes_per_worker = await self._bytes_per_worker()
        report = await self._time_reports()
        inside = {size: await self._time_inside(size) for size in SIZES}
        idle_calls, idle_load = await self._idle()
        held = self.held
        most_calls = await self._most_calls()
        look = await self._look()
        admitted, refused, seconds = await self._herd()
        return Figures(
            report, inside, bytes_per_worker, held, idle_calls, idle_load, most_calls, look,
            admitted, refused, seconds, self.held, self.pools[SIZES[-1]].max_connections,
        )  # fmt: skip

    @property
    def held(self) -> int:
        """Slots held in the largest pool, by its workers' state."""
        return sum(member.state.held for member in self.members[SIZES[-1]])

    async def _bytes_per_worker(self) -> float:
        """Bytes of all keys of the largest pool."""
        keys = await self.redis.keys(f"*{{{_name(SIZES[-1])}}}:*")
        return sum([await self.redis.memory_usage(key, samples=0) for key in keys]) / SIZES[-1]

    async def _time_reports(self) -> dict[int, tuple[float, float]]:
        """Time one call at a time, the pools in turn, so that disturbances affect all alike."""
        times: dict[int, list[float]] = {size: [] for size in SIZES}
        for number in range(SAMPLES):
            for size, members in self.members.items():
                started = time.perf_counter()
                await members[number % size].tell()
                times[size].append((time.perf_counter() - started) * 1000)
        ordered = {size: sorted(each) for size, each in times.items()}
        return {size: (each[SAMPLES // 2], each[SAMPLES * 99 // 100]) for size, each in ordered.items()}

    async def _time_inside(self, size: int) -> float:
        await self.redis.config_resetstat()
        for number in range(SAMPLES):
            await self.members[size][number % size].tell()
        statistics = await self.redis.info("commandstats")
        return float(statistics["cmdstat_evalsha"]["usec_per_call"])

    async def _idle(self) -> tuple[float, float]:
        """Send the heartbeats of the largest pool evenly in real time; return calls a second, and Redis's load."""
        members = self.members[SIZES[-1]]
        used, started = await self._cpu_used(), time.monotonic()
        group = AT_ONCE
        for number in range(0, HEARTBEATS * len(members), group):
            due = started + number * HEARTBEAT / len(members)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            some = [members[(number + each) % len(members)] for each in range(group)]
            await asyncio.gather(*(member.tell(heartbeat=True) for member in some))
        elapsed = time.monotonic() - started
        return HEARTBEATS * len(members) / elapsed, (await self._cpu_used() - used) / elapsed

    async def _cpu_used(self) -> float:
        """Seconds."""
        cpu = await self.redis.info("cpu")
        return float(cpu["used_cpu_user"] + cpu["used_cpu_sys"])

    async def _most_calls(self) -> float:
        members, started = self.members[SIZES[-1]], time.monotonic()
        await at_once(members)
        return len(members) / (time.monotonic() - started)

    async def _look(self) -> float:
        started = time.perf_counter()
        (reading,) = await self.ledger.read((_name(SIZES[-1]),))
        if len(reading.workers) != SIZES[-1]:
            raise RuntimeError(f"{len(reading.workers)} workers were seen")
        return (time.perf_counter() - started) * 1000

    async def _herd(self) -> tuple[int, int, float]:
        """The numbers admitted and refused, and the seconds until all were decided."""
        members, before, started = self.members[SIZES[-1]], self.held, time.monotonic()
        await at_once(members, wanted=HERD // len(members))
        seconds = time.monotonic() - started
        refused = sum(member.state.counters["full"] - PAST["full"] for member in members)
        return self.held - before, refused, seconds


async def at_once(members: Iterable[Member], wanted: int = 0) -> None:
    """Let all members report, some at a time."""
    turns = iter(members)

    async def go_on() -> None:
        for member in turns:
            await member.tell(wanted)

    await asyncio.gather(*(go_on() for _ in range(AT_ONCE)))


def _name(size: int) -> str:
    return f"of-{size}"


def table(figures: Figures) -> Iterator[str]:
    """The figures in Markdown, with the machine and the versions."""
    few, most = SIZES[0], SIZES[-1]
    yield f"Measured by `python -m benchmarks.scale` on {machine()}.\n"
    yield "| workers in the pool | a report, median | a report, p99 | of which inside Redis |"
    yield "| ---: | ---: | ---: | ---: |"
    for size in SIZES:
        median, p99 = figures.report[size]
        yield f"| {size:,} | {median:.2f} ms | {p99:.2f} ms | {figures.inside[size]:.0f} µs |"
    times = figures.report[most][1] / figures.report[few][1]
    yield f"\n| {most:,} workers that hold {figures.held:,} slots | |"
    yield "| --- | ---: |"
    yield f"| p99 of a report, against that with {few} | {times:.2f} × |"
    yield (
        "| memory in Redis, with names of 29 characters, counters of seven digits, four readings and the footprint | "
        f"{figures.bytes_per_worker:.0f} bytes a worker |"
    )
    yield f"| idle heartbeats, one in {HEARTBEAT:g} s each | {figures.idle_calls:,.0f} calls a second |"
    yield f"| … and their load | {100 * figures.idle_load:.0f} % of a core |"
    yield f"| the most calls that one Redis and one process of clients made | {figures.most_calls:,.0f} a second |"
    yield f"| a snapshot of all of them, as `ws_status` takes it | {figures.look:.0f} ms |"
    yield (
        f"| a herd of {HERD:,} handshakes, {ROOM:,} slots free | {figures.admitted:,} admitted, "
        f"{figures.refused:,} refused, in {figures.herd_seconds:.1f} s and {most:,} calls |"
    )
    yield f"| held after that, of {figures.limit:,} | {figures.held_after_herd:,} |"


def machine() -> str:
    redis = subprocess.run([find_redis(), "--version"], capture_output=True, text=True, check=True).stdout
    server = redis.partition("v=")[2].partition(" ")[0]
    python = f"{platform.python_implementation()} {platform.python_version()}"
    cores = f"{os.cpu_count()} cores that clients and Redis share, {platform.system()}"
    return f"{cores}, {python}, redis-server {server}, redis-py {version('redis')}"


def pools() -> dict[str, dict[str, int]]:
    """The setting ``POOLS``."""
    rooms = dict.fromkeys(SIZES, 0) | {SIZES[-1]: ROOM}
    return {
        _name(size): {"MAX_CONNECTIONS": size * SLOTS + room, "EXPECTED_WORKERS": size} for size, room in rooms.items()
    }


async def run(url: str) -> Figures:
    django_settings.configure(CHANNELS_ADMISSION={"LEDGER": url, "POOLS": pools(), "HEARTBEAT": HEARTBEAT})
    settings = conf.current()
    ledger = RedisLedger(settings)
    try:
        async with Redis.from_url(url) as redis:
            return await Bench(ledger, redis, settings).measure()
    finally:
        await ledger.aclose()


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a Redis with ten thousand simulated workers.")
    parser.add_argument("--page", type=Path, help="the page whose figures to replace, such as docs/scaling.md")
    options = parser.parse_args()
    with servers.Redis() as redis:
        text = "\n".join(table(asyncio.run(run(redis.url)))) + "\n"
    print(text)
    if options.page:
        options.page.write_text(BLOCK.sub(lambda _: text, options.page.read_text()))


if __name__ == "__main__":
    main()

"""One Redis, and a server process for each contender, all at the same time."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import redis

from .contenders import CONTENDERS, Contender
from .machine import cpu_time, pin
from demo.servers import Redis, Workers

ROOT = Path(__file__).resolve().parent.parent
SERVERS_CORE, OTHERS_CORE = 0, 1
WARM_UP = 200
"""Connections before the measurement."""
REST = 0.15
"""Seconds after which a server has finished the work of ended connections: a release is reported within 0.1."""
PLENTY = 100_000
"""Slots when no connection is to be refused."""


class Server:
    """One worker process of one contender."""

    def __init__(self, contender: Contender, workers: Workers) -> None:
        self.contender = contender
        self.port = workers.port
        (self.pid,) = workers.pids

    async def cpu(self) -> float:
        """Seconds of CPU used, read when it is idle."""
        await asyncio.sleep(REST)
        return cpu_time(self.pid)

    def memory(self) -> int:
        """Bytes of its private memory, to the page."""
        for line in Path(f"/proc/{self.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Private_Dirty:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("The kernel does not tell the memory of a process.")


class Stage:
    def __init__(self, redis: Redis, servers: dict[str, Server]) -> None:
        self.redis = redis
        self.servers = servers

    def calls(self) -> int:
        """Script runs of Redis so far."""
        with redis.Redis.from_url(self.redis.url) as client:
            return int(client.info("commandstats").get("cmdstat_evalsha", {}).get("calls", 0))

    def bytes(self) -> int:
        """Bytes that Redis has read and written so far; reading this figure adds about 6,000."""
        with redis.Redis.from_url(self.redis.url) as client:
            statistics = client.info("stats")
            return int(statistics["total_net_input_bytes"] + statistics["total_net_output_bytes"])

    def memory(self) -> int:
        """Bytes of all the ledger's keys."""
        with redis.Redis.from_url(self.redis.url) as client:
            return sum(client.memory_usage(key, samples=0) for key in client.keys("bench-*"))


@contextmanager
def road(port: int, milliseconds: float) -> Iterator[int]:
    """The port of a road to a port."""
    command = [sys.executable, "-m", "benchmarks.road", str(port), str(milliseconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


@contextmanager
def stage(names: Sequence[str], loop: str, *, trip: float = 0, **settings: object) -> Iterator[Stage]:
    """Run the named contenders under uvicorn with this event loop; ``settings`` are for this package.

    The round trip to Redis takes ``trip`` milliseconds more.
    """
    args = ["--loop", loop, "--ws", "websockets-sansio", "--http", "httptools"]
    args += ["--ws-ping-interval", "3600"]  # pings cost the same for all
    with ExitStack() as stack:
        redis = stack.enter_context(Redis("--maxclients", "15000"))
        pin(os.getpid(), OTHERS_CORE)
        if redis.process is not None:
            pin(redis.process.pid, OTHERS_CORE)
        url, servers = redis.url, {}
        if trip:
            near = urlsplit(url)
            url = near._replace(netloc=f"{near.hostname}:{stack.enter_context(road(near.port or 0, trip))}").geturl()
        for name in names:
            contender = CONTENDERS[name]
            keys = {"PREFIX": f"bench-{name}", **contender.settings, **settings}
            env = {
                "BENCH_CONTENDER": name,
                "BENCH_LIMIT": "0" if contender.refuses else str(PLENTY),
                "DJANGO_SETTINGS_MODULE": "benchmarks.settings",
                "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            }
            workers = Workers(
                "uvicorn", 1, redis_url=url, settings=keys, args=args, env=env,
                application="benchmarks.application:application",
            )  # fmt: skip
            servers[name] = Server(contender, stack.enter_context(workers))
            pin(servers[name].pid, SERVERS_CORE)
        yield Stage(redis, servers)

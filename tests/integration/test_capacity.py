"""``manage.py ws_capacity`` beside a real worker: what it says of connections, against what the process really uses."""

import asyncio
import json
import subprocess
import sys

import psutil
import pytest

from channels_admission.conf import sizing

from demo.servers import TESTPROJECT, Workers
from support.clients import Client, enter_many, leave_all
from support.waiting import eventually

FEW, OWN, SITE = 5, 120, 200
SEEN = 2
"""Files beside those of connections that a look at a worker may count, such as one of the kernel that is read."""
"""Clients that come first and leave, connections that the command opens, and those of the site's clients later."""
LIMIT = 800 << 20
"""Bytes of memory that the worker may use."""
TEXT, TIMES = "x" * 4000, 10
NAME = "uvicorn wsproto"


def run(workers: Workers, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "manage.py", "ws_capacity", *args]
    return subprocess.run(command, cwd=TESTPROJECT, env=workers.env, capture_output=True, text=True, timeout=60)


async def told(workers: Workers, *args: str) -> dict | None:
    """What it prints; None while no worker has told what it uses."""
    done = await asyncio.to_thread(run, workers, "--json", *args)
    assert done.returncode == 0 or "No worker has told" in done.stderr, done.stderr
    return json.loads(done.stdout) if done.stdout else None


async def speak(client: Client) -> None:
    for _ in range(TIMES):
        await client.socket.send(TEXT)
        await client.socket.recv()


async def test_the_proposal_holds_against_the_bytes_and_files_that_the_worker_uses(redis_server, prefix):
    keys = {
        "LEDGER": redis_server.url, "PREFIX": prefix, "HEARTBEAT": 0.3, "LEASE": 5, "MAX_CONNECTIONS": 1000,
        "MEMORY_LIMIT": LIMIT, "PRESSURE": {"lag": None},
    }  # fmt: skip
    with Workers("uvicorn", 1, redis_url=redis_server.url, settings=keys, args=["--ws", "wsproto"]) as workers:
        process = psutil.Process(workers.pids[0])
        url = f"{workers.origin.replace('http', 'ws')}/ws/echo/"
        await leave_all(await enter_many(FEW, workers.origins))
        empty = process.memory_info().rss

        first = await eventually(lambda: told(workers), seconds=10)
        assert first["cost"] == {
            "memory": sizing.FIGURES[NAME].spoken << 10, "files": 1.0, "source": NAME, "connections": 0
        }  # fmt: skip

        refused = await asyncio.to_thread(run, workers, "--open", "600", url)
        assert refused.returncode == 1
        assert "0 connections were opened, and 1,000 slots are free" in refused.stderr

        own = (await told(workers, "--open", str(OWN), url, "--message", TEXT, "--times", str(TIMES)))["cost"]
        assert (own["source"], own["files"]) == ("opened", pytest.approx(1.0, abs=SEEN / OWN))

        clients = await enter_many(SITE, workers.origins, compression="deflate")
        await asyncio.gather(*map(speak, clients))

        async def shown():
            found = await told(workers)
            connections, memory, _ = found["workers"][0]["now"]
            return found if connections == SITE and memory > 0.99 * process.memory_info().rss else None

        found = await eventually(shown, seconds=10)
        (worker,), cost, proposal = found["workers"], found["cost"], found["proposal"]
        used, files = process.memory_info().rss, process.num_fds()
        each = (used - empty) / SITE
        assert (cost["source"], cost["files"]) == ("measured", pytest.approx(1.0, abs=SEEN / (SITE - FEW)))
        assert cost["memory"] == pytest.approx(each, rel=0.25)
        assert own["memory"] == pytest.approx(each, rel=0.25)
        assert worker["now"][2] == pytest.approx(files, abs=SEEN)
        assert worker["by_memory"] == pytest.approx((0.85 * LIMIT - empty) / each, rel=0.25)
        assert proposal["max_per_worker"] == min(worker["by_memory"], worker["by_files"])
        await leave_all(clients)

"""``manage.py ws_status --diagnose`` beside real workers: the cause comes first."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import uuid
from functools import partial

import psutil
import pytest

from channels_admission.runtime.identity import host
from channels_admission.status.diagnostics.herd import KNOWN

from demo.servers import TESTPROJECT, Workers
from support import TESTS
from support.clients import enter_many, leave_all
from support.proxy import Proxy
from support.waiting import eventually

pytestmark = pytest.mark.xdist_group("diagnose")

WIDTH = 80


def start(redis, prefix, application="project.asgi:application", **keys) -> Workers:
    settings = {"LEDGER": redis.url, "PREFIX": prefix, "HEARTBEAT": 0.2, "LEASE": 5, **keys}
    return Workers(
        "uvicorn", 1, redis_url=redis.url, settings=settings, application=application, args=["--app-dir", str(TESTS)]
    )


@pytest.fixture
def worker(redis_server, prefix):
    """``worker(**settings)``: one uvicorn worker with short heartbeats."""
    return partial(start, redis_server, prefix)


@pytest.fixture(scope="module", autouse=True)
def early(redis_server):
    """A worker of a pool of its own, which becomes old enough for a herd while the other tests run."""
    with start(redis_server, f"test-{uuid.uuid4().hex}", MAX_CONNECTIONS=100) as workers:
        yield workers


def run(workers: Workers, *args: str, action: str = "--diagnose") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "manage.py", "ws_status", action, *args]
    env = {**workers.env, "COLUMNS": str(WIDTH)}
    return subprocess.run(command, cwd=TESTPROJECT, env=env, capture_output=True, text=True, timeout=30)


async def diagnosed(workers: Workers, first: str, seconds: float = 10) -> dict:
    """The diagnosis as soon as its first finding is ``first``, with the exit code it ended with."""

    async def look():
        done = await asyncio.to_thread(run, workers, "--json")
        told = json.loads(done.stdout)
        assert done.returncode == told["exit_code"], done.stderr
        found = told["findings"]
        return told if found and found[0]["id"] == first else None

    return await eventually(look, seconds)


async def test_a_sound_worker_has_no_finding_and_its_sockets_are_those_we_count(worker):
    with worker(MAX_CONNECTIONS=50) as workers:
        clients = await enter_many(7, workers.origins)

        async def sound():
            done = await asyncio.to_thread(run, workers, "--json")
            told = json.loads(done.stdout)
            return told if not told["findings"] else None

        told = await eventually(sound, seconds=10)
        (process,) = told["processes"]
        assert told["exit_code"] == 0
        assert (process["pid"], process["held"], process["sockets"]) == (workers.pids[0], 7, 7)
        assert process["ports"] == {str(workers.port): 7}
        assert process["open_files"] > 7
        assert told["limits"][0]["setting"] == "CHANNELS_ADMISSION['MAX_CONNECTIONS']"
        assert told["limits"][0]["connects"]["total"] == 7
        assert told["layer"] == {"backend": "channels_redis.core.RedisChannelLayer", "capacity": 100, "shared": True}
        done = await asyncio.to_thread(run, workers)
        assert (done.returncode, done.stderr) == (0, "")
        assert "Nothing needs attention." in done.stdout
        assert max(map(len, done.stdout.splitlines())) <= WIDTH
        await leave_all(clients)


async def test_the_limit_reached(worker):
    with worker(MAX_CONNECTIONS=10) as workers:
        clients = await enter_many(15, workers.origins)
        told = await diagnosed(workers, "limit-reached")
        assert told["exit_code"] == 2
        assert told["findings"][0]["detail"] == (
            "10 of 10 slots are held, workers: 1. The limit comes from CHANNELS_ADMISSION['MAX_CONNECTIONS']."
        )
        await leave_all(clients)


async def test_a_blocked_event_loop(worker):
    with worker("support.blocking:application") as workers:
        told = await diagnosed(workers, "loop-blocked")
        assert told["exit_code"] == 2
        assert told["findings"][0]["title"].endswith(f" {workers.pids[0]} is blocked")
        assert told["processes"][0]["load"][0]["reading"] > 0.1


async def test_sync_code_that_blocks_its_thread(worker):
    with worker("support.blocked_thread:application") as workers:
        told = await diagnosed(workers, "threads-blocked")
        assert told["exit_code"] == 2
        assert told["findings"][0]["title"] == f"The sync code of {host()} {workers.pids[0]} waits for its thread"


async def test_a_ledger_that_answers_too_late(worker, redis_server):
    async with Proxy(redis_server.port) as proxy:
        with worker(LEDGER=proxy.url, LEDGER_TIMEOUT=0.25) as workers, proxy.slow(0.15):
            told = await diagnosed(workers, "ledger-late")
            (process,) = told["processes"]
            assert told["exit_code"] == 2
            assert told["findings"][0]["title"] == "The ledger answers too late: 1 of 1 worker decides alone"
            assert 0 < process["failing"] <= process["failed"] <= process["calls"]
            assert told["ledger"]["took"] > 0.25


async def test_a_worker_that_stands_still(worker):
    with worker(LEASE=60) as workers:
        clients = await enter_many(1, workers.origins)
        process = psutil.Process(workers.pids[0])
        process.send_signal(signal.SIGSTOP)
        try:
            told = await diagnosed(workers, "worker-silent")
            assert told["findings"][0]["title"].endswith(f" {process.pid} is stopped")
            checked = await asyncio.to_thread(run, workers, action="--check")
        finally:
            process.send_signal(signal.SIGCONT)
        assert told["exit_code"] == 2
        assert told["processes"][0]["silence"] > 1
        assert (checked.returncode, checked.stderr) == (2, "")
        assert ": 1 of 5000 slots held (0 %), no worker admits: 1 silent |" in checked.stdout
        await leave_all(clients)


async def test_a_worker_that_was_killed(worker):
    with worker(LEASE=60) as workers:
        await enter_many(3, workers.origins)
        os.kill(workers.pids[0], signal.SIGKILL)
        told = await diagnosed(workers, "worker-killed")
        assert told["findings"][0]["title"] == f"{host()} {workers.pids[0]} was killed, or has ended without a goodbye"
        assert told["findings"][0]["detail"].startswith(f"{host()} {workers.pids[0]}: held 3, last report ")


async def test_descriptors_nearly_used_up(worker):
    with worker() as workers:
        clients = await enter_many(30, workers.origins)
        process = psutil.Process(workers.pids[0])
        allowed = process.num_fds() + 1
        process.rlimit(psutil.RLIMIT_NOFILE, (allowed, allowed))
        told = await diagnosed(workers, "descriptors-short")
        assert told["exit_code"] == 2
        assert told["findings"][0]["detail"].endswith(f" of {allowed} open files")
        await leave_all(clients)


async def test_memory_nearly_used_up(worker):
    with worker(MEMORY_LIMIT=2**25) as workers:
        told = await diagnosed(workers, "memory-short")
        assert told["exit_code"] == 2
        assert "MiB resident" in told["findings"][0]["detail"]


async def test_a_herd(early):
    clients = await enter_many(200, early.origins)
    told = await diagnosed(early, "herd", KNOWN + 10)
    assert told["exit_code"] == 2
    assert told["limits"][0]["connects"]["total"] == 200
    assert "limit-reached" in [finding["id"] for finding in told["findings"]]
    await leave_all(clients)

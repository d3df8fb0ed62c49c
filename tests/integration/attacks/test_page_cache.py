"""A worker whose control group is full of page cache: the kernel would drop it, so nobody is refused or closed."""

import asyncio
import subprocess
import sys

import pytest

from demo.servers import Workers
from support.cgroups import control_group
from support.clients import enter_many, leave_all, look
from support.waiting import eventually

MIB = 2**20
LIMIT, FILE = 256 * MIB, 230 * MIB
HEARTBEAT = 0.2
CLIENTS = 20
READ = """
import os, pathlib, sys
path = pathlib.Path(sys.argv[1])
path.write_bytes(bytes(1))
with path.open("wb", buffering=0) as file:
    for _ in range(int(sys.argv[2]) >> 20):
        file.write(bytes(1 << 20))
    os.fsync(file.fileno())
for _ in range(3):
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 20):
            pass
"""
"""Write a file of so many bytes, and read it often enough for the kernel to take its pages for active."""


async def _memory() -> float:
    (worker,) = (await look()).workers
    return next(load.reading for load in worker.load if load.name == "memory")


@pytest.fixture
def group(prefix):
    try:
        with control_group(prefix, LIMIT) as group:
            yield group
    except OSError as error:
        pytest.skip(f"no memory can be limited by a control group here: {error}")


@pytest.fixture
def worker(admission, prefix, redis_server, group):
    keys = {"LEDGER": redis_server.url, "PREFIX": prefix, "MAX_CONNECTIONS": 100, "HEARTBEAT": HEARTBEAT, "LEASE": 5}
    keys["PRESSURE"] = {"lag": None}
    admission(**keys)
    with Workers("uvicorn", 1, redis_url=redis_server.url, settings=keys, launcher=group.launcher) as running:
        yield running


@pytest.mark.alone
async def test_a_file_that_is_read_closes_nobody_and_refuses_nobody(worker, group, tmp_path):
    there = await enter_many(CLIENTS, [worker.origin])
    before = await eventually(_memory)
    command = [*group.launcher, sys.executable, "-c", READ, str(tmp_path / "file"), str(FILE)]
    await asyncio.to_thread(subprocess.run, command, check=True, timeout=60)
    # The kernel has kept what it had room for.
    assert group.cached() > 0.85 * (1 - before) * LIMIT
    for _ in range(10):
        assert await _memory() < 0.5
        await asyncio.sleep(HEARTBEAT)
    newcomers = await enter_many(CLIENTS, [worker.origin])
    assert all(client.is_open for client in there + newcomers)
    pool = await look()
    assert (pool.shed, pool.refused) == (0, {})
    await leave_all(there + newcomers)

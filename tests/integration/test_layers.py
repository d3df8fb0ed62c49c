"""A channel layer in the ledger's Redis, which is killed: who stays, and what is told of those who do not."""

import asyncio
import json
import subprocess
import sys

import pytest

from demo.servers import TESTPROJECT, Redis, Workers
from support import TESTS
from support.clients import Client, enter_many, leave_all
from support.waiting import eventually

CLIENTS = 20


@pytest.fixture
def redis():
    with Redis() as server:
        yield server


def start(redis: Redis, prefix: str, layer: str) -> Workers:
    settings = {"LEDGER": redis.url, "PREFIX": prefix, "HEARTBEAT": 0.2, "LEASE": 5}
    more = {"TESTPROJECT_LAYER": layer}
    application, args = "support.rooms:application", ["--app-dir", str(TESTS)]
    return Workers("uvicorn", 1, redis_url=redis.url, settings=settings, application=application, args=args, env=more)


async def hear(clients: list[Client]) -> list[str]:
    return await asyncio.wait_for(asyncio.gather(*(client.socket.recv() for client in clients)), 10)


async def diagnosed(workers: Workers) -> list[dict]:
    command = [sys.executable, "manage.py", "ws_status", "--diagnose", "--json"]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=TESTPROJECT, env=workers.env, capture_output=True, text=True, timeout=30
    )
    return json.loads(done.stdout)["findings"]


async def test_the_core_layer_ends_all_connections_and_the_diagnosis_tells(redis, prefix):
    with start(redis, prefix, "core") as workers:
        clients = await enter_many(CLIENTS, workers.origins)
        await clients[0].socket.send("all")
        assert await hear(clients) == ["all"] * CLIENTS
        redis.stop()
        await asyncio.wait_for(asyncio.gather(*(client.socket.wait_closed() for client in clients)), 10)
        assert {client.socket.close_code for client in clients} == {1006}
        redis.start()

        async def told():
            findings = await diagnosed(workers)
            return next((each for each in findings if each["id"] == "layer-failed"), None)

        finding = await eventually(told, seconds=10)
        assert finding["title"] == f"The channel layer failed and ended {CLIENTS} connections"
        assert "It is in the Redis of the ledger." in finding["detail"]
        assert "RedisPubSubChannelLayer" in finding["advice"]


async def test_the_pubsub_layer_as_the_documents_set_it_up_ends_none(redis, prefix):
    with start(redis, prefix, "pubsub") as workers:
        clients = await enter_many(CLIENTS, workers.origins)
        redis.restart()

        async def heard():
            """The layer finds its way back within a second or two; what is sent meanwhile is lost."""
            await clients[0].socket.send("all")
            try:
                async with asyncio.timeout(1):
                    return await clients[-1].socket.recv() == "all"
            except TimeoutError:
                return False

        await eventually(heard, seconds=20)
        assert [client.is_open for client in clients] == [True] * CLIENTS
        await leave_all(clients)

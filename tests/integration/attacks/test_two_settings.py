"""Two settings in one pool, as every rolling deployment has them, and two heartbeats through a loss of data."""

import asyncio
import re
from collections import Counter

import pytest
import redis

from demo.servers import Redis, Workers
from support.clients import enter_many, leave_all
from support.waiting import eventually

QUICK = {"HEARTBEAT": 0.5, "LEASE": 4, "PRESSURE": {"lag": None}}
KEY = "channels_admission:{default}:counts"


@pytest.fixture
def server():
    with Redis() as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        yield server, client


def workers(server, **settings) -> Workers:
    return Workers("uvicorn", 1, redis_url=server.url, settings={**QUICK, **settings})


def said(*servers: Workers) -> Counter[str]:
    """What the workers' logs say, each sentence how often."""
    text = "".join(log.read_text() for each in servers for log in each.logs)
    pattern = r"risen to full|back at calm|different settings|the same settings again"
    return Counter(re.findall(pattern, text))


async def test_two_limits_are_one_and_told_once(server):
    """With a connect of each side ten times a second, which was an alert at each of them."""
    redis_server, client = server
    with workers(redis_server, MAX_CONNECTIONS=10) as few, workers(redis_server, MAX_CONNECTIONS=100) as many:
        await eventually(lambda: client.hget(KEY, "#limit") == "10")
        await asyncio.sleep(2 * QUICK["HEARTBEAT"])
        clients = await enter_many(4, [few.origin]) + await enter_many(30, [many.origin])
        assert sum(each.is_open for each in clients) == 10
        limits = set()
        for _ in range(30):
            for each in await enter_many(2, [few.origin, many.origin]):
                assert not each.is_open
                await each.leave()
            limits.add(client.hget(KEY, "#limit"))
            await asyncio.sleep(0.1)
        told = said(few, many)
        assert limits == {"10"}
        assert (told["risen to full"], told["back at calm"], told["different settings"]) == (1, 0, 1)
        await leave_all([each for each in clients if each.is_open])
        few.stop()
        await eventually(lambda: client.hget(KEY, "#limit") == "100", 10)
        await eventually(lambda: said(many)["the same settings again"] == 1)


async def test_a_slow_heartbeat_is_waited_for_after_a_loss_of_data(server):
    redis_server, client = server
    slow_terms = {"HEARTBEAT": 5, "LEASE": 40, "MAX_CONNECTIONS": 20, "EXPECTED_WORKERS": 2}
    fast_terms = {"MAX_CONNECTIONS": 20, "EXPECTED_WORKERS": 2}
    with workers(redis_server, **slow_terms) as slow, workers(redis_server, **fast_terms) as fast:
        held = await enter_many(1, [slow.origin])
        await eventually(lambda: fast_knows(client), 20)
        await eventually(lambda: said(fast)["different settings"] == 1, 20)
        await eventually(lambda: settled(client), 20)
        held += await enter_many(15, [slow.origin])
        assert sum(each.is_open for each in held) == 16
        await eventually(lambda: int(client.hget(KEY, "#total")) == 16)
        client.flushall()
        await eventually(lambda: client.exists(KEY))
        late = await enter_many(20, [fast.origin])
        assert sum(each.is_open for each in (*held, *late)) <= 20
        await eventually(lambda: settled(client) and not client.hget(KEY, "#line"), 20)
        late += await enter_many(10, [fast.origin])
        assert sum(each.is_open for each in (*held, *late)) == 20
        await leave_all([each for each in (*held, *late) if each.is_open])


def fast_knows(client) -> bool:
    return (client.hget(KEY, "#settings") or "").count(";") == 2


def settled(client) -> bool:
    clock, until = client.hmget(KEY, "#clock", "#settled")
    return clock is not None and int(clock) >= int(until)

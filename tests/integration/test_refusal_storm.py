"""A storm of refused handshakes, each from an address of its own, leaves nothing behind."""

import asyncio
import gc
import itertools
import logging
import time
import tracemalloc
from ipaddress import IPv4Address

import pytest
from redis.asyncio import Redis as Client

from channels_admission.limiter.registry import close_limiters
from channels_admission.middleware import AdmissionMiddleware

from demo.servers import Redis

LIMIT = 10
AT_ONCE = 1000
pytestmark = pytest.mark.fault


class Lines(logging.Filter):
    """When each line about refusals was logged, by the monotonic clock, and how many others were.

    Lets none through, for Pytest would keep it in memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []
        self.others = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if "refused" in record.msg:
            self.times.append(time.monotonic())
        else:
            self.others += 1
        return False


@pytest.fixture
def lines(monkeypatch):
    logger, lines = logging.getLogger("channels_admission"), Lines()
    monkeypatch.setattr(logger, "level", logging.INFO)
    logger.addFilter(lines)
    yield lines
    logger.removeFilter(lines)


@pytest.fixture
async def redis():
    with Redis() as server:
        async with Client.from_url(server.url) as client:
            client.url = server.url
            yield client


@pytest.fixture
def traced():
    """``traced()``: the bytes that Python objects use now, garbage aside."""

    def measure() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    yield measure
    tracemalloc.stop()


class Crowd:
    """Simulated connections to one application, no two from the same address."""

    def __init__(self) -> None:
        self.application = AdmissionMiddleware(self._serve)
        self.addresses = map(str, map(IPv4Address, itertools.count(int(IPv4Address("10.0.0.0")))))
        self.leave = asyncio.Event()
        self.open = 0
        self.refused = 0

    async def _serve(self, scope, receive, send) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        self.open += 1
        assert (await receive())["type"] == "websocket.disconnect"

    async def connect(self) -> None:
        messages = iter([{"type": "websocket.connect"}])

        async def receive():
            for message in messages:
                return message
            await self.leave.wait()
            return {"type": "websocket.disconnect", "code": 1000}

        async def send(message):
            self.refused += message["type"] == "websocket.close" and message["code"] == 1013

        scope = {"type": "websocket", "path": "/", "client": (next(self.addresses), 1013), "subprotocols": []}
        await self.application(scope, receive, send)

    async def storm(self, count: int) -> None:
        for _ in range(count // AT_ONCE):
            await asyncio.gather(*(self.connect() for _ in range(AT_ONCE)))


@pytest.mark.parametrize("count", [50_000, pytest.param(1_000_000, marks=pytest.mark.long)])
async def test_refusals_leave_no_key_no_memory_and_few_lines(admission, redis, lines, traced, figures, count):
    settings = admission(MAX_CONNECTIONS=LIMIT, LEDGER=redis.url)
    counts = f"{settings.prefix}:{{default}}:counts"
    crowd = Crowd()
    admitted = [asyncio.ensure_future(crowd.connect()) for _ in range(LIMIT)]
    await crowd.storm(count // 10)
    assert (crowd.open, crowd.refused) == (LIMIT, count // 10)

    lines.times.clear()
    started, before = time.monotonic(), (await redis.dbsize(), await redis.hlen(counts))
    memory = traced()
    await crowd.storm(count)
    seconds, after = time.monotonic() - started, (await redis.dbsize(), await redis.hlen(counts))
    growth = traced() - memory
    assert (crowd.open, crowd.refused) == (LIMIT, count // 10 + count)
    assert after == before
    # The least that can be kept of one refusal is a pointer of eight bytes.
    assert growth < 8 * count
    assert lines.others <= 1  # that the pool is full
    assert len(lines.times) <= seconds + 1
    assert all(later - earlier > 0.99 for earlier, later in itertools.pairwise(lines.times))

    crowd.leave.set()
    await asyncio.gather(*admitted)
    await close_limiters()
    figures.note(
        f"{count:,} refused handshakes, each from another address",
        "no key, no field, no memory, one log line a second",
        f"{before[0]} keys before and after, {growth / count:.3f} bytes per refusal, "
        f"{len(lines.times)} lines in {seconds:.0f} s, {count / seconds:,.0f} refusals a second with tracing on",
    )

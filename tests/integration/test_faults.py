"""Real servers with their processes stopped, blocked and killed, and with Redis emptied or behind a bad road.

Two uvicorn workers and one of daphne, with a port each, reach a Redis over a proxy; they last for the whole module.
"""

import asyncio
import os
import random
import signal
import socket
import time
import uuid
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
from redis.asyncio import Redis as Operator

from channels_admission.conf import Settings

from demo.servers import Redis, Workers
from support.clients import Client, Crowd, admitted, all_admitted, enter_many, leave_all, look, nobody_stays, shows
from support.proxy import HARD, Proxy
from support.waiting import eventually

pytestmark = [pytest.mark.fault, pytest.mark.alone, pytest.mark.asyncio(loop_scope="module")]

LIMIT, HEARTBEAT, LEASE = 50, 0.25, 2.5
TRIES = 30


@dataclass
class Stage:
    """A Redis, the road to it, and the workers at its end."""

    redis: Redis
    proxy: Proxy
    keys: dict[str, Any]
    running: list[Workers]

    @property
    def origins(self) -> list[str]:
        return [origin for workers in self.running for origin in workers.origins]

    @property
    def pids(self) -> list[int]:
        return [pid for workers in self.running for pid in workers.pids]

    def log(self) -> str:
        return "".join(log.read_text() for workers in self.running for log in workers.logs)

    def lapses(self) -> int:
        return self.log().count("had run out")

    def losses(self) -> int:
        return self.log().count("Ledger lost")

    @asynccontextmanager
    async def one_lapse(self, slots: int):
        """A lease of so many slots runs out, and its worker says so, unless the answer that tells it comes too late."""
        lapses, losses = self.lapses(), self.losses()
        yield
        await eventually(lambda: self.lapses() == lapses + 1 or self.losses() > losses)
        assert self.lapses() <= lapses + 1
        assert self.lapses() == lapses or f"may have been above its limit by {slots}." in self.log()


@pytest.fixture(scope="module")
def redis():
    with Redis() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def road(redis):
    async with Proxy(redis.port) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def staged(redis, road):
    """``await staged((server, count), …, **settings)``: workers that have met their ledger, until the module ends."""
    with ExitStack() as stack:

        async def start(*servers: tuple[str, int], **settings: object) -> Stage:
            keys = {
                "MAX_CONNECTIONS": LIMIT,
                "HEARTBEAT": HEARTBEAT,
                "LEASE": LEASE,
                "PREFIX": f"faults-{uuid.uuid4().hex[:8]}",
            }
            keys |= {"LEDGER": road.url, **settings}
            running = [
                stack.enter_context(
                    Workers(server, count, redis_url=redis.url, settings=keys, shared_port=False)
                )
                for server, count in servers
            ]  # fmt: skip
            stage = Stage(redis, road, keys, running)
            await leave_all(await enter_many(len(stage.origins), stage.origins))
            await asyncio.sleep(4 * HEARTBEAT)  # so that the ledger, empty at first, has settled, and all have seen it
            return stage

        yield start


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def _nobody_stays():
    yield
    await nobody_stays()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def frozen(staged):
    return await staged(("uvicorn", 2), ("daphne", 1), WHEN_LEDGER_DOWN="freeze")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sharing(staged):
    return await staged(("uvicorn", 2), WHEN_LEDGER_DOWN="share")


@pytest.fixture
def look_at(admission, redis):
    """``look_at(stage)``: look at its ledger from now on, past the proxy. The settings that do so."""
    return lambda stage: admission(**{**stage.keys, "LEDGER": redis.url})


@pytest.fixture
def stage(frozen, look_at):
    look_at(frozen)
    return frozen


async def try_one_by_one(origins, tries=TRIES) -> list[Client]:
    """So many clients one after the other; those let in. All others were told 1013."""
    clients = [await Client.enter(origins[number % len(origins)]) for number in range(tries)]
    assert {client.code for client in clients} <= {None, 1013}
    return [client for client in clients if client.is_open]


async def holds(slots: int, seconds: float = 1.0) -> float:
    """Seconds until the ledger counts so many, and it must within ``seconds``."""
    began = time.monotonic()
    await eventually(lambda: shows(lambda pool: pool.held == slots), seconds=seconds, every=0.005)
    return time.monotonic() - began


@asynccontextmanager
async def inside(*crowds: tuple[int, str]):
    """``inside((count, origin), …)``: so many clients there, all let in; at the end everybody has left."""
    clients = [await all_admitted(count, [origin]) for count, origin in crowds]
    try:
        await holds(sum(count for count, _ in crowds))
        yield clients
    finally:
        for crowd in clients:
            await leave_all(crowd)
    await holds(0)


async def test_a_slot_freed_in_one_worker_is_used_in_another(stage, figures):
    one, two, three = stage.origins
    async with inside((20, one), (20, two), (10, three)) as crowds:
        slowest = 0.0
        for number in range(30):
            await crowds[number % 3].pop(0).leave()
            slowest = max(slowest, await holds(LIMIT - 1))
            comer = (number + 1) % 3
            crowds[comer].append(await admitted(stage.origins[comer]))
            assert (await look()).held == LIMIT
        assert await try_one_by_one(stage.origins) == []
    figures.note(
        "30 times a client leaves a full pool and another comes to another worker",
        "it is admitted, and no other",
        f"30 of 30; the slot was free elsewhere within {1000 * slowest:.0f} ms",
    )


async def test_a_worker_stopped_for_longer_than_its_lease_passes_the_limit_by_what_it_holds(stage, figures):
    stopped, *others = stage.origins
    crowds = (12, stopped), (20, others[0]), (18, others[1])
    async with inside(*crowds) as (_, staying, _), stage.one_lapse(12):
        os.kill(stage.pids[0], signal.SIGSTOP)
        try:
            gone = await holds(LIMIT - 12, LEASE + HEARTBEAT + 0.2)
            await asyncio.sleep(2 * HEARTBEAT)
            more = await all_admitted(12, others)
            assert await try_one_by_one(others) == []
        finally:
            os.kill(stage.pids[0], signal.SIGCONT)
        back = await holds(LIMIT + 12)
        assert await try_one_by_one(stage.origins) == []
        await leave_all([staying.pop() for _ in range(15)])
        await holds(LIMIT - 3)
        last = await all_admitted(3, stage.origins)
        assert await try_one_by_one(stage.origins) == []
        await leave_all(more + last)
    figures.note(
        f"a worker with 12 slots is stopped (SIGSTOP) for longer than its lease of {LEASE} s, and goes on",
        "others get its 12 and no more; once it is back none is admitted until the pool is below its limit",
        f"12 let in after {gone:.1f} s; 62 of 50 counted {1000 * back:.0f} ms after it was back, 0 of 30 let in; "
        "after 15 had left, 3 and no more",
    )


@asynccontextmanager
async def blocked(client: Client, file: Path):
    """The event loop of the client's worker is blocked, from before the ``async with`` begins until it ends."""
    file.touch()
    await client.socket.send(f"block {file}")
    answer = asyncio.ensure_future(client.socket.recv())
    try:
        await asyncio.sleep(HEARTBEAT)
        yield
        assert not answer.done()
    finally:
        file.unlink()
    await answer


async def test_a_loop_blocked_for_less_than_the_lease_changes_nothing(stage, figures, tmp_path):
    lapses = stage.lapses()
    async with inside((9, stage.origins[0]), (30, stage.origins[1])):
        blocking = await Client.enter(stage.origins[0], "/ws/trouble/")
        await holds(40)
        until = time.monotonic() + LEASE / 2
        async with blocked(blocking, tmp_path / "block"):
            while time.monotonic() < until:
                assert (await look()).held == 40
                await asyncio.sleep(0.02)
        await asyncio.sleep(2 * HEARTBEAT)
        assert (await look()).held == 40
        assert stage.lapses() == lapses
        await blocking.leave()
    figures.note(f"an event loop blocked for {LEASE / 2} s, half a lease", "nothing changes", "40 counted throughout")


async def test_a_loop_blocked_for_longer_than_the_lease_is_counted_again_at_once(stage, figures, tmp_path):
    async with inside((9, stage.origins[0]), (30, stage.origins[1])), stage.one_lapse(10):
        blocking = await Client.enter(stage.origins[0], "/ws/trouble/")
        await holds(40)
        async with blocked(blocking, tmp_path / "block"):
            more = await all_admitted(10, stage.origins[1:])
            assert await try_one_by_one(stage.origins[1:]) == []
            await holds(LIMIT - 10, LEASE + HEARTBEAT)
            await asyncio.sleep(2 * HEARTBEAT)  # so that another worker's heartbeat has found it
        seconds = await holds(LIMIT)
        await leave_all([blocking, *more])
    figures.note(
        f"an event loop blocked for longer than the lease of {LEASE} s",
        "others get the free room meanwhile; one lapse is logged, the count right within 1 s",
        f"10 of 10 free; one lapse; right after {1000 * seconds:.0f} ms",
    )


async def test_handlers_that_raise_give_their_slots_back(stage, figures):
    async with inside((10, stage.origins[0]), (10, stage.origins[2])):
        doomed = await enter_many(10, stage.origins, path="/ws/trouble/")
        await holds(30)
        for client in doomed:
            await client.socket.send("raise")
        seconds = await holds(20, 0.5)
        await leave_all(doomed)
    figures.note(
        "ten handlers raise at once, under uvicorn and daphne",
        "ten slots fewer within 0.5 s",
        f"{1000 * seconds:.0f} ms",
    )


async def settle(crowd: Crowd, settings: Settings | None = None, residents: int = 0) -> float:
    """Let the crowd stay as it is, and see the ledger agree within a second; how long it took. Then it goes on."""
    began = time.monotonic()
    crowd.stay()

    async def is_equal():
        return (await look(settings=settings)).held == crowd.open_now + residents

    await eventually(is_equal, seconds=1, every=0.005)
    crowd.go_on()
    return time.monotonic() - began


async def test_twenty_flushes_under_load(stage, figures):
    rng = random.Random(20)
    async with Crowd(80, stage.origins) as crowd, Operator.from_url(stage.redis.url) as operator:
        await eventually(lambda: crowd.open_now > 0.8 * LIMIT, seconds=20)
        for _ in range(20):
            await operator.flushall()
            await asyncio.sleep(rng.uniform(0, 3 * HEARTBEAT))  # while the ledger still settles, and after
        seconds = await settle(crowd)
        assert LIMIT / 2 < crowd.most <= LIMIT
    await holds(0)
    figures.note(
        "20 × FLUSHALL in 8 s under load",
        "never above the limit of 50; counts equal within 1 s",
        f"at most {crowd.most} held; equal after {1000 * seconds:.0f} ms",
    )


async def forget_leases(operator, key):
    await operator.delete(f"{key}:leases")


async def forget_counts(operator, key):
    await operator.delete(f"{key}:counts")


async def forget_total(operator, key):
    await operator.hdel(f"{key}:counts", "#total")


TEARS = {"leases": forget_leases, "counts": forget_counts, "total": forget_total}


async def test_torn_data_under_load(stage, figures):
    key, slowest = f"{stage.keys['PREFIX']}:{{default}}", 0.0
    async with Crowd(80, stage.origins) as crowd, Operator.from_url(stage.redis.url) as operator:
        await eventually(lambda: crowd.open_now > 0.8 * LIMIT, seconds=20)
        for tear in TEARS.values():
            await tear(operator, key)
            slowest = max(slowest, await settle(crowd))
            await asyncio.sleep(2 * HEARTBEAT)
        assert LIMIT / 2 < crowd.most <= LIMIT
    await holds(0)
    figures.note(
        f"one of {', '.join(TEARS)} deleted under load, each in turn",
        "never above the limit of 50; counts equal within 1 s each",
        f"at most {crowd.most} held; equal after at most {1000 * slowest:.0f} ms",
    )


# The road between workers and Redis


async def replies_lost(proxy):
    with proxy.swallowing_replies():
        await asyncio.sleep(2)


async def resets(proxy):
    for _ in range(30):
        proxy.reset()
        await asyncio.sleep(0.05)


async def latency_100(proxy):
    with proxy.slow(0.1):
        await asyncio.sleep(1)


async def latency_300(proxy):
    with proxy.slow(0.3):
        await asyncio.sleep(1)


async def black_hole(proxy):
    with proxy.cut():
        await asyncio.sleep(LEASE + 0.5)


ROADS = {
    "every reply of Redis lost for 2 s": replies_lost,
    "30 resets of every connection to Redis in 1.5 s": resets,
    "100 ms each way to Redis and back": latency_100,
    "300 ms each way to Redis and back": latency_300,
    "nothing passes between workers and Redis for 3 s, longer than the lease": black_hole,
}
RESIDENTS = 45
LENT = 2 * ((LIMIT - RESIDENTS) // 2)
"""Two workers that never see more than five slots free may each lend out two."""


@pytest.mark.parametrize("road_fault", ROADS.values(), ids=lambda fault: fault.__name__)
async def test_a_bad_road_to_redis(stage, sharing, look_at, figures, road_fault):
    """45 clients stay and 24 come and go, with either policy, so no worker ever sees more than five slots free.

    With ``freeze`` at most 50 are held. With ``share`` each of two workers that lose the ledger may lend out half of
    the five, whole slots, on top of what the ledger counts: at most 54 are held.
    """
    lending = look_at(sharing)
    freezing = look_at(stage)
    web = stage.origins[:2]
    lapses = stage.lapses() + sharing.lapses()
    residents = await all_admitted(RESIDENTS, web) + await all_admitted(RESIDENTS, sharing.origins)
    try:
        await asyncio.sleep(2 * HEARTBEAT)  # so that all workers have seen the room
        async with Crowd(24, web) as frozen, Crowd(24, sharing.origins) as shared:
            await eventually(lambda: min(frozen.most, shared.most) == LIMIT - RESIDENTS, seconds=20)
            await road_fault(stage.proxy)
            equal = await asyncio.gather(settle(frozen, freezing, RESIDENTS), settle(shared, lending, RESIDENTS))
    finally:
        await leave_all(residents)
    most = (frozen.most + RESIDENTS, shared.most + RESIDENTS)
    slowest = max(frozen.slowest, shared.slowest)
    figures.note(
        next(name for name, fault in ROADS.items() if fault is road_fault),
        f"`freeze` at most {LIMIT}, `share` at most {LIMIT + LENT} with 5 free; decisions within 400 ms; "
        "counts equal within 1 s after",
        f"{most[0]} and {most[1]}; slowest decision {1000 * slowest:.0f} ms; equal after {1000 * max(equal):.0f} ms",
    )
    assert most[0] == LIMIT
    assert LIMIT <= most[1] <= LIMIT + LENT
    assert frozen.codes.keys() | shared.codes.keys() == {None, 1013}
    assert slowest <= 0.5
    assert stage.lapses() + sharing.lapses() == lapses
    await eventually(lambda: shows(lambda pool: pool.held == 0))


# Handshakes that are given up


async def give_up(origin: str, timeout: float, hard: bool) -> None:
    """Ask for a WebSocket and be gone after ``timeout`` seconds, with a reset or in good order."""
    host, port = origin.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"GET /ws/echo/ HTTP/1.1\r\nHost: {host}:{port}\r\nOrigin: {origin}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    await asyncio.sleep(timeout)
    if hard:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, HARD)
    writer.transport.abort()


async def test_a_thousand_handshakes_given_up_leave_nothing_behind(stage, figures):
    rng, few = random.Random(1000), asyncio.Semaphore(60)

    async def come_and_give_up(number):
        async with few:
            await give_up(stage.origins[number % 3], rng.uniform(0, 0.02), hard=number % 2 == 0)

    workers = [psutil.Process(pid) for pid in stage.pids]
    await leave_all(await enter_many(3, stage.origins))
    await holds(0)
    before = (await look()).admitted
    base = [worker.num_fds() for worker in workers]
    with stage.proxy.slow(0.005):
        await asyncio.gather(*(come_and_give_up(number) for number in range(1000)))
        seconds = await holds(0, 1.5)
        await eventually(lambda: all(worker.num_fds() <= fds for worker, fds in zip(workers, base, strict=True)))
    await asyncio.sleep(2 * HEARTBEAT)
    pool = await look()
    assert pool.held == 0
    assert pool.admitted > before
    assert "never retrieved" not in stage.log()
    figures.note(
        "1,000 handshakes given up after 0 to 20 ms, with 10 ms to Redis and back",
        "nothing held within 1.5 s, no descriptor and no task left over",
        f"{pool.admitted - before} were let in; nothing held after {1000 * seconds:.0f} ms; descriptors as before",
    )


async def test_when_the_last_worker_is_killed_nothing_is_shown_as_held(staged, look_at, figures):
    last = await staged(("hypercorn", 1), LEASE=6 * HEARTBEAT)
    look_at(last)
    clients = await enter_many(10, last.origins)
    await holds(10)
    os.kill(last.pids[0], signal.SIGKILL)
    seconds = await holds(0, 6 * HEARTBEAT + 0.2)
    assert (await look()).workers == ()
    async with Operator.from_url(last.redis.url) as operator:
        counts = await operator.hmget(f"{last.keys['PREFIX']}:{{default}}:counts", "#total", "#reserve")
        assert int(counts[0]) - int(counts[1]) == 10
    await leave_all(clients)
    figures.note(
        f"the last worker of all is killed; lease {6 * HEARTBEAT} s",
        "`ws_status` and the admin show nothing held after the lease, although no worker is left to report",
        f"{seconds:.1f} s",
    )

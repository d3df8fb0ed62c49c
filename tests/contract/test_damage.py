"""Whatever is written to a pool's keys: no call fails, nobody is let in too many, and the counts are right again."""

import itertools
import re
from collections import Counter
from contextlib import AsyncExitStack

import pytest
import redis

from channels_admission.core.counters import HEALED
from channels_admission.core.protocol import KEY_BYTES, Ask, Key
from channels_admission.exceptions import LedgerRefused
from channels_admission.ledger.redis import RedisLedger
from channels_admission.ledger.script import CONTROL, RECONCILE
from channels_admission.limiter.books.state import State
from channels_admission.runtime.identity import Worker

from support.damage import FEW, VALUES, Place, one_of_each
from support.effort import PART
from support.limiters import limiter_over
from support.reports import Clock, Reporter
from support.stored import StoredInRedis
from support.waiting import eventually

LIMIT, WORKERS, HEARTBEAT, LEASE, QUOTA = 12, 4, 1.0, 10.0, 3
STEPS_PER_HEARTBEAT = 2
FORGOTTEN = 300.0
"""Seconds after which nothing is kept any more for clients that were refused."""
RIGHT_AGAIN = 2
"""Heartbeats after which the counts equal the truth, and everybody may be let in again for whom there is room."""
CLIENTS = [bytes([97 + number]) * KEY_BYTES for number in range(6)]
SHARED = {"QUOTAS": [{"key": "user", "max": QUOTA}]}


class Server:
    """One worker with the product's own books, whose every call reaches the ledger."""

    def __init__(self, world: "World", number: int) -> None:
        self.world = world
        self.state = State(world.settings.pool("default"), Worker(pid=number, born=7, nonce=f"{number:08x}"))
        self.slots: list[Key | None] = []

    def call(self, wanted: int = 0, client: Key | None = None) -> None:
        state = self.state
        asks = tuple(Ask((client,)) for _ in range(wanted)) if state.claims else ()
        report = state.begin_report(wanted, asks=asks, heartbeat=True)
        reply = self.world.ledger.apply(report)
        state.settle(report, reply)
        self.world.healed += reply.healed
        for ask, reason in zip(asks, reply.verdicts, strict=True):
            if not reason:
                state.admit(ask)
                self.slots.append(client)
        while wanted and not asks and state.has_room:
            state.admit()
            self.slots.append(None)
            wanted -= 1

    def release(self) -> None:
        client = self.slots.pop()
        self.state.release((client,) if client else ())


class World:
    """Workers, their clients and a Redis whose clock is the world's."""

    def __init__(self, settings, replaced: dict[str, str] | None = None) -> None:
        self.settings = settings
        self.clock = Clock()
        self.ledger = StoredInRedis(settings, self.clock, replaced)
        self.client = redis.Redis.from_url(settings.ledger.host["address"])
        self.prefix = settings.prefix
        self.servers = [Server(self, number) for number in range(1, WORKERS + 1)]
        self.healed = 0
        self.names = [server.state.worker.id for server in self.servers]
        keys = [f"{self.prefix}:{{default}}:{part}" for part in ("controls", "counts")]
        self.client.eval(CONTROL, 2, *keys, 0, f";limit={LIMIT},1.000,me", 3_600_000)
        self.calm(3)

    @property
    def is_shared(self) -> bool:
        return self.servers[0].state.claims is not None

    @property
    def held(self) -> int:
        return sum(len(server.slots) for server in self.servers)

    def under(self, client: Key) -> int:
        return sum(server.slots.count(client) for server in self.servers)

    def calm(self, heartbeats: int = RIGHT_AGAIN) -> None:
        """Heartbeats in which nobody comes."""
        for _ in range(heartbeats):
            self.clock.now += HEARTBEAT
            for server in self.servers:
                server.call()

    def half_fill(self) -> None:
        """Half of the pool is held, by clients who have about half of what each may have."""
        for server in self.servers:
            while server.slots:
                server.release()
            server.call()
        self.clock.now += FORGOTTEN
        self.calm(1)
        for number, server in zip(range(LIMIT // 2), itertools.cycle(self.servers), strict=False):
            server.call(1, CLIENTS[number // 2] if self.is_shared else None)
        assert self.held == LIMIT // 2

    def rush(self, heartbeats: float = RIGHT_AGAIN) -> None:
        """Everybody wants in, all the time, and never are there too many."""
        for step in range(int(heartbeats * STEPS_PER_HEARTBEAT) + 1):
            for server, client in zip(self.servers, itertools.cycle(CLIENTS[step % len(CLIENTS) :]), strict=False):
                server.call(2, client if self.is_shared else None)
                assert self.held <= LIMIT
                assert all(self.under(each) <= QUOTA for each in CLIENTS)
            self.clock.now += HEARTBEAT / STEPS_PER_HEARTBEAT

    def see_truth(self) -> None:
        """What is stored is what is held, by every key."""
        for server in self.servers:
            server.call()
        state = self.ledger.state
        held = {server.state.worker.id: len(server.slots) for server in self.servers}
        assert (state.total, state.counts, state.leased) == (self.held, held, set(held))
        assert [server.state.worker.id for server in self.servers] == self.names
        if self.is_shared:
            fields = self.client.hgetall(f"{self.prefix}:{{default}}:claims")
            counted = {key: int(value[:-2]) for key, value in fields.items() if len(key) == KEY_BYTES}
            assert counted == Counter(client for server in self.servers for client in server.slots)

    def close(self) -> None:
        self.client.delete(*self.client.scan_iter(f"{self.prefix}:*"))
        self.client.close()
        self.ledger.close()


@pytest.fixture
def create(admission, redis_server):
    """``create(replaced, **settings)`` makes a world."""
    worlds = []

    def create(replaced=None, **settings) -> World:
        settings = admission(
            LEDGER=redis_server.url, HEARTBEAT=HEARTBEAT, LEASE=LEASE, MAX_CONNECTIONS=2 * LIMIT,
            EXPECTED_WORKERS=WORKERS, WHEN_LEDGER_DOWN="freeze", **settings,
        )  # fmt: skip
        worlds.append(World(settings, replaced))
        return worlds[-1]

    yield create
    for world in worlds:
        world.close()


@pytest.fixture(params=[{}, SHARED], ids=["plain", "shared"])
def world(request, create):
    return create(**request.param)


def survive(world: World, place: Place, value: bytes | None) -> None:
    """One damage while the pool is half full and everybody wants in."""
    world.half_fill()
    place.damage(value)
    try:
        world.rush(2 * RIGHT_AGAIN)  # what is kept for those that were refused is free by then
        assert world.held == LIMIT
        world.see_truth()
    except Exception as error:
        error.add_note(f"{place} was made {'to vanish' if value is None else value[:80]!r}")
        raise


def damaged(world: World, values: tuple[bytes | None, ...], every: int = 1, near: str = "") -> int:
    """Inflict all damage there is, or one ``every`` so many, one after the other; how often.

    Only to places in whose description ``near`` stands.
    """
    world.half_fill()
    places = [place for place in one_of_each(world.client, world.prefix) if near in str(place)]
    cases = [(place, value) for place in places for value in values][::every]
    for place, value in cases:
        survive(world, place, value)
    return len(cases)


def test_no_damage_lets_too_many_in_or_stays(world):
    assert damaged(world, FEW, PART) > 200 // PART
    assert world.healed > 100 // PART


@pytest.mark.long
def test_no_damage_of_any_kind_lets_too_many_in_or_stays(world):
    assert damaged(world, VALUES) > 700


@pytest.mark.parametrize(
    ("shared", "name", "near"),
    [
        pytest.param({}, "records.is_sealed", "part", id="records"),
        pytest.param({}, "pool.is_sealed", "b'#total'", id="own fields"),
        pytest.param({}, "overrides.is_sealed", ":controls'", id="controls"),
        pytest.param({}, "pool.is_complete", "part 4", id="number of records"),
        pytest.param(SHARED, "books.is_marked", ":claims'", id="counts of claims"),
        pytest.param(SHARED, "books.is_complete", ":claims:", id="number of own claims"),
        pytest.param(SHARED, "books.is_pool_sealed", ":claims'", id="number of claims"),
    ],
)
def test_it_is_noticed_when_a_comparison_is_off(create, shared, name, near):
    world = create({name: "function() return true end"}, **shared)
    with pytest.raises((AssertionError, LedgerRefused, ValueError)):
        damaged(world, FEW, near=near)


def test_the_record_of_a_dead_worker_may_be_damaged(world):
    for value in FEW:
        world.half_fill()
        dead = world.servers.pop()
        key = f"{world.prefix}:{{default}}:counts".encode()
        Place(world.client, key, dead.state.worker.id.encode()).damage(value)
        for _ in range(int(LEASE) + 2):
            world.rush(1)
        assert world.held == LIMIT
        world.servers.append(Server(world, 100 + FEW.index(value)))
        world.names = [server.state.worker.id for server in world.servers]
        world.calm()
        world.see_truth()


@pytest.mark.parametrize("later", [3.0, 1e9])
async def test_no_altered_end_of_a_lease_keeps_a_dead_worker(in_redis, clock, later):
    workers = [Reporter(in_redis, each, limit=100) for each in "abcd"]
    for held, each in enumerate(workers, 1):
        await each.say(held)
    dead, counts = workers.pop(), in_redis._key("default", "counts")
    record = (await in_redis._redis.hget(counts, dead.last.worker)).split(b"|")
    record[3] = b"%d" % (int(record[3]) + 1000 * later)
    await in_redis._redis.hset(counts, dead.last.worker, b"|".join(record))
    for _ in range(int(LEASE) + 2):
        clock.now += HEARTBEAT
        replies = [await each.say(held, heartbeat=True) for held, each in enumerate(workers, 1)]
    assert [(reply.total, reply.workers) for reply in replies] == [(6, 3)] * 3


def test_a_damaged_count_is_found_before_its_client_comes(create):
    world = create(**SHARED)
    world.half_fill()
    claims = f"{world.prefix}:{{default}}:claims"
    world.client.hset(claims, CLIENTS[0], 3)
    world.calm(3)
    assert world.healed == 1
    world.see_truth()
    world.servers[0].call(1, CLIENTS[0])
    assert world.under(CLIENTS[0]) == 3


def test_a_lease_that_names_one_worker_twice_is_found(world):
    """The other, which it no longer names, is forgotten with its lease all the same."""
    world.half_fill()
    leases = f"{world.prefix}:{{default}}:leases"
    world.client.lset(leases, 3, world.client.lindex(leases, 0))
    world.rush()
    world.see_truth()
    world.servers.pop()
    world.names.pop()
    world.calm(int(LEASE) + 2)
    world.see_truth()


HOSTILE = [
    b"1" * 100_000, b"a" * 100_000, b"a=1," * 25_000, b"|" * 100_000, b"1;" * 50_000, b";limit=" + b"1" * 8_000,
    b"9" + b";limit=1" * 1_000, b"9;limit=" + b"1" * 8_000, b"0|" + b"1," * 50_000, b"1" * 67, b"." * 8_000,
]  # fmt: skip
"""Texts on which a pattern that tries bytes more than once would take long."""
SLOW = 20_000
"""Microseconds that no call needs, by far, on the slowest machine."""


def test_no_text_makes_a_call_slow(world):
    world.half_fill()
    for place, text in itertools.product(one_of_each(world.client, world.prefix), HOSTILE):
        took = []
        for _ in range(3):  # the machine may give the time of Redis to others
            place.damage(text)
            world.client.config_resetstat()
            world.servers[0].call()
            took.append(world.client.info("commandstats")["cmdstat_evalsha"]["usec"])
        assert min(took) < SLOW, f"{place} made {text[:40]!r}"


def test_no_pattern_tries_a_byte_twice():
    """Each is tried in one place, repeats once, or begins with a byte at which its repetitions stop."""
    called = re.findall(r"string\.(?:g?match|find)\([^']*'([^']*)'", RECONCILE)
    assert len(called) > 15
    for pattern in called:
        repeated = re.findall(r"(\[[^\]]*\]|%?.)[*+]", pattern)
        assert pattern.startswith("^") or len(repeated) <= 1 or stops_at(pattern[0], repeated), pattern


def stops_at(character: str, classes: list[str]) -> bool:
    """Whether the character is in none of these classes."""
    return all(each != "." and (character in each) is each.startswith("[^") for each in classes)


async def test_a_limiter_that_hears_of_damage_counts_it_and_says_it_once_in_a_while(admission, redis_server, caplog):
    settings = admission(LEDGER=redis_server.url, HEARTBEAT=0.2, LEASE=2)
    async with AsyncExitStack() as stack:
        client = stack.enter_context(redis.Redis.from_url(redis_server.url))
        ledger = RedisLedger(settings)
        stack.push_async_callback(ledger.aclose)
        limiter = limiter_over(settings, ledger)
        stack.push_async_callback(limiter.aclose)
        await limiter.acquire()
        for times in (1, 2, 3):
            assert client.hset(f"{settings.prefix}:{{default}}:counts", "#total", "nan") == 0
            await eventually(lambda times=times: limiter.state.counters[HEALED] == times)
        (reading,) = await eventually(lambda: told(settings))
        assert reading.counters[HEALED] == 3
        assert not limiter.state.away
    assert [record.getMessage() for record in caplog.records] == [
        "Counts of pool 'default' in the ledger were damaged and are counted anew; does something else write there?"
    ]


async def told(settings):
    """The pool as read, once it tells of three repairs."""
    ledger = RedisLedger(settings)
    try:
        readings = await ledger.read(("default",))
        return readings[0].counters.get(HEALED) == 3 and readings
    finally:
        await ledger.aclose()


def test_an_altered_birth_makes_no_neighbour_gone(create):
    world = create()
    (host,) = world.client.scan_iter(f"{world.prefix}:*:host:*")
    server, neighbour, *_ = world.servers
    field = neighbour.state.worker.id.partition(":")[2]
    world.client.hset(host, field, b"9" + world.client.hget(host, field)[1:])
    reply = world.ledger.apply(server.state.begin_report(heartbeat=True))
    assert {each.worker for each in reply.neighbours} == {other.state.worker.id for other in world.servers[2:]}

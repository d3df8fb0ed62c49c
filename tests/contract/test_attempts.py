"""The part of the contract that is about attempts, held by every ledger."""

import random
import struct
from dataclasses import replace
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from channels_admission.core.protocol import KEY_BYTES, Ask, Terms, Tried
from channels_admission.core.quotas.attempts import SETS, WAYS
from channels_admission.core.quotas.shares import Bound
from channels_admission.ledger.memory import MemoryLedger

from support.claimants import PLACES, Claimant, settled
from support.effort import some_of
from support.reports import HEARTBEAT

RATE, BURST, HIGH = 2.0, 5, 60.0
QUOTAS = (Bound("address", 1000, rate=RATE, burst=BURST), Bound("user", 1000), Bound("tenant", 1000, rate=1.0, burst=3))
TERMS = Terms(retry_after=(1.0, HIGH))
OVER, OVER_TENANT = "attempts:address", "attempts:tenant"


def key(name: str) -> bytes:
    return random.Random(name).randbytes(KEY_BYTES)


def tries(address: str | None = None, tenant: str | None = None, **more) -> Ask:
    return Ask(tries=(address and key(address), None, tenant and key(tenant)), **more)


@pytest.fixture
async def worker(ledger, clock):
    await settled(ledger, clock, limit=1000)
    return lambda nonce: Claimant(ledger, nonce, quotas=QUOTAS, limit=1000)


async def claim(worker, *asks, **changes):
    return await worker.claim(*asks, terms=TERMS, **changes)


async def buckets_kept(ledger) -> int:
    if isinstance(ledger, MemoryLedger):
        return len(ledger._pools[ledger._settings.prefix, "default"].attempts)
    sets = await ledger._redis.hgetall(ledger._key("default", "attempts"))
    return sum(map(len, sets.values())) // (KEY_BYTES + 16)


async def test_a_key_has_its_attempts_over_all_workers(worker, clock):
    a, b = worker("a"), worker("b")
    assert (await claim(a, *[tries("here")] * 3)).verdicts == ("",) * 3
    reply = await claim(b, tries("there"), *[tries("here")] * 4)
    assert reply.verdicts == ("", "", "", OVER, OVER)
    assert reply.waits == pytest.approx((0.5, 1.0))
    assert (reply.granted, reply.total) == (3, 6)
    clock.now += 0.5
    assert (await claim(a, tries("here"), tries("here"))).verdicts == ("", OVER)


async def test_refused_attempts_count_up_to_the_longest_hint_and_lock_the_key_there(worker, clock):
    a = worker("a")
    waits = [wait for _ in range(4) for wait in (await claim(a, *[tries("here")] * 50)).waits]
    assert waits == sorted(waits)
    assert waits[-1] == pytest.approx(HIGH)
    for _ in range(10):
        clock.now += 0.4
        assert (await claim(a, tries("here"))).verdicts == (OVER,)
    clock.now += 0.5
    assert (await claim(a, *[tries("here")] * 6)).verdicts == ("",) * BURST + (OVER,)


async def test_what_workers_have_refused_by_themselves_is_counted(worker, clock):
    a, b = worker("a"), worker("b")
    await claim(a, tries=(Tried(0, key("here"), BURST + 4), Tried(2, key("theirs"), 2)))
    reply = await claim(b, tries("here", "theirs"), tries(None, "theirs"), tries(None, "theirs"))
    assert reply.verdicts == (OVER, "", OVER_TENANT)
    assert reply.waits == pytest.approx((2.5, 1.0))


async def test_nothing_else_is_spent_on_an_attempt_too_many(worker, clock):
    a = worker("a")
    terms = replace(TERMS, rate=10.0, burst=6)
    clock.now += 2 * HEARTBEAT
    await a.claim(terms=terms)
    asks = [*[tries("here", "theirs")] * 2, *[tries("here")] * 3, *[tries("here", "theirs")] * 9, *[tries("there")] * 2]
    reply = await a.claim(*asks, terms=terms)
    assert reply.verdicts == ("",) * 5 + (OVER,) * 9 + ("", "rate")
    assert reply.retry_times is not None
    clock.now += 0.2
    assert (await a.claim(tries(None, "theirs"), tries(None, "theirs"), terms=terms)).verdicts == ("", OVER_TENANT)


async def test_late_asks_and_full_pools_count_attempts_as_well(ledger, worker, clock):
    a = worker("a")
    reply = await claim(a, *[tries(None, "theirs", late=True)] * 4)
    assert reply.verdicts == ("", "", "", OVER_TENANT)
    assert reply.granted == 0
    reply = await claim(a, *[tries("here")] * 6, limit=0)
    assert reply.verdicts == ("full",) * BURST + (OVER,)


async def test_an_attempt_refused_too_often_is_no_sign_of_a_full_pool(worker):
    a = worker("a")
    reply = await claim(a, *[tries("here")] * 50)
    assert reply.shortfall is None
    assert reply.retry_times is None


async def test_the_exempt_try_as_often_as_they_like(worker):
    reply = await claim(worker("a"), *[Ask(class_index=PLACES["exempt"])] * 50)
    assert set(reply.verdicts) == {""}


async def test_buckets_are_bounded(worker, ledger, clock):
    a = worker("a")
    for first in range(0, 60, 20):
        keys = [bytes([0, 7]) + bytes([number] * 13) for number in range(first, first + 20)]
        await claim(a, tries=tuple(Tried(0, key, 9 - key[-1] % 3) for key in keys))
    assert await buckets_kept(ledger) == WAYS
    clock.now += 2 * HEARTBEAT
    await claim(a)
    clock.now += 2 * HEARTBEAT
    await claim(a)
    clock.now += 2 * HEARTBEAT
    await claim(a, tries=(Tried(0, bytes([4, 7]) + b"x" * 13, 1),))
    assert await buckets_kept(ledger) == 1


@pytest.fixture
async def in_redis(stored, clock):
    await settled(stored, clock, limit=1000)
    return Claimant(stored, "a", quotas=QUOTAS, limit=1000)


async def test_a_pool_that_lost_its_counts_begins_with_full_buckets(in_redis, stored, clock):
    await claim(in_redis, *[tries("here")] * 50)
    assert await buckets_kept(stored) == 1
    await stored._redis.delete(stored._key("default", "counts"))
    await claim(in_redis)
    assert await buckets_kept(stored) == 0
    for _ in range(2):
        clock.now += 2 * HEARTBEAT
        await claim(in_redis)
    assert (await claim(in_redis, tries("here"))).verdicts == ("",)


async def test_buckets_are_in_one_hash_that_expires_with_the_pool(in_redis, stored):
    await claim(in_redis, tries=(Tried(0, bytes([4, 7]) + b"x" * 13, 1),))
    name = stored._key("default", "attempts")
    assert await stored._redis.hkeys(name) == [str((4 * 256 + 7) % SETS).encode()]
    assert 0 < await stored._redis.pttl(name) <= 3_600_000


@pytest.mark.parametrize("quotas", [QUOTAS[1:2], QUOTAS])
async def test_without_attempts_to_count_there_is_no_key(in_redis, stored, quotas):
    in_redis.quotas = quotas
    await claim(in_redis, *[Ask()] * 3)
    assert not await stored._redis.exists(stored._key("default", "attempts"))


DAMAGE = [
    b"", b"x", b"nan", b"1e300", bytes(31), bytes(30), b"\xff" * 31, b"\xff" * 31 * 9, b"," * 62, b"|" * 8192,
    key("here") + struct.pack(">dd", float("nan"), float("nan")), key("here") + struct.pack(">dd", float("inf"), 1.0),
    key("here") + struct.pack(">dd", -float("inf"), float("inf")), key("here") + struct.pack(">dd", 1e300, 1e300),
    key("here") + struct.pack(">dd", -1.0, 1e300),
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
async def test_damage_makes_a_set_as_if_it_were_empty(in_redis, stored, damage):
    place, name = str(int.from_bytes(key("here")[:2], "big") % SETS), stored._key("default", "attempts")
    await stored._redis.hset(name, mapping={place: damage, "x": "y"})
    assert (await claim(in_redis, *[tries("here")] * 6)).verdicts == ("",) * BURST + (OVER,)
    assert len(await stored._redis.hget(name, place)) == KEY_BYTES + 16


async def test_damaged_buckets_take_no_room_from_others(in_redis, stored):
    ours = [bytes([0, 7]) + bytes([number] * 13) for number in (1, 2)]
    damage = b"".join(struct.pack(f">{KEY_BYTES}sdd", bytes([0, 7, number]), 1e300, 1e300) for number in range(90, 98))
    await stored._redis.hset(stored._key("default", "attempts"), "7", damage)
    for one in ours * 2:
        reply = await claim(in_redis, *[Ask(tries=(one,))] * 6)
    assert reply.verdicts == (OVER,) * 6


_pools = count()


@given(
    some.lists(
        some.tuples(
            some.floats(0, 2 * HEARTBEAT),
            some.sampled_from("ab"),
            some.lists(some.tuples(some.integers(0, 3), some.integers(0, 2)), max_size=12),
        ),
        max_size=15,
    )
)
@settings(max_examples=some_of(30), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_both_ledgers_decide_alike(stored, clock, rounds):
    both = [stored, MemoryLedger(stored._settings, clock, clock)]
    pool = f"pool-{next(_pools)}"
    workers = {
        (nonce, each): Claimant(each, nonce, quotas=QUOTAS, limit=1000, pool=pool) for nonce in "ab" for each in both
    }
    for pause in (0.0, 2 * HEARTBEAT, 2 * HEARTBEAT):
        clock.now = round(clock.now + pause, 3)
        for one in workers.values():
            await claim(one)
    for pause, nonce, asked in rounds:
        clock.now = round(clock.now + pause, 3)
        asks = [tries(f"address {address}", f"tenant {tenant}") for address, tenant in asked]
        one, other = [await claim(workers[nonce, each], *asks) for each in both]
        assert one.verdicts == other.verdicts
        assert one.waits == pytest.approx(other.waits, abs=1e-3)
        for each in workers.values():  # no lease runs out
            await claim(each)

"""The part of the contract that is about quotas and classes, held by every ledger."""

import pytest
import redis

from channels_admission.core.protocol import KEY_BYTES
from channels_admission.ledger.base import Forgotten, OutOfOrder
from channels_admission.ledger.memory import MemoryLedger

from support.claimants import Claimant, ask, settled
from support.reports import HEARTBEAT, LEASE


@pytest.fixture
def worker(ledger):
    return lambda nonce, **options: Claimant(ledger, nonce, **options)


async def keys_kept(ledger) -> int:
    """How many keys are counted, and in Redis also those of each worker."""
    if isinstance(ledger, MemoryLedger):
        return len(ledger._pools[ledger._settings.prefix, "default"].claims.sums)
    parts = ["claims", *(f"claims:host:1:{nonce}" for nonce in ("a", "b", "c", "d", "e", "ffff"))]
    hashes = [await ledger._redis.hgetall(ledger._key("default", part)) for part in parts]
    return sum(len(field) == KEY_BYTES for fields in hashes for field in fields)


async def test_a_key_has_its_quota_over_all_workers(ledger, worker, clock):
    await settled(ledger, clock, 100)
    a, b = worker("a", limit=100), worker("b", limit=100)
    assert (await a.claim(*[ask("kim")] * 5)).verdicts == ("", "", "", "quota:user", "quota:user")
    reply = await b.claim(ask("kim"), ask("lee"))
    assert (reply.verdicts, reply.granted, reply.total) == (("quota:user", ""), 1, 4)


async def test_what_is_given_back_may_be_claimed_elsewhere(ledger, worker, clock):
    await settled(ledger, clock, 100)
    a, b = worker("a", limit=100), worker("b", limit=100)
    await a.claim(*[ask("kim")] * 3)
    a.drop(ask("kim"))
    await a.claim()
    assert (await b.claim(*[ask("kim")] * 2)).verdicts == ("", "quota:user")
    for _ in range(2):
        a.drop(ask("kim"))
    b.drop(ask("kim"))
    await a.claim()
    await b.claim()
    assert await keys_kept(ledger) == 0


async def test_a_handshake_needs_room_under_each_of_its_keys(ledger, worker, clock):
    await settled(ledger, clock, 100)
    a = worker("a", limit=100)
    asks = [ask(f"user {number}", "here") for number in range(7)]
    assert (await a.claim(*asks)).verdicts == ("",) * 5 + ("quota:address",) * 2
    a.drop(asks[0])
    assert (await a.claim(ask("user 1", "here"), ask("user 1", "here"))).verdicts == ("", "quota:address")


async def test_a_refusal_creates_no_key(ledger, worker, clock):
    await settled(ledger, clock, 0)
    a = worker("a", limit=0)
    assert (await a.claim(*[ask(f"user {number}") for number in range(9)])).verdicts == ("full",) * 9
    assert await keys_kept(ledger) == 0


async def test_a_class_fills_the_pool_up_to_its_share(ledger, worker, clock):
    await settled(ledger, clock, 100)
    a, b = worker("a", limit=100), worker("b", limit=100)
    await a.claim(*[ask(group="anonymous")] * 85)
    assert a.held == 80
    reply = await b.claim(ask(group="anonymous"), *[ask(group="member")] * 20, ask(group="anonymous"))
    assert reply.verdicts == ("share", *[""] * 15, *["share"] * 5, "share")
    asks = [*[ask(group="member")], *[ask(group="staff")] * 6, ask(group="exempt"), ask(group="staff"), ask()]
    assert (await b.claim(*asks)).verdicts == ("share", *[""] * 5, "full", "", "full", "full")
    assert (await a.claim(ask(group="exempt"))).total == 102
    (reading,) = await ledger.read(("default",))
    held = {each.worker[-1]: dict(each.classes) for each in reading.workers}
    assert held["a"] == {"anonymous": 80, "exempt": 1}
    assert held["b"] == {"member": 15, "staff": 5, "exempt": 1}


async def test_a_share_follows_the_limit(ledger, worker, clock):
    await settled(ledger, clock, 29)
    a = worker("a", limit=29)
    await a.claim(*[ask(pending=True)] * 9)
    assert a.held == 5
    a.last = type(a.last)(**{**{name: getattr(a.last, name) for name in a.last.__slots__}, "limit": 50})
    for _ in range(int(LEASE / HEARTBEAT) + 1):  # until the lower limit is about no more
        clock.now += HEARTBEAT
        await a.claim()
    assert (await a.claim(*[ask(pending=True)] * 9)).granted == 5


async def test_a_connection_may_claim_more_than_it_had(ledger, worker, clock):
    await settled(ledger, clock, 100)
    a = worker("a", limit=100)
    await a.claim(*[ask(address="here")] * 4)
    reply = await a.claim(*[ask("kim", late=True)] * 4)
    assert (reply.verdicts, reply.granted, reply.total) == (("", "", "", "quota:user"), 0, 4)


async def test_a_connection_that_comes_into_a_lesser_class_needs_room_there(ledger, worker, clock):
    await settled(ledger, clock, 10)
    a = worker("a", limit=10)
    await a.claim(*[ask()] * 8)
    assert (await a.claim(ask(group="anonymous", late=True))).verdicts == ("",)
    await a.claim(ask())
    reply = await a.claim(
        ask(group="anonymous", late=True),
        ask(group="member", late=True),
        ask(group="anonymous", late=True, bounded=False),
    )
    assert reply.verdicts == ("share", "", "")


async def test_a_repeated_report_claims_nothing_twice(ledger, worker, clock):
    await settled(ledger, clock, 100)
    a = worker("a", limit=100)
    await a.claim(ask("kim"))
    with pytest.raises(OutOfOrder):
        await a.repeat()
    assert (await a.claim(*[ask("kim")] * 3)).verdicts == ("", "", "quota:user")


async def test_claims_of_the_dead_return_within_the_lease(ledger, worker, clock):
    b = await settled(ledger, clock, 1000)
    a = worker("a", limit=1000)
    for start in range(0, 450, 150):
        await a.claim(*[ask(f"user {number}") for number in range(start, start + 150)])
    for _ in range(int(LEASE)):
        clock.now += HEARTBEAT
        assert (await b.claim()).total in (450, 0)
    for _ in range(4):
        reply = await b.claim()
    assert (reply.total, reply.sweep) == (0, "")
    assert await keys_kept(ledger) == 0


async def test_claims_of_several_dead_are_swept_up_one_after_the_other(ledger, worker, clock):
    b = await settled(ledger, clock, 100)
    for nonce in "acde":
        await worker(nonce, limit=100).claim(ask("kim"), ask(nonce))
    await b.claim(gone=tuple(f"host:1:{nonce}" for nonce in "acde"))
    for _ in range(6):
        await b.claim()
    assert await keys_kept(ledger) == 0


async def test_a_goodbye_gives_claims_back(ledger, worker, clock):
    b = await settled(ledger, clock, 100)
    a = worker("a", limit=100)
    await a.claim(ask("kim"), ask("lee"))
    a.held = 0
    await a.claim(goodbye=True)
    for _ in range(2):
        await b.claim()
    assert await keys_kept(ledger) == 0


async def test_a_worker_that_was_forgotten_tells_all_of_it_again(ledger, worker, clock):
    b = await settled(ledger, clock, limit=100)
    a = worker("a", limit=100)
    await a.claim(*[ask(f"user {number}") for number in range(50)])
    await b.claim(gone=("host:1:a",))
    with pytest.raises(Forgotten):
        await a.claim()
    a.last = worker("abc", limit=100).last
    a.heard, a.told = 0, {*a.claims}
    await a.claim()
    while (await b.claim(gone=())).sweep:
        pass
    assert (await b.claim(*[ask("user 7")] * 3)).verdicts == ("", "", "quota:user")
    assert await keys_kept(ledger) <= 51 * 2


@pytest.mark.parametrize("part", ["claims", "claims:host:1:a", "counts"])
async def test_lost_claims_are_told_again_and_nothing_is_granted_meanwhile(stored, clock, redis_server, part):
    await settled(stored, clock)
    a, b = Claimant(stored, "a", limit=100), Claimant(stored, "b", limit=100)
    await a.claim(*[ask("kim")] * 2, ask("lee"))
    await b.claim(ask("kim"))
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.delete(stored._key("default", part)) == 1
    for each in (b, a, b, a):
        reply = await each.claim(parts=0)
    assert reply.settling
    assert (await b.claim(ask("kim"), ask("ann"), parts=0)).verdicts == ("quota:user", "settling")
    clock.now += 2 * HEARTBEAT
    assert (await b.claim(ask("kim"), ask("ann"), ask("lee"), parts=0)).verdicts == ("quota:user", "", "")
    for each in (a, b):
        for name, count in each.claims.items():
            for _ in range(count):
                each.drop(ask(name.decode().rstrip(".")))
        await each.claim()
    assert await keys_kept(stored) == 0


async def test_keys_of_another_length_do_not_outlive_the_worker(stored, clock, redis_server):
    b = await settled(stored, clock)
    await Claimant(stored, "a", limit=100).claim(ask("kim"))
    pool, dead = (stored._key("default", part) for part in ("claims", "claims:host:1:a"))
    with redis.Redis.from_url(redis_server.url) as client:
        for name in (pool, dead):
            client.hset(name, b"k" * (KEY_BYTES + 1), 2)
        assert (await b.claim(gone=("host:1:a",))).healed
        for _ in range(2):
            reply = await b.claim()
        assert reply.sweep == ""
        assert client.exists(dead) == 0
        assert sorted(client.hkeys(pool)) == [b"#epoch", b"#seal"]


async def test_a_restored_save_counts_nobody_wrongly(stored, clock, redis_server):
    await settled(stored, clock)
    a, b = Claimant(stored, "a", limit=100), Claimant(stored, "b", limit=100)
    await a.claim(ask("kim"), ask("old"))
    await b.claim()
    with redis.Redis.from_url(redis_server.url) as client:
        saved = {name: client.dump(name) for name in client.keys(f"{stored._settings.prefix}:*")}
        a.drop(ask("old"))
        await a.claim(ask("kim"))
        await b.claim(ask("kim"))
        for name, dump in saved.items():
            client.delete(name)
            client.restore(name, 0, dump)
    for _ in range(2):
        for each in (b, a):
            await each.claim(parts=0)
    clock.now += 2 * HEARTBEAT
    assert (await a.claim(ask("kim"), *[ask("old")] * 4)).verdicts == ("quota:user", "", "", "", "quota:user")


async def test_claims_swept_up_after_they_had_expired_are_told_again(stored, clock, redis_server):
    b = await settled(stored, clock)
    a, c = Claimant(stored, "a", limit=100), Claimant(stored, "c", limit=100)
    await a.claim(ask("kim"))
    await c.claim(ask("kim"))
    reply = await b.claim(gone=("host:1:a",))
    assert reply.sweep == "host:1:a"
    with redis.Redis.from_url(redis_server.url) as client:
        client.delete(stored._key("default", "claims:host:1:a"))
    assert (await b.claim()).settling
    await c.claim()
    await c.claim()
    clock.now += 2 * HEARTBEAT
    assert (await c.claim(*[ask("kim")] * 3)).verdicts == ("", "", "quota:user")


async def test_whoever_does_not_hear_of_the_loss_is_told_once_more(stored, clock, redis_server):
    await settled(stored, clock)
    a = Claimant(stored, "a", limit=100)
    await a.claim(ask("kim"))
    heard = a.heard
    with redis.Redis.from_url(redis_server.url) as client:
        client.delete(stored._key("default", "claims"))
    assert (await a.claim()).retell
    a.heard, a.told = heard, set()
    assert (await a.claim()).retell
    assert not (await a.claim()).retell
    assert await keys_kept(stored) == 2

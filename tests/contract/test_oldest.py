"""The part of the contract that is about quotas whose oldest connection gives way, held by every ledger."""

from collections import Counter
from itertools import count, product

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from channels_admission.core.protocol import Aged, Ask, Evicted
from channels_admission.core.quotas.shares import Bound
from channels_admission.ledger.memory import MemoryLedger

from support.claimants import Claimant, ask, key, settled
from support.damage import VALUES
from support.effort import some_of
from support.reports import HEARTBEAT

MOST = 2
QUOTAS = (Bound("user", MOST, oldest=True), Bound("address", 5))
OVER = "quota:user"


class Obedient(Claimant):
    """A worker that knows since when it holds a slot under the user's key, and ends those it is told to."""

    def __init__(self, ledger, nonce, clock, **options) -> None:
        super().__init__(ledger, nonce, quotas=QUOTAS, **{"limit": 100, **options})
        self.clock = clock
        self.open: dict[bytes, list[float]] = {}
        self.evicted: Counter[bytes] = Counter()

    async def claim(self, *asks, obey=True, **changes):
        reply = await super().claim(*asks, **changes)
        for each, reason in zip(asks, reply.verdicts, strict=True):
            if each.claims[0] and not reason:
                self.open.setdefault(each.claims[0], []).append(self.clock.now)
        for each in reply.evicted if obey else ():
            for _ in range(each.number):
                self.evicted[each.key] += 1
                self.end(each.key)
        return reply

    def aged(self, told):
        return tuple(
            Aged(0, key, tuple(self.clock.now - since for since in self.open[key]))
            for key in told
            if self.open.get(key)
        )

    def end(self, key: bytes, place: int = 0) -> None:
        """A connection of the user ends, the oldest one if nothing else is said."""
        del self.open[key][place]
        self.drop(ask(key.decode().rstrip(".")))


@pytest.fixture
async def worker(ledger, clock):
    await settled(ledger, clock, limit=100)
    return lambda nonce, **options: Obedient(ledger, nonce, clock, **options)


async def test_a_newcomer_is_let_in_and_the_oldest_ends_on_whatever_worker_it_is(worker, clock):
    a, b = worker("a"), worker("b")
    await a.claim(ask("kim"))
    clock.now += 0.1
    await b.claim(ask("kim"))
    clock.now += 0.1
    reply = await b.claim(ask("kim"))
    assert (reply.verdicts, reply.evicted, reply.total) == (("",), (), 3)
    reply = await a.claim(obey=False)
    assert reply.evicted == (Evicted(key("kim"), 1),)
    assert (await a.claim()).evicted == (Evicted(key("kim"), 1),), "as long as it is counted"
    assert a.open == {key("kim"): []}
    reply = await a.claim()
    assert (reply.evicted, reply.total) == ((), 2)
    assert (await b.claim()).evicted == ()


async def test_the_oldest_of_the_same_worker_ends_with_the_same_answer(worker, clock):
    a = worker("a")
    for _ in range(MOST):
        await a.claim(ask("kim"))
        clock.now += 0.1
    started = clock.now - 0.1
    reply = await a.claim(ask("kim"))
    assert (reply.verdicts, reply.evicted) == (("",), (Evicted(key("kim"), 1),))
    assert a.open[key("kim")] == [started, clock.now]


async def test_no_more_are_let_in_than_there_are_to_give_way(worker, clock):
    a, b = worker("a"), worker("b")
    await a.claim(*[ask("kim")] * MOST)
    assert (await b.claim(*[ask("kim")] * 5)).verdicts == ("",) * MOST + (OVER,) * 3
    assert (await b.claim(ask("kim"))).verdicts == (OVER,), "twofold at the most"
    assert (await a.claim()).evicted == (Evicted(key("kim"), MOST),)
    await a.claim()
    assert (await b.claim(ask("kim"))).verdicts == ("",)


async def test_more_than_the_quota_at_once_are_refused_where_nobody_is_there_yet(worker):
    assert (await worker("a").claim(*[ask("kim")] * 5)).verdicts == ("",) * MOST + (OVER,) * 3


async def test_a_newcomer_needs_a_free_slot_as_everybody_does(worker):
    a = worker("a", limit=MOST)
    await a.claim(*[ask("kim")] * MOST)
    reply = await a.claim(ask("kim"))
    assert (reply.verdicts, reply.evicted, reply.total) == (("full",), (), MOST)


async def test_other_quotas_refuse_as_ever_and_nobody_ends(worker):
    a = worker("a")
    await a.claim(*[ask("kim", "here")] * MOST, *[ask(None, "here")] * 3)
    reply = await a.claim(ask("kim", "here"))
    assert (reply.verdicts, reply.evicted) == (("quota:address",), ())


async def test_a_late_claim_lets_the_oldest_give_way_as_well(worker, clock):
    a, b = worker("a"), worker("b")
    await a.claim(*[ask("kim")] * MOST)
    clock.now += 0.1
    await b.claim(ask(None, "there"))
    assert (await b.claim(ask("kim", late=True))).verdicts == ("",)
    assert (await a.claim()).evicted == (Evicted(key("kim"), 1),)


async def test_one_that_leaves_by_itself_makes_room_and_none_ends(worker, clock):
    a, b = worker("a"), worker("b")
    await a.claim(ask("kim"))
    clock.now += 0.1
    await b.claim(ask("kim"), ask("kim"))
    assert sum(map(len, b.open.values())) == 2
    b.end(key("kim"), 1)
    await b.claim()
    assert (await a.claim()).evicted == ()
    assert (await b.claim()).evicted == ()


async def test_a_repeated_report_ends_nobody_else(worker, clock):
    a, b = worker("a"), worker("b")
    await a.claim(*[ask("kim")] * MOST)
    clock.now += 0.1
    await b.claim(ask("kim"))
    for _ in range(3):
        assert (await a.claim(obey=False)).evicted == (Evicted(key("kim"), 1),)


async def test_the_dead_give_way_to_nobody_and_are_not_waited_for(worker, clock):
    a, b = worker("a"), worker("b")
    await a.claim(*[ask("kim")] * MOST)
    clock.now += 0.1
    await b.claim(ask("kim"))
    await b.claim(gone=("host:1:a",))
    for _ in range(3):
        await b.claim(gone=())
    assert len(b.open[key("kim")]) == 1
    assert (await b.claim(ask("kim"))).verdicts == ("",)
    assert (await b.claim()).evicted == ()
    assert (await b.claim(ask("kim"))).verdicts == ("",)
    assert sum(b.evicted.values()) == 1
    assert len(b.open[key("kim")]) == MOST


async def test_what_is_held_by_workers_that_tell_no_ages_is_not_exceeded(worker, ledger):
    """As by workers of the deployment before, where the quota refused."""
    old, new = Claimant(ledger, "c", limit=100), worker("a")
    await old.claim(*[ask("kim")] * MOST)
    assert (await new.claim(ask("kim"))).verdicts == (OVER,)
    old.drop(ask("kim"))
    await old.claim()
    assert (await new.claim(*[ask("kim")] * 2)).verdicts == ("", OVER)
    reply = await new.claim(ask("kim"))
    assert (reply.verdicts, reply.evicted) == (("",), (Evicted(key("kim"), 1),))


async def test_the_dead_give_way_to_nobody_whatever_settings_the_worker_has_that_sweeps_up(worker, ledger, clock):
    a, b, old = worker("a"), worker("b"), Claimant(ledger, "c", limit=100)
    await a.claim(*[ask("kim")] * MOST)
    clock.now += 0.1
    await old.claim(gone=("host:1:a",))
    for _ in range(3):
        await old.claim(gone=())
    assert (await b.claim(*[ask("kim")] * MOST)).verdicts == ("",) * MOST
    clock.now += 0.1
    reply = await b.claim(ask("kim"))
    assert (reply.verdicts, reply.evicted) == (("",), (Evicted(key("kim"), 1),))


async def test_nobody_ends_for_what_the_same_worker_is_counted_for_under_another_name(worker, clock):
    a, b, again = worker("a"), worker("b"), worker("c")
    await a.claim(*[ask("kim")] * MOST)
    await b.claim(gone=("host:1:a",))
    clock.now += 3 * HEARTBEAT  # of which the pool's clock runs two, as after an outage
    again.open, again.claims, again.held, again.told = a.open, a.claims, a.held, {key("kim")}
    replies = [await again.claim()]
    for _ in range(3):
        await b.claim(gone=())
        replies.append(await again.claim())
    assert [reply.evicted for reply in replies] == [()] * 4
    assert (await b.claim(ask("kim"))).verdicts == ("",)
    assert (await again.claim()).evicted == (Evicted(key("kim"), 1),)


async def test_nothing_is_kept_of_clients_that_have_left(worker, ledger, clock):
    a, b = worker("a"), worker("b")
    await a.claim(*[ask("kim")] * MOST, ask("lee"))
    clock.now += 0.1
    await b.claim(ask("kim"))
    for each in (a, b, a, b):
        await each.claim()
    for each in (a, b):
        for name, times in each.open.items():
            for _ in range(len(times)):
                each.end(name)
        await each.claim()
    if isinstance(ledger, MemoryLedger):
        holders = ledger._pools[ledger._settings.prefix, "default"].claims.holders
        assert (holders._since, holders._most, holders._posted) == ({}, {}, {})
    else:
        assert await ledger._redis.hgetall(ledger._key("default", "holders")) == {}


DAMAGE = [
    b"", b"x", b"nan", b"2", b"2;host:1:a=1", b"0;host:1:a=1000000000000,1000000000000abc", b";" * 20_000,
    b"1e300;=,=,", b"\xff" * 300, b"2;host:1:a=" + b"9" * 40 + b"abc",
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
async def test_damage_lets_nobody_give_way_and_nobody_in(stored, clock, damage):
    await settled(stored, clock, limit=100)
    a = Obedient(stored, "a", clock)
    await a.claim(*[ask("kim")] * MOST)
    name = stored._key("default", "holders")
    await stored._redis.hset(name, mapping={key("kim"): damage, "@host:1:a": damage, "x": damage})
    reply = await a.claim(ask("lee"))
    assert (reply.verdicts, reply.evicted) == (("",), ())
    reply = await a.claim(ask("kim"))
    assert reply.verdicts == ("",), "it tells of its own again as it asks"
    await a.claim()
    b = Obedient(stored, "b", clock)
    await stored._redis.hset(name, mapping={key("kim"): damage, "@host:1:a": damage})
    assert (await b.claim(ask("kim"))).verdicts == (OVER,)
    assert (await a.claim()).evicted == ()


async def test_where_claims_begin_anew_ages_are_told_again(stored, clock):
    await settled(stored, clock, limit=100)
    a, b = Obedient(stored, "a", clock), Obedient(stored, "b", clock)
    await a.claim(*[ask("kim")] * MOST)
    await stored._redis.delete(stored._key("default", "claims"))
    for each in (b, a, b, a):
        reply = await each.claim(parts=0)
    assert reply.settling
    assert (await b.claim(ask("kim"), parts=0)).verdicts == (OVER,)
    for _ in range(2):
        clock.now += 2 * HEARTBEAT
        await a.claim()
    assert (await b.claim(ask("kim"))).verdicts == ("",)
    assert (await a.claim()).evicted == (Evicted(key("kim"), 1),)


async def test_whatever_stands_in_any_field_nobody_is_ended_for_it_and_no_call_fails(stored, clock):
    await settled(stored, clock, limit=100)
    a, b = Obedient(stored, "a", clock), Obedient(stored, "b", clock)
    terms = Bound("user", MOST, rate=1000.0, burst=1000, oldest=True), QUOTAS[1]
    for each in (a, b):
        each.quotas = terms
    attempt = Ask((None,), late=True, tries=(key("kim"),))
    await a.claim(*[ask("kim")] * MOST, attempt)
    clock.now += 0.1
    await b.claim(ask("lee"))
    parts = [stored._key("default", part) for part in ("attempts", "holders")]
    places = [(name, field) for name in parts for field in [*await stored._redis.hkeys(name), b"@host:1:a", b"x"]]
    assert len(places) == 1 + 2 + 2 * 2
    for (name, field), value in product(places, VALUES):
        if value is None:
            await stored._redis.hdel(name, field)
        else:
            await stored._redis.hset(name, field, value)
        for each in (a, b):
            assert (await each.claim(attempt)).verdicts == ("",)
        clock.now += 0.01
    assert (a.evicted, b.evicted) == ({}, {})


async def test_no_slot_of_the_dead_gives_way_once_claims_have_begun_anew(stored, clock):
    await settled(stored, clock, limit=100)
    b, dead = Obedient(stored, "b", clock), Obedient(stored, "c", clock)
    await dead.claim(*[ask("kim")] * MOST)
    await stored._redis.delete(stored._key("default", "claims"))
    await b.claim(gone=("host:1:c",))
    for _ in range(3):
        clock.now += 2 * HEARTBEAT
        await b.claim(gone=())
    assert (await b.claim(*[ask("kim")] * MOST)).verdicts == ("",) * MOST
    clock.now += 0.1
    reply = await b.claim(ask("kim"))
    assert (reply.verdicts, reply.evicted) == (("",), (Evicted(key("kim"), 1),))


async def test_a_worker_is_told_of_a_key_once_however_many_come_and_of_none_when_it_is_dead(stored, clock):
    await settled(stored, clock, limit=100)
    a, b = Obedient(stored, "a", clock), Obedient(stored, "b", clock)
    await a.claim(*[ask("kim")] * MOST)
    clock.now += 0.1
    for _ in range(MOST):
        await b.claim(ask("kim"))
    holders, mailbox = stored._key("default", "holders"), "@host:1:a"
    assert await stored._redis.hget(holders, mailbox) == key("kim")
    await b.claim(gone=("host:1:a",))
    for _ in range(3):
        await b.claim(gone=())
    assert await stored._redis.hkeys(holders) == [key("kim")]


_pools = count()
KEYS = ("kim", "lee")


@given(
    some.lists(
        some.tuples(
            some.floats(0.001, 0.5),
            some.sampled_from("abc"),
            some.lists(some.sampled_from(KEYS), max_size=4),
            some.booleans(),
            some.booleans(),
        ),
        max_size=25,
    )
)
@settings(max_examples=some_of(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_both_ledgers_decide_alike_and_come_back_to_the_maximum(stored, clock, rounds):
    """Workers ask, lose connections, do not hear answers; when all have reported twice, everything is exact."""
    both = [stored, MemoryLedger(stored._settings, clock, clock)]
    pool = f"pool-{next(_pools)}"
    workers = {nonce: [Obedient(each, nonce, clock, pool=pool) for each in both] for nonce in "abc"}

    async def all_report():
        for pair in workers.values():
            for one in pair:
                await one.claim()

    for pause in (0.0, 2 * HEARTBEAT, 2 * HEARTBEAT):
        clock.now = round(clock.now + pause, 3)
        await all_report()
    for pause, nonce, names, obeys, leaves in rounds:
        clock.now = round(clock.now + round(pause, 3), 3)
        replies = []
        for one in workers[nonce]:
            if leaves:
                held = [name for name in map(key, KEYS) if one.open.get(name)]
                for name in held[:1]:
                    one.end(name, -1)
            replies.append(await one.claim(*map(ask, names), obey=obeys))
        assert replies[0].verdicts == replies[1].verdicts
        assert sorted(replies[0].evicted) == sorted(replies[1].evicted)
        for place in (0, 1):
            held = Counter(
                {name: sum(len(pair[place].open.get(key(name), ())) for pair in workers.values()) for name in KEYS}
            )
            assert max(held.values()) <= 2 * MOST
    for _ in range(2):
        clock.now = round(clock.now + 0.1, 3)
        await all_report()
    for place in (0, 1):
        for name in KEYS:
            assert sum(len(pair[place].open.get(key(name), ())) for pair in workers.values()) <= MOST

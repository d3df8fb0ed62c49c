"""Workers of releases with different layouts over one Redis: they share the limit and the overrides, and no more."""

import asyncio
from dataclasses import replace

import pytest
import redis

from channels_admission.core.counters import Reason
from channels_admission.core.overrides import Controls, Drain, Order
from channels_admission.core.readings import Elsewhere
from channels_admission.ledger.layout import COMMON

from support.claimants import Claimant, ask
from support.reports import HEARTBEAT, LEASE, ClockedRedisLedger, Reporter

LIMIT = 10


class LaterLedger(ClockedRedisLedger):
    """The ledger of a release with another layout."""

    layout = 2

    def __init__(self, settings, clock) -> None:
        super().__init__(settings, clock, {"layouts.own": "function() return '2' end"})


@pytest.fixture
async def later(in_redis, clock):
    ledger = LaterLedger(in_redis._settings, clock)
    yield ledger
    await ledger.aclose()


@pytest.fixture
def client(redis_server):
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


async def settle(*workers, clock):
    """Let every pool live through its first heartbeats."""
    for worker in workers:
        await worker.say()
    clock.now += 2 * HEARTBEAT
    for worker in workers:
        await worker.say(heartbeat=True)


def dumped(client, ledger):
    """What a ledger has stored in keys of its own, by name."""
    own = ledger._key("default", "")
    names = client.keys(own.replace("{", "\\{").replace("}", "\\}") + "*")
    parts = {name: name.decode().removeprefix(own) for name in names}
    return {part: client.dump(name) for name, part in parts.items() if part.split(":")[0] not in (*COMMON, "2")}


async def test_both_together_keep_to_the_limit(in_redis, later, clock):
    a, b = Reporter(in_redis, "a"), Reporter(later, "b")
    await settle(a, b, clock=clock)
    assert (await a.say(wanted=6)).granted == 6
    reply = await b.say(wanted=6)
    assert (reply.granted, reply.shortfall, reply.total, reply.elsewhere) == (4, Reason.FULL, 10, 6)
    assert (await a.say(held=6, wanted=1)).granted == 0
    await b.say(held=1)
    reply = await a.say(held=6, wanted=9)
    assert (reply.granted, reply.total, reply.elsewhere, reply.workers) == (3, 10, 1, 2)


async def test_a_pool_that_settles_grants_no_more_than_the_other_layout_leaves(in_redis, later, clock):
    a, b = Reporter(in_redis, "a"), Reporter(later, "b")
    await settle(a, clock=clock)
    await a.say(wanted=8)
    reply = await b.say(wanted=6, allowance=6)
    assert (reply.settling, reply.granted, reply.total) == (True, 2, 10)


async def test_quotas_and_classes_keep_to_the_limit_too(in_redis, later, clock):
    a, b = Claimant(in_redis, "a"), Claimant(later, "b")
    for _ in range(2):
        await a.claim()
        await b.claim()
        clock.now += HEARTBEAT
    assert (await a.claim(*[ask()] * 7)).granted == 7
    assert (await b.claim(*[ask()] * 5)).verdicts == ("", "", "", "full", "full")


async def test_neither_touches_the_counts_of_the_other(in_redis, later, clock, client):
    a, b = Claimant(in_redis, "a"), Claimant(later, "b")
    await a.claim(ask("kim"), ask("lee", "here"))
    before = dumped(client, in_redis)
    assert {"counts", "leases", "seconds", "minutes", "claims"} <= before.keys()
    for _ in range(3):
        reply = await b.claim(ask("kim", "here"), heartbeat=True)
        clock.now += HEARTBEAT
        assert not reply.healed
    assert dumped(client, in_redis) == before
    reply = await a.claim(heartbeat=True)
    assert (reply.healed, reply.lapsed, a.held) == (False, False, 2)


async def test_workers_that_died_count_until_their_lease_is_over(in_redis, later, clock):
    a, b = Reporter(in_redis, "a"), Reporter(later, "b")
    await settle(a, b, clock=clock)
    await a.say(wanted=10)
    clock.now += LEASE - 0.001
    assert (await b.say(wanted=1)).granted == 0
    clock.now += 0.001
    reply = await b.say(wanted=1)
    assert (reply.granted, reply.total, reply.elsewhere, reply.workers) == (1, 1, 0, 1)
    assert await b.ledger._redis.hkeys(b.ledger._key("default", "layouts")) == [b"2"], "a layout without workers goes"


@pytest.mark.parametrize("away", [LEASE, 10 * LEASE, 3000.0])
async def test_an_outage_ages_the_other_layout_by_two_heartbeats_at_most(in_redis, later, clock, away):
    a, b = Reporter(in_redis, "a"), Reporter(later, "b")
    await settle(a, b, clock=clock)
    await a.say(wanted=6)
    await b.say()
    clock.now += away
    assert (await b.say(wanted=10)).granted == 4
    assert (await b.say(held=4, wanted=1)).granted == 0
    reply = await a.say(held=6, wanted=1, heartbeat=True)
    assert (reply.granted, reply.total, reply.elsewhere) == (0, 10, 4)
    await b.say(held=4)
    clock.now += away
    beats = 0
    while not (await b.say(held=4, wanted=1, heartbeat=True)).granted:
        clock.now += HEARTBEAT
        beats += 1
    assert beats == LEASE / HEARTBEAT - 2


async def test_a_goodbye_frees_the_slots_at_once(in_redis, later, clock):
    a, b = Reporter(in_redis, "a"), Reporter(later, "b")
    await settle(a, b, clock=clock)
    await a.say(wanted=10)
    await a.say(goodbye=True)
    assert (await b.say(wanted=10)).granted == 10


async def test_the_level_follows_what_all_hold(in_redis, later, clock):
    a, b = Reporter(in_redis, "a"), Reporter(later, "b")
    await settle(a, b, clock=clock)
    await a.say(wanted=9)
    await b.say(wanted=1)
    assert [(edge.level, edge.held) for edge in (await a.say(held=9)).edges] == [("full", 10)]


async def test_a_pause_and_a_limit_hold_for_both_and_are_restored_by_either(in_redis, later, clock, client):
    a, b = Reporter(in_redis, "a"), Reporter(later, "b")
    await settle(a, b, clock=clock)
    orders = Controls(limit=Order(5, "ann", 1.0), paused=Order(1, "ann", 1.0))
    assert await later.control("default", orders, 0)
    for worker in (a, b):
        reply = await worker.say(wanted=1)
        assert (reply.granted, reply.shortfall, reply.limit) == (0, Reason.PAUSED, 5)
    await a.say(controls=reply.controls)
    client.delete(in_redis._key("default", "controls"))
    await a.say()
    assert (await b.say(wanted=1)).shortfall is Reason.PAUSED


async def test_no_layout_ends_a_drain_of_workers_that_it_does_not_know(in_redis, later, clock):
    a, b = Reporter(in_redis, "a"), Reporter(later, "b")
    await settle(a, b, clock=clock)
    assert await in_redis.control("default", Controls(drains=(Drain("host:1:a", 5.0, "ann", 1.0),)), 0)
    (drain,) = (await a.say(draining=True)).controls.drains
    for _ in range(8):
        clock.now += HEARTBEAT
        await a.say(draining=True, heartbeat=True)
        await b.say(heartbeat=True)
    (reading,) = await later.read(("default",))
    assert reading.controls.drains == (drain,)
    await a.say(goodbye=True)
    clock.now += LEASE
    await b.say(heartbeat=True)
    (reading,) = await later.read(("default",))
    assert reading.controls.drains == ()


async def test_a_reader_sees_the_workers_of_its_layout_and_the_slots_of_all(in_redis, later, clock):
    a, b, c = Reporter(in_redis, "a"), Reporter(later, "b"), Reporter(later, "c")
    await settle(a, b, c, clock=clock)
    await a.say(wanted=3)
    await b.say(wanted=2)
    await c.say(draining=True)
    (reading,) = await in_redis.read(("default",))
    assert ([each.worker for each in reading.workers], reading.elsewhere) == (["host:1:a"], Elsewhere(2, 1))
    (reading,) = await later.read(("default",))
    assert (len(reading.workers), reading.elsewhere) == (2, Elsewhere(3, 1))
    clock.now += LEASE
    (reading,) = await later.read(("default",))
    assert reading.elsewhere == Elsewhere()


@pytest.mark.parametrize("text", ["nonsense", "5|1", "5|1|0", "9999999999999|1|{}", "5|1|{}0", "", "5" * 100])
async def test_what_no_layout_has_written_counts_nothing_and_is_written_anew(in_redis, later, clock, client, text):
    a, b = Reporter(in_redis, "a"), Reporter(later, "b")
    await settle(a, b, clock=clock)
    await a.say(wanted=4)
    client.hset(in_redis._key("default", "layouts"), "1", text.format(round(1000 * clock.now) + 1000))
    reply = await b.say()
    assert (reply.elsewhere, reply.healed) == (0, False)
    assert (await later.read(("default",)))[0].elsewhere == Elsewhere()
    await a.say(held=4)
    assert (await b.say()).elsewhere == 4


async def test_a_later_layout_may_say_more(in_redis, clock, client):
    a = Reporter(in_redis, "a")
    await settle(a, clock=clock)
    client.hset(in_redis._key("default", "layouts"), "7", f"4|1|{round(1000 * clock.now) + 1000}|more")
    assert (await a.say(wanted=10)).granted == 6
    (reading,) = await in_redis.read(("default",))
    assert reading.elsewhere == Elsewhere(4, 1)


async def test_the_layouts_live_as_long_as_the_pool(in_redis, clock, client):
    await Reporter(in_redis, "a").say()
    key = in_redis._key("default", "layouts")
    assert client.pttl(key) > 3_590_000
    assert client.hgetall(key) == {b"1": f"0|1|{round(1000 * (clock.now + LEASE))}".encode()}


async def test_both_live_through_the_loss_of_all_data(in_redis, later, clock, client):
    a, b = Reporter(in_redis, "a"), Reporter(later, "b")
    await settle(a, b, clock=clock)
    await asyncio.gather(a.say(wanted=6), b.say(wanted=4))
    for name in client.scan_iter(f"{in_redis._settings.prefix}:*"):
        client.delete(name)
    assert (await a.say(held=6, wanted=4, allowance=6)).granted == 0
    assert (await b.say(held=4, wanted=4, allowance=4)).granted == 0
    clock.now += 2 * HEARTBEAT
    for worker, held in ((a, 6), (b, 4)):
        reply = await worker.say(held=held, wanted=1, heartbeat=True)
        assert (reply.settling, reply.granted, reply.total) == (False, 0, 10)


async def test_a_record_with_fields_of_a_later_release_is_read(in_redis, clock, client):
    """The later release writes its own record; the others read it when they look at its lease."""
    later = ClockedRedisLedger(
        in_redis._settings, clock,
        {"records.text": "function(name, record) local parts = const.RECORD for place, field in ipairs(parts) do"
         " parts[place] = record[field] or (field == 'claimed' and '0' or '') end parts[#parts + 1] = 'more'"
         " local text = table.concat(parts, '|') return text .. codec.seal(name, text) end"},
    )  # fmt: skip
    a, b = Reporter(in_redis, "a"), Reporter(later, "b")
    await settle(a, b, clock=clock)
    await b.say(wanted=4, release="0.9.0")
    a.last = replace(a.last, release="0.1.0")
    reply = await a.say(heartbeat=True)
    assert (reply.healed, reply.total, reply.workers) == (False, 4, 2)
    (reading,) = await in_redis.read(("default",))
    assert {each.worker: (each.held, each.release) for each in reading.workers} == {
        "host:1:a": (0, "0.1.0"), "host:1:b": (4, "0.9.0"),
    }  # fmt: skip
    while reply.workers == 2:
        clock.now += HEARTBEAT
        reply = await a.say(heartbeat=True)
        assert not reply.healed
    assert reply.total == 0
    await later.aclose()

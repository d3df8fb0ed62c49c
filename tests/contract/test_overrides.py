"""What the contract of a ledger says of operators' controls and of the pool's level, for every ledger there is."""

import hashlib
from dataclasses import replace

import pytest
import redis

from channels_admission.core import levels
from channels_admission.core.counters import Reason
from channels_admission.core.levels import Edge, Level
from channels_admission.core.overrides import EVERY_WORKER, Controls, Drain, Order
from channels_admission.ledger.overrides import controls_of, text

from support.reports import HEARTBEAT, Reporter

EIGHTY = Controls(limit=Order(80, "ann", 1_790_000_000.25))


async def set_to(ledger, controls, pool="default"):
    (reading,) = await ledger.read((pool,))
    assert await ledger.control(pool, controls, reading.controls.version)
    (reading,) = await ledger.read((pool,))
    return reading.controls


async def settled(reporter, clock):
    await reporter.say()
    clock.now += 1.5 * HEARTBEAT
    return await reporter.say()


async def test_a_limit_holds_as_soon_as_it_is_set_for_workers_that_have_not_heard(worker, ledger, clock):
    a = worker("a")
    await settled(a, clock)
    await a.say(wanted=10)
    assert (await a.say(held=10, wanted=1)).granted == 0
    await set_to(ledger, EIGHTY)
    reply = await a.say(held=10, wanted=5)
    assert (reply.granted, reply.limit) == (5, 80)
    await set_to(ledger, Controls(limit=Order(12, "ann", 1.0)))
    reply = await a.say(held=15, wanted=1)
    assert (reply.granted, reply.total, reply.limit, reply.shortfall) == (0, 15, 12, Reason.FULL)
    await set_to(ledger, Controls())
    assert (await a.say(held=9, wanted=5)).granted == 1


async def test_a_pause_grants_nothing_and_says_why(worker, ledger):
    a = worker("a")
    await a.say(wanted=2)
    await set_to(ledger, Controls(paused=Order(1, "ann", 1.0)))
    reply = await a.say(held=2, wanted=3)
    assert (reply.granted, reply.shortfall, reply.total) == (0, Reason.PAUSED, 2)
    await set_to(ledger, Controls())
    assert (await a.say(held=2, wanted=3)).granted == 3


async def test_a_worker_hears_of_what_is_set_until_it_says_that_it_knows(worker, ledger):
    a = worker("a")
    assert (await a.say()).controls is None
    controls = await set_to(ledger, EIGHTY)
    assert controls.limit == EIGHTY.limit
    for _ in range(2):
        assert (await a.say()).controls == controls
    assert (await a.say(controls=controls)).controls is None
    assert (await a.say()).now > 1_700_000_000


async def test_only_the_version_in_force_is_replaced(worker, ledger):
    first = await set_to(ledger, EIGHTY)
    assert first.version > 0
    assert not await ledger.control("default", Controls(), 0)
    assert not await ledger.control("default", Controls(), first.version + 1)
    second = await set_to(ledger, Controls(dry_run=Order(0, "bob", 2.0)))
    assert (second.limit, second.dry_run) == (None, Order(0, "bob", 2.0))
    assert second.version > first.version


async def test_a_worker_brings_back_what_the_ledger_has_lost_and_never_what_is_older(worker, ledger):
    a = worker("a", limit=100)
    old = await set_to(ledger, EIGHTY)
    new = await set_to(ledger, Controls(limit=Order(7, "ann", 3.0)))
    assert (await a.say(wanted=9, controls=old)).granted == 7
    # Another worker knows of a change that this ledger does not.
    newest = Controls(new.version + 1, limit=Order(9, "bob", 4.0))
    reply = await a.say(held=7, wanted=9, controls=newest)
    assert (reply.granted, reply.limit, reply.controls) == (2, 9, None)
    (reading,) = await ledger.read(("default",))
    assert reading.controls == newest


async def test_drains_pass_through_as_they_were_set(worker, ledger):
    drains = (
        Drain(EVERY_WORKER, 60.0, "Zoë; x,y", 1.5),
        Drain("web-1", 2.5, "", 2.0),
        Drain("web-1:12:ab", 0.0, "b", 3.0),
    )
    controls = await set_to(ledger, Controls(drains=drains))
    assert controls.drains == tuple(replace(drain, version=0) for drain in drains)
    assert (await worker("a").say()).controls == controls


async def test_workers_that_drain_share_nothing(worker, ledger):
    a, b = worker("a"), worker("b")
    await a.say(wanted=4)
    assert (await b.say()).workers == 2
    assert (await a.say(held=4, draining=True)).workers == 1
    assert (await b.say()).workers == 1
    (reading,) = await ledger.read(("default",))
    assert {each.worker: each.draining for each in reading.workers} == {"host:1:a": True, "host:1:b": False}
    assert (await b.say(gone=("host:1:a",))).workers == 1
    assert (await b.say(draining=True)).workers == 0
    assert (await b.say(draining=False)).workers == 1


async def test_what_a_dry_run_counts_is_no_handshake(worker, ledger, clock):
    await worker("a").say(counters={"admitted": 3, "dry:full": 2, "drained": 5, "aged": 1})
    (reading,) = await ledger.read(("default",))
    assert sum(reading.seconds.values()) == 3


# The level


async def test_the_level_rises_at_its_threshold_and_falls_five_points_below(worker, ledger, clock):
    a = worker("a", limit=100)
    await settled(a, clock)
    seen = []
    for held in (69, 70, 66, 89, 90, 86, 100, 96, 94, 84, 66, 64):
        seen += [(held, edge.before, edge.level) for edge in (await a.say(held=held)).edges]
    assert seen == [
        (70, "calm", "warning"),
        (90, "warning", "critical"),
        (100, "critical", "full"),
        (94, "full", "critical"),
        (84, "critical", "warning"),
        (64, "warning", "calm"),
    ]
    (reading,) = await ledger.read(("default",))
    assert reading.level is Level.CALM


async def test_an_edge_is_told_to_the_worker_that_brought_it_about_and_to_no_other(worker, clock):
    a, b = worker("a", limit=100), worker("b", limit=100)
    await settled(a, clock)
    await b.say(held=30)
    assert (await a.say(held=40)).edges == (Edge(Level.CALM, Level.WARNING, 70, 100),)
    for _ in range(3):
        assert (await b.say(held=30)).edges == ()
        assert (await a.say(held=40)).edges == ()


async def test_an_edge_is_told_again_where_the_answer_was_lost(worker, clock):
    a, b = worker("a", limit=100), worker("b", limit=100)
    await settled(a, clock)
    version = a.last.version
    edge = Edge(Level.CALM, Level.WARNING, 70, 100)
    assert (await a.say(held=70)).edges == (edge,)
    assert (await b.say()).edges == ()
    assert (await a.say(held=70, version=version)).edges == (edge,)
    assert (await a.say(held=70)).edges == ()
    assert (await a.say(held=70, version=version)).edges == ()


@pytest.mark.parametrize("how", ["gone", "lapsed"])
async def test_another_tells_of_an_edge_whose_teller_is_no_more(worker, clock, how):
    a, b = worker("a", limit=100), worker("b", limit=100)
    await settled(a, clock)
    await b.say(held=70)
    version = a.last.version
    await a.say(held=5, version=version)
    await a.say(held=25)
    edges = [*(await b.say(held=70, gone=("host:1:a",) if how == "gone" else ())).edges]
    for _ in range(7):
        clock.now += 1
        edges += (await b.say(held=70, gone=())).edges
    assert [(edge.before, edge.level) for edge in edges] == [("warning", "critical"), ("critical", "warning")]
    assert (await b.say(held=70)).edges == ()


async def test_an_edge_of_a_goodbye_is_told_by_the_worker_that_reports_next(worker, clock):
    a, b = worker("a", limit=100), worker("b", limit=100)
    await settled(a, clock)
    await a.say(held=80)
    await b.say()
    assert (await a.say(goodbye=True)).edges == ()
    assert (await b.say()).edges == (Edge(Level.WARNING, Level.CALM, 0, 100),)
    assert (await b.say()).edges == ()


async def test_forty_crossings_in_a_minute_are_told_once_each_whatever_worker_sees_them(worker, clock):
    """Four workers; the load moves across 70 %, mostly within the band of five points and each tenth time beyond."""
    workers = [worker(str(number), limit=100) for number in range(4)]
    for each in workers:
        await settled(each, clock)
    told = []
    held = [17, 17, 17, 17]
    for crossing in range(40):
        low = 60 if crossing % 10 == 9 else 66
        for total in (71, low):
            clock.now += 0.75
            moving = workers[crossing % 4]
            held[crossing % 4] += total - sum(held)
            for number, each in enumerate((moving, *workers)):
                place = workers.index(each)
                assert number or each is moving
                told += [(crossing, edge.level) for edge in (await each.say(held=held[place])).edges]
    expected = [(crossing, level) for crossing in range(9, 40, 10) for level in ("calm",)]
    rises = [(crossing, "warning") for crossing in (0, 10, 20, 30)]
    assert told == sorted(rises + expected)


async def test_a_lowered_limit_is_an_edge(worker, ledger, clock):
    a = worker("a", limit=100)
    await settled(a, clock)
    await a.say(held=50)
    await set_to(ledger, Controls(limit=Order(50, "ann", 1.0)))
    assert (await a.say(held=50)).edges == (Edge(Level.CALM, Level.FULL, 50, 50),)


@pytest.mark.parametrize("before", Level)
async def test_the_level_is_that_of_the_rules(admission, worker, clock, ledger, before):
    a = worker("a", limit=40)
    await settled(a, clock)
    starts = {Level.CALM: 0, Level.WARNING: 30, Level.CRITICAL: 36, Level.FULL: 40}
    for held in range(43):
        await a.say(held=0)
        await a.say(held=starts[before])
        assert (await a.say(held=held)).level is levels.alert(held, 40, 0.7, before), held


# Redis alone


@pytest.fixture
def in_redis(in_redis, clock, redis_server):
    with redis.Redis.from_url(redis_server.url) as client:
        yield in_redis, clock, client


async def test_controls_do_not_expire_while_something_is_set(in_redis):
    ledger, _, client = in_redis
    a, key = Reporter(ledger, "a"), ledger._key("default", "controls")
    await a.say()
    assert 0 < client.pttl(key) <= 3_600_000
    await set_to(ledger, EIGHTY)
    await a.say()
    assert client.pttl(key) == -1
    assert client.pttl(ledger._key("default", "counts")) > 0
    reset = await set_to(ledger, Controls())
    assert 0 < client.pttl(key) <= 3_600_000
    reply = await a.say()
    assert reply.controls == reset
    assert not reset.is_set


async def test_controls_survive_a_flush_by_what_the_workers_know(in_redis):
    ledger, _, client = in_redis
    a, b = Reporter(ledger, "a", limit=100), Reporter(ledger, "b", limit=100)
    controls = await set_to(ledger, EIGHTY)
    reply = await a.say()
    client.delete(*client.keys(f"{ledger._settings.prefix}:*"))
    await a.say(controls=reply.controls)
    assert (await b.say()).controls == controls
    assert client.pttl(ledger._key("default", "controls")) == -1
    client.delete(ledger._key("default", "counts"))
    assert (await b.say()).controls == controls


async def test_what_is_set_after_a_loss_of_data_is_newer_than_what_the_workers_know(in_redis):
    ledger, _, client = in_redis
    a = Reporter(ledger, "a", limit=100)
    old = await set_to(ledger, EIGHTY)
    client.delete(*client.keys(f"{ledger._settings.prefix}:*"))
    new = await set_to(ledger, Controls(limit=Order(9, "bob", 5.0)))
    assert (await a.say(controls=old)).controls == new


async def test_a_level_survives_a_loss_of_data_and_is_told_of_when_it_is_another(in_redis):
    ledger, clock, client = in_redis
    a = Reporter(ledger, "a", limit=100)
    await settled(a, clock)
    reply = await a.say(held=75)
    client.delete(*client.keys(f"{ledger._settings.prefix}:*"))
    assert (await a.say(held=30, level=reply.level)).edges == ()
    assert (await settled(a, clock)).edges == (Edge(Level.WARNING, Level.CALM, 0, 100),)


@pytest.mark.parametrize(
    "strange",
    ["", "x", "-1;limit=5,1,a", "9" * 15 + ";limit=5,1,a", "9" * 16 + ";limit=5,1,a", "5;drain:*=0/1,1,a",
     "0;limit=5,1,a", "5;limit=99999999,1,a", "5;limit=5e3,1,a",
     "5;limit=,1,a", "5;paused=2,1,a", "5;dry_run=7,1,a", "5;drain:<b>=0/1,1,a", "5;limit=1", "5;" + "x" * 9000],
)  # fmt: skip
async def test_what_none_of_ours_can_have_written_sets_nothing(in_redis, strange):
    ledger, _, client = in_redis
    a = Reporter(ledger, "a", limit=100)
    seal = hashlib.sha1(strange.encode()).hexdigest()[:8]
    client.hset(ledger._key("default", "controls"), mapping={"set": strange, "seal": seal})
    (reading,) = await ledger.read(("default",))
    assert not reading.controls.is_set
    reply = await a.say(wanted=1)
    assert (reply.granted, reply.limit) == (1, 100)
    assert reply.controls is None or not reply.controls.is_set


def test_a_text_and_its_controls_are_the_same():
    controls = Controls(
        version=1_790_000_000_123,
        limit=Order(0, "a;b=c,ü/%", 1_790_000_000.123, 10.0),
        paused=Order(1, "x" * 40, 1.0),
        dry_run=Order(0, "", 2.0),
        drains=(Drain("*", 86_400.0, "me", 3.0, 12, 1_790_000_000_123),),
    )
    assert controls_of(text(controls)) == controls
    assert text(Controls()) == ""

"""Workers of one pool that have different settings: the strictest values are in force, in every ledger there is."""

from dataclasses import replace

import pytest

from channels_admission.core import agreement
from channels_admission.core.agreement import (
    SEVERAL,
    differences,
    fingerprint,
    numbers_of,
    shown,
    shown_differences,
    sites,
    strictest,
)
from channels_admission.core.protocol import Ask, Fair, Report, Terms
from channels_admission.core.quotas.shares import Bound, Class
from channels_admission.ledger.memory import MemoryLedger

from support.claimants import CLASSES, Claimant, ask, key
from support.reports import HEARTBEAT, LEASE, ClockedRedisLedger, Reporter

SLOW = {"LEASE": 60.0, "HEARTBEAT": 10.0}
REPORT = Report("host:1:a", 1, 0, 0, limit=50, version=0, allowance=0)


# The rules


def test_settings_are_a_short_text_of_named_numbers():
    report = replace(REPORT, warn_at=0.35, terms=Terms(rate=0.5, burst=2))
    text = agreement.text_of(report, 4.0, 0.5, 7)
    assert text == "limit=50,warn_at=0.35,lease=4000,heartbeat=500,rate=0.5,burst=2,site=7"
    assert numbers_of(text) == {"limit": 50, "warn_at": 0.35, "lease": 4000, "heartbeat": 500, "rate": 0.5, "burst": 2,
                                "site": 7}  # fmt: skip
    assert fingerprint(text) == fingerprint(text)
    assert fingerprint(text) != fingerprint(agreement.text_of(report, 4.0, 0.6, 7))
    classes = (Class("", 1.0), Class("guest", 0.25), Class("exempt", float("inf")))
    report = replace(REPORT, fair=Fair(classes, (), 0, 0))
    text = agreement.text_of(report, 4.0, 0.5, 7)
    assert text == "limit=50,warn_at=0.7,lease=4000,heartbeat=500,share:guest=0.25,site=7"


@pytest.mark.parametrize("text", ["", ";", "limit", "limit=", "limit=nan", "limit=1e9", "limit=-1", "limit=0x5", "=5",
                                  "limit=" + "9" * 10, "x" * 9999, "limit=5.", "LIMIT=5", "limit= 5"])  # fmt: skip
def test_what_is_no_number_is_left_out(text):
    assert numbers_of(text) == {}


def test_the_strictest_is_the_least_or_of_times_the_greatest():
    one = {"limit": 50, "warn_at": 0.7, "lease": 4000, "heartbeat": 500, "quota:user": 5}
    other = {"limit": 500, "warn_at": 0.3, "lease": 100_000, "heartbeat": 10_000, "rate": 2}
    assert strictest((one, other)) == {
        "limit": 50, "warn_at": 0.3, "lease": 100_000, "heartbeat": 10_000, "quota:user": 5, "rate": 2,
    }  # fmt: skip
    found = differences((one, other, one))
    assert found["limit"] == (50, 500)
    assert found["rate"] == (2, None)
    assert differences((one, one)) == {}
    assert shown("site", 482913) == "site 482913"
    assert shown("limit", 500) == "MAX_CONNECTIONS 500"
    assert shown("heartbeat", 500) == "HEARTBEAT 0.5 s"
    assert shown("quota:user", 5) == "QUOTAS user 5"
    assert shown("rate", None) == "CONNECT_RATE unset"
    assert (
        shown_differences({"heartbeat": (10_000, 500), "rate": (2, None)})
        == "HEARTBEAT 10 s and 0.5 s; CONNECT_RATE 2 and unset"
    )


def test_of_several_sites_none_is_in_force():
    one, other, unknown = {"site": 7}, {"site": 9}, {"limit": 50}
    assert strictest((one, one, unknown)) == {"site": 7, "limit": 50}
    assert strictest((one, other)) == strictest((one, {"site": SEVERAL})) == {"site": SEVERAL}
    assert sites((other, unknown, one, {"site": SEVERAL}, other)) == (7, 9)


# The contract


@pytest.fixture(params=["memory", "redis"])
async def open_ledger(request, admission, clock, redis_server):
    """Opens a ledger of the pool for workers with these settings."""
    opened = []

    def open_(site=7, **keys):
        keys = {"LEASE": LEASE, "HEARTBEAT": HEARTBEAT, **keys}
        if request.param == "memory":
            return MemoryLedger(replace(admission(**keys), site=site), clock, clock)
        settings = replace(admission(**keys, LEDGER=redis_server.url), site=site)
        opened.append(ClockedRedisLedger(settings, clock))
        return opened[-1]

    yield open_
    for ledger in opened:
        await ledger.aclose()


@pytest.fixture
async def pair(open_ledger, clock):
    """Two workers whose limits are 10 and 50, in a pool that has settled."""
    ledger = open_ledger()
    a, b = Reporter(ledger, "a"), Reporter(ledger, "b", limit=50, pid=2)
    await a.say()
    clock.now += 2 * HEARTBEAT
    await b.say()
    return a, b


async def test_the_strictest_limit_holds_for_all_while_two_are_about(pair):
    a, b = pair
    view = await b.say(wanted=30)
    assert (view.granted, view.limit, numbers_of(view.settings)["limit"]) == (10, 10, 10)
    view = await a.say(wanted=1)
    assert (view.granted, view.total, view.limit, view.settings) == (0, 10, 10, "")
    (reading,) = await b.ledger.read(("default",))
    assert reading.limit == 10
    sides = {each.worker: reading.settings[each.settings]["limit"] for each in reading.workers}
    assert sides == {"host:1:a": 10, "host:2:b": 50}


@pytest.mark.parametrize("limit", [10, 50])
async def test_each_worker_hears_of_another_site_and_the_limit_stays_the_strictest(open_ledger, clock, limit):
    a, b = Reporter(open_ledger(site=7), "a"), Reporter(open_ledger(site=9), "b", limit=limit, pid=2)
    await a.say()
    for _ in range(8):
        clock.now += HEARTBEAT
        for each in (b, a):
            view = await each.say(held=3)
            assert (view.limit, numbers_of(view.settings)["site"]) == (10, SEVERAL)
    (reading,) = await a.ledger.read(("default",))
    seen = {each.worker: reading.settings[each.settings]["site"] for each in reading.workers}
    assert seen == {"host:1:a": 7, "host:2:b": 9}
    await b.say(goodbye=True)
    clock.now += 1.5 * HEARTBEAT
    assert (await a.say()).settings == ""


async def test_settings_count_until_a_lease_after_they_were_last_heard(pair, clock):
    _, b = pair
    for _ in range(int(LEASE / HEARTBEAT) - 3):
        clock.now += HEARTBEAT
        assert (await b.say()).limit == 10
    clock.now += HEARTBEAT
    view = await b.say(wanted=30)
    assert (view.granted, view.limit, view.settings) == (30, 50, "")


async def test_settings_count_little_longer_than_a_heartbeat_after_the_last_goodbye(pair, clock):
    a, b = pair
    await a.say(goodbye=True)
    clock.now += 1.5 * HEARTBEAT
    assert (await b.say()).limit == 50


async def test_a_goodbye_of_one_of_two_with_the_same_settings_changes_nothing(pair, clock):
    a, b = pair
    c = Reporter(a.ledger, "c", pid=3)
    await c.say()
    await a.say(goodbye=True)
    for _ in range(4):
        clock.now += HEARTBEAT
        await c.say()
        assert (await b.say()).limit == 10


async def test_a_worker_whose_place_another_has_taken_binds_nobody(pair, clock):
    a, b = pair
    await a.say(wanted=3)
    await a.say(held=3, retired=True)
    clock.now += 1.5 * HEARTBEAT
    assert (await b.say(wanted=30)).granted == 30
    for _ in range(3):
        clock.now += HEARTBEAT
        view = await a.say(held=3, retired=True)
        assert (view.limit, view.edges) == (50, ())
        assert (await b.say(held=30)).limit == 50


@pytest.mark.parametrize("churn", [0, 1])
async def test_a_level_that_does_not_change_is_told_once(pair, clock, churn):
    a, b = pair
    edges = []
    for step in range(40):
        clock.now += HEARTBEAT / 4
        edges += (await a.say(held=5)).edges
        edges += (await b.say(held=60 + churn * (step % 2))).edges
    assert [(edge.before, edge.level, edge.limit) for edge in edges] == [("calm", "full", 10)]


async def test_the_strictest_threshold_warns(open_ledger, clock):
    ledger = open_ledger()
    a, b = Reporter(ledger, "a", limit=100), Reporter(ledger, "b", limit=100, pid=2)
    edges = []
    for step in range(24):
        clock.now += HEARTBEAT / 2
        edges += (await a.say(held=15, warn_at=0.3)).edges
        edges += (await b.say(held=10 if step % 8 < 4 else 16, warn_at=0.7)).edges
    # 15 + 16 is above 0.3; 15 + 10 is not 5 points below it.
    assert [(edge.before, edge.level) for edge in edges] == [("calm", "warning")]
    edges = [*(await b.say(held=9)).edges, *(await a.say()).edges, *(await b.say(held=9)).edges]
    assert [(edge.before, edge.level) for edge in edges] == [("warning", "calm")]


async def test_the_strictest_rate_holds(pair, clock):
    a, b = pair
    clock.now += 10
    await a.say(limit=50, terms=Terms(rate=2.0, burst=1))
    await b.say(terms=Terms())
    clock.now += 10
    await a.say()
    granted = [(await b.say(held=0, wanted=10)).granted]
    for _ in range(4):
        clock.now += 0.5
        granted.append((await b.say(held=sum(granted), wanted=10)).granted)
    assert (granted[0], max(granted)) == (1, 1)


async def test_the_strictest_attempt_rate_holds(open_ledger, clock):
    ledger = open_ledger()
    quotas = tuple((Bound("user", 50, rate=rate, burst=burst),) for rate, burst in ((2.0, 10), (1.0, 3)))
    a, b = (Claimant(ledger, each, limit=100, quotas=mine) for each, mine in zip("ab", quotas, strict=True))
    await a.claim()
    clock.now += 2 * HEARTBEAT
    await b.claim()
    tries = Ask(tries=(key("kim"),))
    assert (await a.claim(*[tries] * 5)).verdicts == ("",) * 3 + ("attempts:user",) * 2
    await b.claim(goodbye=True)
    clock.now += 1.5 * HEARTBEAT
    assert (await a.claim(*[Ask(tries=(key("lee"),))] * 11)).verdicts == ("",) * 10 + ("attempts:user",)


@pytest.mark.parametrize("theirs", [Bound("user", 50), Bound("address", 5)])
async def test_a_worker_whose_place_another_has_taken_reports_on_where_its_quotas_are_gone(open_ledger, clock, theirs):
    ledger, terms = open_ledger(), Terms(rate=5.0, burst=5)
    a, b = (
        Claimant(ledger, each, limit=100, quotas=(mine,))
        for each, mine in (("a", Bound("user", 50, rate=2.0, burst=10)), ("b", theirs))
    )
    await a.claim(terms=terms)
    clock.now += 2 * HEARTBEAT
    await b.claim()
    await a.claim(Ask((key("kim"),)), terms=terms)
    for _ in range(4):
        clock.now += HEARTBEAT
        await b.claim()
        assert (await a.claim(Ask((key("kim"),)), terms=terms, retired=True)).verdicts == ("",)
    a.held = 0
    assert (await a.claim(terms=terms, goodbye=True)).total == 0


async def test_the_strictest_quotas_and_shares_hold(open_ledger, clock):
    ledger = open_ledger()
    a, b = Claimant(ledger, "a", limit=100), Reporter(ledger, "b", limit=100, pid=2)
    await a.claim()
    clock.now += 2 * HEARTBEAT
    classes = tuple(replace(each, share=0.1) if each.name == "anonymous" else each for each in CLASSES)
    quotas = (Bound("user", 2), Bound("address", 50), Bound("pending", None, 0.04))
    await b.say(fair=Fair(classes, quotas, heard=0, parts=1))
    assert (await a.claim(*[ask("kim")] * 4)).verdicts == ("", "", "quota:user", "quota:user")
    assert (await a.claim(*[ask(None, "here")] * 6)).verdicts == ("",) * 5 + ("quota:address",)
    assert (await a.claim(*[ask(pending=True)] * 5)).verdicts == ("",) * 4 + ("quota:pending",)
    assert (await a.claim(ask(group="anonymous"), ask(group="member"))).verdicts == ("share", "")
    await b.say(held=0, goodbye=True)
    clock.now += 1.5 * HEARTBEAT
    assert (await a.claim(ask("kim"), ask(pending=True), ask(group="anonymous"))).verdicts == ("",) * 3


async def test_however_many_settings_there_are_the_strictest_holds(open_ledger, clock):
    ledger = open_ledger()
    many = [Reporter(ledger, f"{number:x}", limit=10 + number, pid=number + 1) for number in range(14)]
    for round_ in range(6):
        clock.now += HEARTBEAT
        for each in many:
            view = await each.say()
            assert view.limit == 10 or round_ == 0


# After a loss of data, which memory has in tests only


@pytest.fixture
def fast_and_slow(open_ledger, monkeypatch):
    monkeypatch.setattr(MemoryLedger, "volatile", True)
    return Reporter(open_ledger(), "a", limit=50), Reporter(open_ledger(**SLOW), "b", limit=50, pid=2)


async def forget(ledger):
    """Lose all data."""
    if isinstance(ledger, MemoryLedger):
        ledger._pools.clear()
    else:
        await ledger._redis.delete(*[name async for name in ledger._redis.scan_iter(f"{ledger._settings.prefix}:*")])


async def test_the_settling_time_covers_the_slowest_heartbeat_about(fast_and_slow, clock):
    fast, slow = fast_and_slow
    clock.now = 1_700_000_001.0  # the settling time then ends with a bucket of the line: no ticket is expected before
    await slow.say()
    clock.now += 20
    await slow.say(wanted=40)
    view = await fast.say()
    assert numbers_of(view.settings)["heartbeat"] == 10_000
    await forget(fast.ledger)
    granted = 0
    for _ in range(14):
        view = await fast.say(held=granted, wanted=60, allowance=0, settings=view.settings)
        granted += view.granted
        assert (view.granted, view.settling) == (0, True)
        clock.now += HEARTBEAT
    await slow.say(held=40)
    clock.now += HEARTBEAT
    view = await fast.say(held=0, wanted=60, settings=view.settings)
    assert (view.settling, view.granted, view.total) == (False, 10, 50)


async def test_a_slower_heartbeat_heard_later_extends_the_settling_time(fast_and_slow, clock):
    fast, slow = fast_and_slow
    await fast.say()
    clock.now += HEARTBEAT
    await slow.say()
    for _ in range(14):
        clock.now += HEARTBEAT
        assert (await fast.say(wanted=1, allowance=0)).settling
    for _ in range(2):
        clock.now += HEARTBEAT
        await slow.say()
        view = await fast.say()
    assert not view.settling


async def test_a_fast_worker_outlives_an_outage_that_a_slow_one_ends(fast_and_slow, clock):
    fast, slow = fast_and_slow
    await fast.say()
    await slow.say()
    clock.now += 600
    assert (await slow.say()).workers == 2
    assert not (await fast.say()).lapsed


# Redis alone


@pytest.mark.parametrize(
    "stored",
    ["", "x", "9" * 99, "1|2|3;", ";" * 99, "x" * 20_000, "99999999999999|ffffffff|limit=1;",
     "99999999999999|da39a3ee|;"],
)  # fmt: skip
async def test_damaged_settings_are_dropped_and_heal(in_redis, clock, stored):
    fast = Reporter(in_redis, "a", limit=50)
    await fast.say()
    clock.now += 2 * HEARTBEAT
    await fast.say()
    await in_redis._redis.hset(in_redis._key("default", "counts"), "#settings", stored)
    (reading,) = await fast.ledger.read(("default",))
    assert reading.settings == {}
    assert (await fast.say()).limit == 50
    clock.now += 2 * HEARTBEAT
    view = await fast.say(wanted=60)
    assert (view.granted, view.limit, view.settings) == (50, 50, "")

"""One suite that every ledger passes: the contract of ledger/base.py, line by line."""

import asyncio
import random
from dataclasses import astuple, replace

import pytest

from channels_admission.conf import MAX_LIMIT
from channels_admission.core.counters import LOST, NO_HANDSHAKES, Reason
from channels_admission.core.herd.line import ASSUMED
from channels_admission.core.herd.rate import PROBING, SCHEDULED, Pace, Situation
from channels_admission.core.levels import scarce
from channels_admission.core.overrides import Controls, Order
from channels_admission.core.protocol import Neighbour, Terms
from channels_admission.core.readings import NO_WORK, Footprint, HistoryBucket, Load, Past, Usage, Work
from channels_admission.ledger.base import (
    COUNTER_BYTES,
    COUNTERS_BYTES,
    COUNTERS_KEPT,
    GONE_KEPT,
    LATELY,
    LONGEST_BUCKET,
    MINUTES,
    SECONDS,
    SPREAD,
    OutOfOrder,
)

from support.effort import some_of
from support.reports import HEARTBEAT, HOST, LEASE, Reporter


async def test_grants_up_to_the_limit_and_no_further(worker):
    a, b = worker("a"), worker("b")
    assert (await a.say(wanted=7)).granted == 7
    reply = await b.say(wanted=7)
    assert (reply.granted, reply.total, reply.limit, reply.workers) == (3, 10, 10, 2)
    assert (await a.say(held=7, wanted=1)).granted == 0


async def test_counts_what_the_latest_report_held(worker):
    a, b = worker("a"), worker("b")
    await a.say(wanted=10)
    assert (await a.say(held=4)).total == 4
    assert (await b.say(wanted=10)).granted == 6


async def test_a_limit_lowered_below_the_total_grants_nothing_until_it_is_under_again(worker):
    a = worker("a")
    await a.say(wanted=10)
    lowered = {"limit": 5}
    reply = await a.say(held=10, wanted=2, **lowered)
    assert (reply.granted, reply.total, reply.limit) == (0, 10, 5)
    assert (await a.say(held=5, wanted=2)).granted == 0
    assert (await a.say(held=4, wanted=2)).granted == 1


async def test_a_report_repeated_or_overtaken_changes_nothing(worker):
    a = worker("a")
    first = await a.say(wanted=3)
    with pytest.raises(OutOfOrder):
        await a.repeat()
    await a.say(held=1)
    with pytest.raises(OutOfOrder):
        await a.ledger.reconcile("default", replace(a.last, seq=1, held=9))
    assert first.total == 3
    assert (await a.say(held=1)).total == 1


async def test_a_silent_worker_is_forgotten_after_its_lease_and_not_before(worker, clock):
    a, b = worker("a"), worker("b")
    await a.say(wanted=4)
    for _ in range(5):
        clock.now += 1
        assert (await b.say()).total == 4
    clock.now += 0.9
    assert (await b.say()).total == 4
    clock.now += 0.1
    reply = await b.say()
    assert (reply.total, reply.workers) == (0, 1)


async def test_a_worker_that_returns_after_its_lease_is_told(worker, clock):
    a, b = worker("a"), worker("b")
    await a.say(wanted=4)
    for _ in range(7):
        clock.now += 1
        await b.say(held=0)
    assert (await b.say(wanted=8)).granted == 8
    reply = await a.say(held=4, wanted=2)
    assert (reply.lapsed, reply.granted, reply.total) == (True, 0, 12)
    assert (await a.say(held=4)).lapsed is False


async def test_a_first_report_is_not_a_lapse(worker):
    assert (await worker("a").say()).lapsed is False


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
async def test_a_clock_jump_forgets_nobody_and_keeps_nobody(worker, clock, jump):
    a, b, dead = worker("a"), worker("b"), worker("c")
    await dead.say(wanted=1)
    await a.say(wanted=4)
    clock.now += jump
    assert (await b.say(wanted=9)).granted == 5
    held_b = 5
    for _ in range(6):
        clock.now += 1
        await a.say(held=4)
        reply = await b.say(held=held_b)
    assert (reply.total, reply.workers) == (9, 2)


async def test_an_outage_longer_than_the_lease_forgets_nobody(worker, clock):
    a, b = worker("a"), worker("b")
    await a.say(wanted=4)
    await b.say(wanted=4)
    clock.now += 10 * LEASE
    assert (await b.say(held=4, wanted=9)).granted == 2
    assert (await a.say(held=4)).lapsed is False


async def test_reaping_is_bounded_per_call_and_complete_after_a_few(worker, clock):
    for number in range(250):
        await worker(f"{number:x}", limit=1000).say(wanted=1)
    last = worker("fff", limit=1000)
    for _ in range(6):
        clock.now += 1
        reply = await last.say()
    totals = [reply.total]
    while totals[-1]:
        totals.append((await last.say()).total)
    assert totals == [150, 50, 0]


async def test_one_dead_worker_of_many_is_forgotten_within_a_call_for_each(worker, clock):
    dead, *others = [worker(f"{number:x}", limit=1000) for number in range(50)]
    await dead.say(wanted=1)
    for other in others:
        await other.say(wanted=1)
    for _ in range(5):
        clock.now += 1
        for other in others:
            await other.say(held=1)
    clock.now += 1
    totals = [(await other.say(held=1)).total for other in others]
    assert (totals[-1], totals) == (49, sorted(totals, reverse=True))
    assert (await others[0].say(held=1)).workers == 49


async def test_goodbye_with_nothing_held_is_at_once(worker):
    a, b = worker("a"), worker("b")
    await a.say(wanted=4)
    await b.say()
    reply = await a.say(held=0, goodbye=True)
    assert (reply.total, reply.workers) == (0, 1)
    assert (await b.say()).workers == 1


async def test_goodbye_with_slots_held_keeps_them_until_the_lease_ends(worker):
    a, b = worker("a"), worker("b")
    await a.say(wanted=4)
    await a.say(held=4, goodbye=True)
    assert (await b.say()).total == 4


async def test_goodbye_of_a_worker_never_seen_leaves_nothing(worker):
    a, b = worker("a"), worker("b")
    assert (await a.say(goodbye=True)).workers == 0
    assert (await b.say()).workers == 1


async def test_neighbours_are_the_other_workers_of_the_same_host(worker):
    a, b, other = worker("a", pid=11), worker("b", pid=12), worker("c", host="bbbbbbbbbbbb")
    await b.say()
    await other.say()
    assert (await a.say()).neighbours == ()
    assert (await a.say(heartbeat=True)).neighbours == (Neighbour("host:12:b", 7),)


async def test_a_neighbour_reported_gone_is_forgotten_at_once(worker):
    a, b = worker("a"), worker("b")
    await b.say(wanted=6)
    reply = await a.say(gone=("host:1:b",))
    assert (reply.total, reply.workers) == (0, 1)
    assert (await a.say(heartbeat=True)).neighbours == ()


async def test_workers_that_are_forgotten_without_a_goodbye_are_counted_once(worker, clock, ledger):
    async def lost() -> int:
        return (await ledger.read(("default",)))[0].counters.get(LOST, 0)

    a, gone, silent, polite = (worker(name) for name in "abcd")
    for each in (gone, silent, polite):
        await each.say(wanted=1)
    await polite.say(goodbye=True)
    assert await lost() == 0
    for _ in range(2):
        await a.say(gone=("host:1:b", "host:1:d"))
        assert await lost() == 1
    for _ in range(3):
        clock.now += LEASE / 2
        await a.say()
    assert await lost() == 2


async def test_a_worker_cannot_report_itself_gone(worker):
    a = worker("a")
    assert (await a.say(held=2, gone=("host:1:a",))).total == 2


async def test_a_worker_that_was_reported_gone_by_mistake_heals_itself(worker):
    a, b = worker("a"), worker("b")
    await b.say(wanted=6)
    await a.say(gone=("host:1:b",))
    reply = await b.say(held=6)
    assert (reply.total, reply.workers, reply.lapsed) == (6, 2, True)


async def test_counters_add_up_each_event_once(worker, clock, ledger):
    a, b = worker("a"), worker("b")
    await a.say(counters={"admitted": 5, "full": 2})
    await a.say(counters={"admitted": 6, "full": 2}, acknowledged={"admitted": 5, "full": 2})
    await b.say(counters={"admitted": 1})
    (reading,) = await ledger.read(("default",))
    assert reading.counters == {"admitted": 7, "full": 2}
    for _ in range(7):
        clock.now += 1
        await b.say(counters={"admitted": 1}, acknowledged={"admitted": 1})
    await a.say(counters={"admitted": 8, "full": 3}, acknowledged={"admitted": 6, "full": 2})
    (reading,) = await ledger.read(("default",))
    assert reading.counters == {"admitted": 9, "full": 3, LOST: 1}


async def test_the_time_of_the_latest_incident_of_each_kind_is_kept(worker, clock, ledger):
    a, b = worker("a"), worker("b")
    events = {"admitted": 5, "full": 2, "dry:unaccepted": 3, "layer.failed": 3, "shed": 1, "fault:OSError": 1}
    await a.say(counters=events)
    began = int(clock.now)
    clock.now += 2
    heard, events = events, {**events, "full": 9, "layer.failed": 4, "fault:KeyError": 1}
    await a.say(counters=events, acknowledged=heard)
    clock.now += 2
    await a.say(counters=events, acknowledged=events)
    await b.say(counters={"released": 1})
    (reading,) = await ledger.read(("default",))
    assert reading.latest == {"shed": began, "layer.failed": began + 2, "fault:": began + 2}
    assert {name for name in reading.counters if ":" in name} == {"dry:unaccepted", "fault:OSError", "fault:KeyError"}


async def test_the_last_workers_without_a_goodbye_are_named(worker, clock, ledger):
    alive = worker("a")
    await alive.say()
    for place in range(GONE_KEPT + 2):
        await worker(f"{place:x}", pid=100 + place).say()
        clock.now += 1
        await alive.say(gone=(f"host:{100 + place}:{place:x}",))
    polite = worker("f", pid=9)
    await polite.say()
    await polite.say(goodbye=True)
    (reading,) = await ledger.read(("default",))
    last = int(clock.now)
    assert list(reading.gone.items()) == [(f"host:{106 - age}", last - age) for age in range(GONE_KEPT)]
    assert (reading.counters, reading.latest) == ({LOST: GONE_KEPT + 2}, {LOST: last})


async def seconds(ledger, pool: str = "default") -> dict[int, int]:
    (reading,) = await ledger.read((pool,))
    return dict(reading.seconds)


async def test_names_of_counters_are_bounded(worker, ledger):
    a, long = worker("a"), "x" * COUNTER_BYTES
    names = [f"name{number}" for number in range(COUNTERS_KEPT + 9)]
    await a.say(counters=dict.fromkeys([long, *names[:-9]], 1))
    await a.say(counters=dict.fromkeys([long, *names], 3))
    assert (await ledger.read(("default",)))[0].counters == dict.fromkeys(names[:-9], 3)
    b, far = worker("b", pool="other"), {f"x{number:062}": 5 for number in range(COUNTERS_BYTES // 66 + 1)}
    await b.say(counters=far)
    assert (await ledger.read(("other",)))[0].counters == {}
    await b.say(counters={"full": 2})
    assert (await ledger.read(("other",)))[0].counters == {"full": 2}


async def test_handshakes_add_up_in_the_second_in_which_the_report_came_each_once(worker, clock, ledger):
    a, b = worker("a"), worker("b")
    clock.now = start = 10.0 + int(clock.now)
    await a.say(counters={"admitted": 5, "full": 2})
    clock.now += 0.9
    others = dict.fromkeys(NO_HANDSHAKES, 4)
    await b.say(counters={"admitted": 1, **others})
    with pytest.raises(OutOfOrder):
        await b.repeat()
    assert await seconds(ledger) == {start: 8}
    clock.now += 0.2
    await b.say(counters={"admitted": 1, **others, "released": 9})
    assert await seconds(ledger) == {start: 8}
    await b.say(counters={"admitted": 1, "lag": 850}, acknowledged={"admitted": 1})
    assert await seconds(ledger) == {start: 8, start + 1: 850}


async def test_what_a_heartbeat_or_an_outage_held_back_is_spread_over_the_seconds_since_the_report_before(
    worker, clock, ledger
):
    a, b = worker("a"), worker("b")
    clock.now = start = 10.5 + int(clock.now)
    await a.say(counters={"lag": 1})
    await b.say()
    clock.now += 3
    await a.say(counters={"lag": 12})
    begun = int(start)
    assert await seconds(ledger) == {begun: 1, begun + 1: 3, begun + 2: 4, begun + 3: 4}
    await b.say(counters={"admitted": 2})
    assert await seconds(ledger) == {begun: 1, begun + 1: 3, begun + 2: 5, begun + 3: 5}
    clock.now += 2 * SECONDS
    await a.say(counters={"lag": 12 + SPREAD})
    assert sorted((await seconds(ledger)).values()) == [1] * SPREAD


async def test_handshakes_of_a_new_worker_are_spread_over_its_life(worker, clock, ledger):
    clock.now = start = 10.5 + int(clock.now)
    await worker("a").say(counters={"ledger": 4}, age=2.0)
    assert await seconds(ledger) == {int(start) - 1: 2, int(start): 2}


async def test_handshakes_of_a_worker_that_was_forgotten_have_no_second(worker, clock, ledger):
    a, b = worker("a"), worker("b")
    clock.now = start = 10.0 + int(clock.now)
    await a.say(counters={"admitted": 5})
    await b.say(gone=("host:1:a",))
    await a.say(counters={"admitted": 7}, acknowledged={"admitted": 5})
    assert await seconds(ledger) == {start: 5}
    await a.say(counters={"admitted": 8}, acknowledged={"admitted": 7})
    assert await seconds(ledger) == {start: 6}


async def test_a_loss_of_data_is_no_herd(worker, clock, ledger):
    a = worker("a")
    clock.now = start = 10.0 + int(clock.now)
    # The ledger is empty, and the worker has told of five hundred before it was.
    await a.say(counters={"admitted": 503}, acknowledged={"admitted": 500}, version=9)
    assert await seconds(ledger) == {}
    await a.say(counters={"admitted": 507})
    assert await seconds(ledger) == {start: 4}


async def test_a_reading_has_the_handshakes_of_the_last_five_minutes_and_no_more(worker, clock, ledger):
    a = worker("a")
    clock.now = start = 10.0 + int(clock.now)
    for number in range(LATELY + 50):
        await a.say(counters={"admitted": number + 1})
        clock.now += 1
    clock.now -= 1
    await a.say(counters={"admitted": LATELY + 50})
    kept = await seconds(ledger)
    assert kept == dict.fromkeys(range(int(start) + 50, int(start) + 50 + LATELY), 1)
    clock.now += LATELY - 1
    await a.say(counters={"admitted": LATELY + 50})
    assert await seconds(ledger) == {start + 49 + LATELY: 1}
    clock.now += 1
    await a.say(counters={"admitted": LATELY + 57})
    assert await seconds(ledger) == {start + 49 + 2 * LATELY: 7}


def on_the_minute(clock) -> int:
    """Let a minute begin, and return the second."""
    clock.now = 60.0 * (int(clock.now) // 60 + 2)
    return int(clock.now)


async def test_a_bucket_is_the_most_held_the_last_limit_and_what_was_decided_by_reason(worker, clock, ledger):
    a, b = worker("a", limit=20), worker("b", limit=20)
    start = on_the_minute(clock)
    await a.say(wanted=7, counters={"lag": 2})
    await b.say(wanted=9, counters={"admitted": 1, "rate": 4, "released": 1, "shed": 2})
    await a.say(held=1, limit=15, counters={"admitted": 7, "lag": 3})
    past = await ledger.past("default")
    assert past.now == start
    assert past.seconds == (HistoryBucket(start, 16, 15, 8, {"lag": 3, "rate": 4}),)
    assert past.minutes == (HistoryBucket(start // 60, 16, 15, 8, {"lag": 3, "rate": 4}),)
    assert await ledger.past("default", minutes=False) == replace(past, minutes=())
    clock.now += 1
    await b.say(held=2, limit=15)
    past = await ledger.past("default")
    assert past.seconds[1:] == (HistoryBucket(start + 1, 3, 15, 0, {}),)
    assert past.minutes == (HistoryBucket(start // 60, 16, 15, 8, {"lag": 3, "rate": 4}),)
    clock.now += 60
    await b.say(held=2, limit=15)
    past = await ledger.past("default")
    assert past.minutes[1:] == (HistoryBucket(start // 60 + 1, 3, 15, 0, {}),)


async def test_what_is_told_late_is_spread_over_both_minutes_and_leaves_unknown_what_was_held(worker, clock, ledger):
    a = worker("a")
    start = on_the_minute(clock)
    clock.now = start - 2.0
    await a.say()
    clock.now = start + 1.0
    await a.say(held=3, counters={"admitted": 3, "full": 4})
    past = await ledger.past("default")
    assert past.seconds == (
        HistoryBucket(start - 2, 0, 10, 0, {}),
        HistoryBucket(start - 1, None, None, 1, {"full": 1}),
        HistoryBucket(start, None, None, 1, {"full": 1}),
        HistoryBucket(start + 1, 3, 10, 1, {"full": 2}),
    )
    assert past.minutes == (
        HistoryBucket(start // 60 - 1, 0, 10, 1, {"full": 1}),
        HistoryBucket(start // 60, 3, 10, 2, {"full": 3}),
    )


async def test_the_past_is_remembered_for_as_long_as_it_says_and_no_longer(worker, clock, ledger):
    a = worker("a")
    start = on_the_minute(clock)
    await a.say(counters={"full": 1})
    for steps, expected in ((SECONDS - 1, 1), (1, 0)):
        clock.now += steps
        await a.say(counters={"full": 1})
        assert [each.at for each in (await ledger.past("default")).seconds].count(start) == expected
    for ends, expected in ((0, 1), (60, 0)):
        clock.now = start + 60.0 * (MINUTES - 1) + ends
        await a.say(counters={"full": 1})
        assert [each.at for each in (await ledger.past("default")).minutes].count(start // 60) == expected


async def test_the_rarest_reasons_share_a_name_where_a_bucket_has_no_room_and_none_is_lost(worker, clock, ledger):
    a, b = worker("a"), worker("b")
    start = on_the_minute(clock)
    many = {f"quota:{'customer' * 3}{number}": 10 + number for number in range(40)}
    await a.say(counters={"full": 500, "lag": 400, "admitted": 9, **many})
    await b.say(counters={"other": 7, "full": 1, "m" * 64: 1000, "rate": 1})
    (bucket,) = (await ledger.past("default")).minutes
    assert (bucket.at, bucket.admitted) == (start // 60, 9)
    assert bucket.refused == {"full": 501, "lag": 400, "rate": 1, "other": sum(many.values()) + 1007}
    (told,) = (await ledger.read(("default",)))[0].seconds.values()
    assert told == bucket.handshakes


async def test_the_refusals_of_the_last_five_minutes_by_reason_and_the_latest_of_them(worker, clock, ledger):
    a, start = worker("a"), on_the_minute(clock)
    await a.say(counters={"admitted": 2})
    (reading,) = await ledger.read(("default",))
    assert (reading.refused, reading.refused_at) == ({}, None)
    clock.now += 10
    await a.say(counters={"admitted": 2, "full": 1})
    clock.now += 10
    await a.say(counters={"admitted": 3, "full": 1, "lag": 10})
    clock.now += 10
    await a.say(counters={"admitted": 4, "full": 1, "lag": 10})
    (reading,) = await ledger.read(("default",))
    assert (reading.refused, reading.refused_at) == ({"full": 1, "lag": 10}, start + 20)
    clock.now += LATELY - 15
    (reading,) = await ledger.read(("default",))
    assert (reading.refused, reading.refused_at) == ({"lag": 5}, start + 20)


async def test_looking_at_the_past_changes_nothing(worker, clock, ledger):
    a = worker("a")
    reply = await a.say(wanted=3)
    assert await ledger.past("default") == await ledger.past("default")
    assert await ledger.past("nobody") == Past(int(clock.now))
    assert (await a.say(held=3)).version == reply.version + 1


async def test_pools_have_seconds_of_their_own(ledger, clock):
    clock.now = start = 10.0 + int(clock.now)
    await Reporter(ledger, "a", pool="chat").say(counters={"full": 3})
    assert await seconds(ledger, "chat") == {start: 3}
    assert await seconds(ledger) == {}


async def test_every_report_leaves_all_keys_of_its_pool(in_redis, clock):
    parts = ("counts", "leases", f"host:{HOST}", "seconds", "controls", "minutes")
    keys = [in_redis._key("default", part) for part in parts]
    a = Reporter(in_redis, "a")
    await a.say()
    assert await in_redis._redis.exists(*keys) == len(keys)
    left = await in_redis._redis.pttl(keys[0])
    assert all([0 < await in_redis._redis.pttl(key) <= left for key in keys])
    for key in keys:
        await in_redis._redis.delete(key)
        await a.say()
        assert await in_redis._redis.exists(*keys) == len(keys)


async def test_the_past_outlives_counts_that_were_lost(in_redis, clock):
    a = Reporter(in_redis, "a")
    start = on_the_minute(clock)
    await a.say(counters={"full": 6})
    await in_redis._redis.delete(in_redis._key("default", "counts"))
    await a.say(counters={"full": 7}, acknowledged={"full": 6})
    assert (await in_redis.past("default")).minutes == (HistoryBucket(start // 60, 0, 10, 0, {"full": 6}),)


@pytest.mark.parametrize("reasons", [
    {"full": 98_765, "rate": 45_678, "lag": 1_234, "quota:address": 5_678, "crowd": 12},
    {f"quota:customer-{number}-of-those-who-come-in-great-numbers": 10**9 + number for number in range(9)},
], ids=["a busy site", "many long names"])  # fmt: skip
async def test_a_day_takes_at_most_200_kilobytes_and_a_quarter_of_an_hour_less(in_redis, clock, reasons):
    a = Reporter(in_redis, "a", limit=10_000_000)
    start = on_the_minute(clock)
    counters = dict.fromkeys(["admitted", *reasons], 0)
    keys = [in_redis._key("default", part) for part in ("minutes", "seconds")]
    for step, count, size in ((60, MINUTES, MINUTES), (1, SECONDS + 7, SECONDS)):
        for number in range(count):
            clock.now += step
            counters = {name: counters[name] + {"admitted": 123_456, **reasons}[name] + number for name in counters}
            await a.say(held=9_000_000 + number, counters=counters)
        assert await in_redis._redis.hlen(keys[0] if step == 60 else keys[1]) == size
    assert clock.now > start
    sizes = [await in_redis._redis.memory_usage(key, samples=0) for key in keys]
    assert max(sizes) == sizes[0] <= 200_000
    for key in keys:
        assert max(map(len, await in_redis._redis.hvals(key))) <= LONGEST_BUCKET


async def test_what_no_ledger_can_have_written_is_no_past(in_redis, clock):
    a = Reporter(in_redis, "a")
    start = on_the_minute(clock)
    await a.say(counters={"full": 6})
    key, seconds_key = (in_redis._key("default", part) for part in ("minutes", "seconds"))
    (place,) = await in_redis._redis.hkeys(key)
    good = (HistoryBucket(start // 60, 0, 10, 0, {"full": 6}),)
    alien = {
        "a": "", "b": "\xff", "c": "1|2|3", "d": f"{start // 60 + 1}|0|10|0|", "e": f"{start // 60}|0|-10|0|",
        "f": f"{start // 60}|0|10|0|{'x' * 64}=1,{'y' * 64}=2", "g": f"{start // 60 - MINUTES}|1|1|1|",
    }  # fmt: skip
    await in_redis._redis.hset(key, mapping=alien)
    assert (await in_redis.past("default")).minutes == good
    await in_redis._redis.hset(key, place, f"{start // 60}|99999999|99999999|0|<b>=3,full=4")
    assert (await in_redis.past("default")).minutes == (
        HistoryBucket(start // 60, MAX_LIMIT, MAX_LIMIT, 0, {"full": 4}),
    )
    for strange in ("?", f"{start // 60}|{'9' * 60}|1|{'9' * 60}|full={'9' * 60}"):
        await in_redis._redis.hset(key, place, strange)
        await in_redis._redis.hset(seconds_key, str(start % SECONDS), strange)
        await a.say(held=1, counters={"full": a.last.counters["full"] + 1})
    assert len((await in_redis.past("default")).minutes) <= 1


async def test_pools_do_not_mix(ledger):
    chat, feed = Reporter(ledger, "a", pool="chat"), Reporter(ledger, "a", pool="feed")
    await chat.say(wanted=10)
    assert (await feed.say(wanted=10)).granted == 10
    readings = await ledger.read(("chat", "feed", "none"))
    assert [sum(worker.held for worker in reading.workers) for reading in readings] == [10, 10, 0]
    assert [reading.limit for reading in readings] == [10, 10, None]


async def test_a_reading_changes_nothing(worker, ledger):
    a = worker("a")
    reply = await a.say(wanted=3)
    readings = [await ledger.read(("default", "other")) for _ in range(3)]
    assert [[worker.held for worker in default.workers] for default, _ in readings] == [[3]] * 3
    assert (await a.say(held=3)).version == reply.version + 1


async def test_a_reading_has_what_each_worker_uses(worker, ledger):
    usage, load = Usage(5, 90 << 20, 30), (Load("memory", 0.5, 0.0),)
    footprint = Footprint(usage, Usage(0, 80 << 20, 20), usage, 1 << 30, 1 << 29, 1024, "wsproto")
    await worker("a").say(held=5, load=load, footprint=footprint)
    await worker("b").say(held=5)
    await worker("c").say(held=5, load=load, work=Work(3, 1, 20))
    await worker("d").say(held=5, load=load, footprint=footprint, work=Work(0, 0, 7))
    (reading,) = await ledger.read(["default"])
    seen = {each.worker: (each.load, each.footprint, each.work) for each in reading.workers}
    assert seen == {
        "host:1:a": (load, footprint, NO_WORK), "host:1:b": ((), None, NO_WORK),
        "host:1:c": (load, None, Work(3, 1, 20)), "host:1:d": (load, footprint, Work(0, 0, 7)),
    }  # fmt: skip


async def test_concurrent_reports_never_pass_the_limit(ledger):
    workers = [Reporter(ledger, f"{number:x}", limit=50) for number in range(20)]
    replies = await asyncio.gather(*(worker.say(wanted=7) for worker in workers))
    assert sum(reply.granted for reply in replies) == 50
    assert max(reply.total for reply in replies) == 50


async def test_closing_twice_is_harmless(ledger):
    await ledger.aclose()
    await ledger.aclose()


TERMS = Terms(rate=10.0, burst=5, retry_after=(1.0, 60.0))


async def test_a_rate_admits_its_burst_and_then_as_fast_as_it_is(worker, clock):
    a, b = worker("a", limit=100), worker("b", limit=100)
    reply = await a.say(wanted=1, terms=TERMS)
    assert (reply.granted, reply.shortfall) == (1, None)
    clock.now += 2.0  # until then, half of the burst may be in reserves that a new ledger does not know
    reply = await b.say(wanted=9, terms=TERMS)
    assert (reply.granted, reply.shortfall) == (5, Reason.RATE)
    clock.now += 0.2
    assert (await a.say(held=1, wanted=1, terms=TERMS)).granted == 1
    reply = await b.say(held=5, wanted=1, terms=TERMS)
    assert (reply.granted, reply.shortfall) == (1, None)
    assert (await b.say(held=6, wanted=1, terms=TERMS)).granted == 0


async def test_a_ledger_that_lost_data_has_no_tokens_to_give(worker, clock):
    a = worker("a", limit=100)
    await a.say(terms=TERMS)
    clock.now += 1.0
    reply = await a.say(wanted=9, terms=TERMS, version=a.last.version + 5)
    assert (reply.granted, reply.shortfall) == (0, Reason.RATE)


async def test_a_full_pool_is_told_apart_from_a_rate(worker, clock):
    a = worker("a", limit=3)
    await a.say(terms=TERMS)
    clock.now += 1.0
    reply = await a.say(wanted=5, terms=TERMS)
    assert (reply.granted, reply.shortfall) == (3, Reason.FULL)
    assert (await a.say(held=3, terms=TERMS)).shortfall is None


async def test_refusals_get_times_one_after_the_other_whichever_worker_asks(worker, clock):
    a, b = worker("a", limit=100), worker("b", limit=100)
    await a.say(wanted=1, terms=TERMS)
    first = (await a.say(held=1, wanted=10, terms=TERMS)).retry_times
    second = (await b.say(wanted=10, terms=TERMS)).retry_times
    third = (await a.say(held=1, wanted=1, unreserved=4, terms=TERMS)).retry_times
    step = ASSUMED / (SCHEDULED * 10)
    assert first.step == pytest.approx(step)
    assert first.first - first.elapsed == pytest.approx(1.0)
    assert second.first - first.first == pytest.approx(10 * step)
    assert third.first - second.first == pytest.approx(14 * step)
    assert (await a.say(held=1, terms=TERMS, unreserved=0)).retry_times is None


async def test_clients_that_leave_a_full_pool_set_the_pace(worker, clock):
    a = worker("a")
    clock.now = round(clock.now)
    await a.say(wanted=10, terms=BRIEF)
    assert speed(await a.say(held=10, wanted=1)) == pytest.approx(PROBING)
    clock.now += 1.2
    reply = await a.say(held=10, wanted=3, counters={"admitted": 16, "released": 6})
    assert speed(reply) == pytest.approx(5)
    assert wait(reply) == pytest.approx(1.0)


async def test_what_became_free_since_the_last_heartbeat_counts_before_that_is_over(worker, clock):
    a = worker("a")
    clock.now = round(clock.now)
    await a.say(wanted=11, terms=BRIEF)
    clock.now += 1.1
    await a.say(held=10, wanted=1, counters={"admitted": 11, "released": 1})
    clock.now += 0.1
    counters = {"admitted": 17, "released": 7}
    assert speed(await a.say(held=10, wanted=3, counters=counters)) == pytest.approx(6 / HEARTBEAT)


async def test_a_pool_that_has_just_become_full_is_asked_as_fast_as_probing_allows(worker, clock):
    a = worker("a")
    await a.say(wanted=10)
    clock.now += 0.9
    await a.say(held=10, counters={"admitted": 11, "released": 1})
    assert speed(await a.say(held=10, wanted=200)) == pytest.approx(PROBING)


async def test_without_a_rate_retry_times_follow_the_speed_of_all_entrances_together(worker):
    a, b = worker("a", limit=100), worker("b", limit=100)
    await a.say(speed=30.25)
    assert speed(await b.say(unreserved=1, speed=12.5)) == pytest.approx(42.75)
    assert speed(await b.say(unreserved=1, speed=0.0)) == pytest.approx(30.25)
    assert speed(await a.say(unreserved=1, speed=0.0)) == pytest.approx(2 * PROBING)


async def test_of_the_rate_and_the_speed_of_the_entrances_the_lower_holds(worker):
    a, b = worker("a", limit=100), worker("b", limit=100)
    await a.say(terms=TERMS, speed=4.0)
    assert speed(await b.say(unreserved=1, terms=TERMS, speed=3.5)) == pytest.approx(7.5)
    assert speed(await b.say(unreserved=1, speed=900.0)) == pytest.approx(10)


@pytest.mark.parametrize("how", ["lease", "goodbye", "gone"])
async def test_a_worker_that_is_gone_takes_its_speed_with_it(worker, clock, ledger, how):
    a, b = worker("a", limit=100), worker("b", limit=100, pid=2)
    await b.say(speed=20.0)
    await a.say(speed=7.0)
    assert [each.speed for each in sorted((await read(ledger)).workers, key=lambda each: each.worker)] == [7.0, 20.0]
    if how == "goodbye":
        await b.say(goodbye=True)
    for _ in range(4 if how == "lease" else 0):
        clock.now += LEASE / 3
        await a.say(heartbeat=True)
    gone = (b.last.worker,) if how == "gone" else ()
    assert speed(await a.say(unreserved=1, gone=gone)) == pytest.approx(7.0)
    assert [each.speed for each in (await read(ledger)).workers] == [7.0]


async def test_where_no_speed_is_known_the_workers_that_take_connections_probe(worker):
    a, b, c = worker("a", limit=100), worker("b", limit=100), worker("c", limit=100)
    await b.say()
    await c.say(draining=True)
    assert speed(await a.say(unreserved=1)) == pytest.approx(2 * PROBING)


@pytest.mark.parametrize("shut", ["paused", "full"])
async def test_retry_times_move_away_while_nobody_is_admitted(worker, clock, shut):
    order, (a, waits) = Order(int(shut == "paused"), "", 1.0), (worker("a", limit=100), [])
    controls = Controls(1, paused=order) if shut == "paused" else Controls(1, limit=order)
    await a.say(controls=controls)
    for _ in range(60):
        waits.append(wait(await a.say(wanted=1)))
        clock.now += 2 * HEARTBEAT
    assert waits[:5] == pytest.approx([1.0, 1.0, 2.0, 3.0, 4.0])
    assert waits[-1] == pytest.approx(59.0)
    await a.say(wanted=1, controls=Controls(2))
    assert wait(await a.say(held=1, unreserved=1)) < 2.0


async def test_a_drought_ends_with_an_admission_on_a_slot_that_was_counted_already(worker, clock):
    a = worker("a", limit=1)
    await a.say(wanted=1)
    for _ in range(5):
        reply = await a.say(held=1, wanted=1)
        clock.now += 2 * HEARTBEAT
    assert wait(reply) == pytest.approx(4.0)
    assert wait(await a.say(held=1, wanted=1, counters={"admitted": 1})) < 4.0


async def test_a_drought_is_over_once_nobody_was_refused_for_as_long_as_a_client_may_wait(worker, clock):
    a = worker("a", limit=0)
    for pause in (10.0, 10.0, 64.0):
        await a.say(wanted=1)
        clock.now += 2 * HEARTBEAT
        for _ in range(round(pause / HEARTBEAT / 2) - 1):
            await a.say()
            clock.now += 2 * HEARTBEAT
    assert wait(await a.say(wanted=1)) == pytest.approx(1.0)


async def test_refused_while_the_ledger_settles_come_again_when_it_has(worker):
    a = worker("a", limit=100)
    await a.say()
    reply = await a.say(wanted=5, allowance=0, version=a.last.version + 1)
    assert (reply.shortfall, wait(reply)) == (Reason.SETTLING, pytest.approx(1.5 * HEARTBEAT))


@pytest.mark.parametrize(("limit", "held", "waits"), [(101, 99, 1.0), (101, 100, 1.5 * HEARTBEAT), (100, 100, 1.0)])
async def test_only_a_worker_without_allowance_refers_its_clients_to_the_end_of_settling(worker, limit, held, waits):
    """A full pool does not settle for those that are refused: slots become free meanwhile."""
    a = worker("a", limit=limit)
    await a.say()
    reply = await a.say(held=held, unreserved=1, allowance=100, version=a.last.version + 1)
    assert (reply.settling, reply.shortfall, wait(reply)) == (True, None, pytest.approx(waits, abs=0.03))


BRIEF = Terms(retry_after=(1.0, 1.1))
"""What a pool that has been full for so long has seen is as good as any. No ticket is missed by then."""


def speed(reply) -> float:
    """Admissions a second by which the retry times of a reply go."""
    return ASSUMED / (SCHEDULED * reply.retry_times.step)


def wait(reply) -> float:
    """Seconds until the first of them, in a pool without a slow start."""
    return reply.retry_times.first - reply.retry_times.elapsed


async def read(ledger):
    return (await ledger.read(("default",)))[0]


@pytest.mark.parametrize("seed", range(5))
async def test_the_pace_is_that_of_the_rules(worker, clock, seed):
    """Many reports of four workers, held against the rules as Python has them."""
    rng = random.Random(seed)
    terms = Terms(rate=rng.choice([3.0, 40.0]), burst=rng.choice([1, 7]), slow_start=rng.choice([0.0, 6.0]))
    workers = [worker(str(number), limit=60) for number in range(4)]
    clock.now, elapsed, pace, held, released, speeds = 1000.0, 0.0, None, [0] * 4, 0, [0.0] * 4
    for step in range(some_of(1000)):
        number, wanted = step % 4, rng.choice([0, 0, 1, 30])
        unreserved = rng.choice([0, 0, 0, 2])
        leaving = rng.randint(0, held[number]) if rng.random() < 0.3 else 0
        held[number] -= leaving
        released += leaving
        pause = rng.choice([0, 0.001, 0.053, 0.51, 1.53])
        clock.now, elapsed = clock.now + pause, elapsed + pause
        pace = pace or Pace(elapsed, terms)
        pace.line.advance(clock.now)
        settles = workers[0].ledger.kind != "memory" and elapsed < 1.5 * HEARTBEAT
        pace.hold(0, elapsed, terms, is_settling=settles)
        room, empty = 60 - sum(held), sum(held) == 0
        free = pace.free(room, elapsed, terms, empty=empty)
        shares = pace.line.share_out(clock.now, free, 0, wanted, pace.spare(free, elapsed, terms))
        expected = pace.admit(sum(shares), elapsed, terms, empty=empty)
        pace.measure(elapsed, released, every=HEARTBEAT)
        refused = wanted - expected
        why = Reason.RATE if refused and free < room else None
        if free == room if refused else sum(held) + expected >= 60:
            why = Reason.FULL
        speeds[number] = rng.choice([0.0, 0.0, 25.5])
        is_open = not scarce(sum(held) + expected, 60)
        retry_times = pace.retry_times(
            elapsed, terms, refused, unreserved, Situation(why, min(step + 1, 4), sum(speeds), is_open)
        )
        counters = {"released": workers[number].last.counters.get("released", 0) + leaving}
        reply = await workers[number].say(
            held[number], wanted, terms=terms, unreserved=unreserved, counters=counters, speed=speeds[number]
        )
        assert reply.granted == expected
        assert (reply.retry_times is None) == (retry_times is None)
        if retry_times is not None:
            assert astuple(reply.retry_times) == pytest.approx(astuple(retry_times), abs=0.002)
        held[number] += reply.granted

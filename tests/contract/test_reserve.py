"""The part of the contract about reserves: slots that are counted before their handshakes come."""

import math
from dataclasses import replace

import pytest

from channels_admission.core.levels import RESERVE_PARTS, Level
from channels_admission.core.overrides import Controls, Drain, Order
from channels_admission.core.protocol import Fair, Terms
from channels_admission.core.quotas.shares import Class
from channels_admission.ledger.base import SETTLING
from channels_admission.ledger.memory import MemoryLedger

from support.reports import HEARTBEAT, Reporter

LIMIT, RATE, BURST = 10 * RESERVE_PARTS, 10.0, 12
TERMS = Terms(rate=RATE, burst=BURST)
"""Of whose slots a lone worker may have a tenth of the share in reserve for each tenth that is free."""


class Keeper(Reporter):
    """A worker that says anew in each report what it has in reserve and what it wants for it."""

    async def say(self, held=0, wanted=0, **changes):
        return await super().say(held, wanted, **{"reserve": 0, "ahead": 0, "unused": 0, **changes})


@pytest.fixture
async def pool(ledger, clock):
    """``pool(nonce)``: a worker of a pool that has settled and has room for a reserve."""
    first = Keeper(ledger, "f", limit=LIMIT)
    await first.say()
    clock.now += SETTLING * HEARTBEAT + 0.001
    await first.say(goodbye=True)

    def open_worker(nonce, pid=1, **changes):
        worker = Keeper(ledger, nonce, limit=LIMIT, pid=pid)
        worker.last = replace(worker.last, **changes)
        return worker

    return open_worker


async def reading(ledger):
    (reading,) = await ledger.read(("default",))
    return {each.worker[-1]: (each.held, each.reserve) for each in reading.workers}


async def test_a_reserve_is_counted_beside_what_is_granted(pool, ledger):
    a = pool("a")
    reply = await a.say(wanted=3, ahead=4)
    assert (reply.granted, reply.ahead, reply.total) == (3, 4, 7)
    assert await reading(ledger) == {"a": (3, 4)}
    assert (await a.say(held=5, reserve=2)).total == 5
    assert await reading(ledger) == {"a": (3, 2)}


async def test_all_reserves_together_are_a_small_part_of_what_is_free(pool):
    a, b = pool("a"), pool("b")
    assert (await a.say(ahead=LIMIT)).ahead == 10
    reply = await b.say(ahead=LIMIT)
    assert (reply.ahead, reply.others_reserve) == ((LIMIT - 10) // (2 * RESERVE_PARTS), 10)
    reply = await a.say(held=10, reserve=10, ahead=5)
    assert (reply.ahead, reply.others_reserve) == (0, 4)
    assert (await a.say(held=LIMIT // 2, reserve=1, ahead=LIMIT)).ahead == (LIMIT // 2 - 4 + 1) // (
        2 * RESERVE_PARTS
    ) - 1


async def test_a_worker_that_drains_takes_no_part_of_the_reserve(pool):
    a, b = pool("a"), pool("b")
    await a.say(draining=True)
    assert (await b.say(ahead=LIMIT)).ahead == 10


async def test_where_slots_are_scarce_nothing_is_kept_in_reserve(pool):
    a = pool("a")
    scarce = LIMIT - LIMIT // 20
    assert (await a.say(held=scarce - RESERVE_PARTS, ahead=9)).ahead == 1
    assert (await a.say(held=scarce, ahead=9)).ahead == 0
    reply = await a.say(held=LIMIT - 3, wanted=3, ahead=9)
    assert (reply.granted, reply.ahead, reply.total) == (3, 0, LIMIT)
    reply = await a.say(held=LIMIT, wanted=3, ahead=9)
    assert (reply.granted, reply.ahead) == (0, 0)


async def test_of_a_large_pool_the_last_slots_are_nobodys_reserve(pool, clock):
    limit = 100 * RESERVE_PARTS
    a = pool("a")
    a.last = replace(a.last, limit=limit, allowance=limit)
    clock.now += SETTLING * HEARTBEAT  # the settings of the first worker count no longer
    await a.say()
    free = limit // 20
    assert (await a.say(held=limit - free - 1, ahead=9)).ahead == (free + 1) // RESERVE_PARTS == 5
    assert (await a.say(held=limit - free, ahead=9)).ahead == 0


async def test_with_a_rate_each_slot_in_reserve_has_its_token(pool, clock):
    a, b = pool("a", terms=TERMS), pool("b", terms=TERMS)
    await a.say()
    clock.now += 100
    reply = await a.say(ahead=99)
    assert (reply.ahead, reply.most_in_reserve) == (BURST // 2, BURST // 2)
    assert (await b.say(wanted=99)).granted == BURST - BURST // 2


async def test_the_bucket_never_holds_more_than_reserves_leave_of_the_burst(pool, clock):
    a, b = pool("a", terms=TERMS), pool("b", terms=TERMS)
    await a.say()
    clock.now += 100
    reserve = (await a.say(ahead=4)).ahead
    assert reserve == 4
    clock.now += 100
    assert (await b.say(wanted=99)).granted == BURST - reserve
    await a.say(held=reserve, reserve=0)  # all of them have entered
    assert (await b.say(held=BURST - reserve, wanted=99)).granted == 0
    clock.now += (reserve + 1) / RATE
    assert (await b.say(held=BURST - reserve, wanted=99)).granted == reserve + 1


async def test_tokens_that_come_back_may_be_used_at_once_within_the_burst(pool, clock):
    a, b = pool("a", terms=TERMS), pool("b", terms=TERMS)
    await a.say()
    clock.now += 100
    await a.say(ahead=4)
    clock.now += 100
    assert (await b.say(wanted=99)).granted == BURST - 4
    await a.say(held=2, reserve=1, unused=2)  # one has entered
    assert (await b.say(held=BURST - 4, wanted=99)).granted == 2
    clock.now += 100
    await a.say(held=1, reserve=0, unused=BURST)
    assert (await b.say(held=BURST - 2, wanted=99)).granted == BURST


async def test_the_tokens_of_a_worker_that_is_gone_are_used(pool, clock):
    a, b = pool("a", terms=TERMS), pool("b", terms=TERMS)
    await a.say()
    clock.now += 100
    await a.say(ahead=4)
    assert (await b.say(wanted=99, gone=(a.last.worker,))).granted == BURST - 4
    clock.now += 100
    assert (await b.say(held=BURST - 4, wanted=99, gone=())).granted == BURST


async def test_where_few_tokens_are_left_a_worker_may_keep_few(pool, clock):
    a, b = pool("a", terms=TERMS), pool("b", terms=TERMS)
    await a.say()
    await b.say()
    clock.now += 100
    assert (await b.say(wanted=BURST - 4)).granted == BURST - 4
    reply = await a.say(ahead=9)
    assert (reply.ahead, reply.most_in_reserve) == (1, 1)
    reply = await b.say(held=BURST - 4, wanted=3)
    assert (reply.granted, reply.most_in_reserve) == (3, 0)


async def test_all_reserves_together_have_half_of_the_burst_at_most(pool, clock):
    a, b = pool("a", terms=TERMS), pool("b", terms=TERMS)
    await a.say()
    clock.now += 100
    assert (await a.say(ahead=99)).ahead == BURST // 2
    reply = await b.say(ahead=99)
    assert (reply.ahead, reply.most_in_reserve) == (0, 0)
    reply = await a.say(held=2, reserve=2, unused=BURST // 2 - 2)
    assert reply.most_in_reserve == BURST // 4
    assert (await b.say(ahead=99)).ahead == (BURST - 2) // 4


async def test_tokens_come_back_only_from_a_reserve_that_is_counted(pool, clock):
    a, b = pool("a", terms=TERMS), pool("b", terms=TERMS)
    await a.say()
    clock.now += 100
    assert (await a.say(ahead=4)).ahead == 4
    for _ in range(7):  # it is forgotten, and its tokens are the bucket's again
        clock.now += HEARTBEAT
        await b.say()
    assert (await b.say(wanted=BURST)).granted == BURST
    assert (await a.say(wanted=9, unused=4)).granted == 0
    clock.now += 100
    assert (await b.say(wanted=BURST, held=BURST)).granted == BURST
    assert (await a.say(wanted=9, unused=9)).granted == 0


async def test_reserves_from_before_there_was_a_rate_take_no_more_than_the_burst(pool, clock):
    a, b = pool("a"), pool("b", terms=TERMS)
    reply = await a.say(held=BURST + 20, reserve=BURST + 20)
    await b.say()
    clock.now += 100
    assert (await b.say(wanted=1)).granted == 0
    reply = await a.say(terms=TERMS)
    assert reply.total == 0
    clock.now += 1 / RATE
    assert (await b.say(wanted=9)).granted == 1


async def test_with_a_slow_start_a_worker_without_a_connection_has_none_in_reserve(pool, clock):
    a = pool("a", terms=replace(TERMS, slow_start=2.0))
    await a.say()
    clock.now += 100
    reply = await a.say(ahead=9)
    assert (reply.ahead, reply.most_in_reserve) == (0, 0)
    await a.say(wanted=1)
    clock.now += 100
    assert (await a.say(held=1, ahead=4)).ahead == 4
    reply = await a.say(held=1, reserve=1, wanted=9)  # its connections have ended: the pool is empty
    assert reply.granted == 1


async def test_where_somebody_is_refused_or_expected_nothing_is_kept_in_reserve(pool, clock):
    a, b = pool("a", terms=TERMS), pool("b", terms=TERMS)
    await a.say()
    clock.now += 100
    assert (await a.say(wanted=BURST + 1, ahead=9)).ahead == 0
    clock.now += 0.9
    reply = await b.say(ahead=9)
    assert (reply.has_line, reply.ahead, reply.most_in_reserve) == (True, 0, 0)
    clock.now += 10
    reply = await b.say(ahead=9)
    assert (reply.has_line, reply.ahead) == (False, BURST // 4)


async def test_while_a_pool_settles_half_of_the_burst_is_kept_for_reserves_that_are_not_known(pool, clock):
    a = pool("a", terms=TERMS)
    await a.say()
    clock.now += SETTLING * HEARTBEAT + 0.001
    await a.say(version=a.last.version + 1)
    clock.now += HEARTBEAT
    reply = await a.say(wanted=99, ahead=9)
    assert (reply.settling, reply.granted, reply.ahead) == (True, BURST - BURST // 2, 0)


@pytest.fixture
def new_pool(ledger, monkeypatch):
    """``new_pool(nonce)``: a worker of a pool that nothing is known of, with a rate; it settles in 1.5 s."""
    monkeypatch.setattr(MemoryLedger, "volatile", True)

    def open_worker(nonce):
        worker = Keeper(ledger, nonce, limit=LIMIT)
        worker.last = replace(worker.last, terms=TERMS)
        return worker

    return open_worker


async def granted_once_settled(worker, clock, began):
    clock.now = began + SETTLING * HEARTBEAT + 0.001
    reply = await worker.say(wanted=99)
    assert not reply.settling
    return reply.granted


@pytest.mark.parametrize(("elapsed", "granted"), [(0.0, 1), (0.6, 7 - 3), (1.4, BURST - BURST // 2)])
async def test_a_new_pool_sets_half_of_its_tokens_aside_until_reserves_could_have_no_more(
    new_pool, clock, elapsed, granted
):
    a = new_pool("a")
    await a.say()
    clock.now += elapsed
    reply = await a.say(wanted=99)
    assert (reply.settling, reply.granted) == (True, granted)


async def test_what_a_new_pool_sets_aside_is_there_once_it_has_settled(new_pool, clock):
    a, began = new_pool("a"), clock.now
    assert (await a.say(wanted=1)).granted == 1
    clock.now = began + 0.6
    assert (await a.say(wanted=3)).granted == 3
    clock.now = began + 1.4  # of eleven tokens six are set aside
    assert (await a.say(wanted=99)).granted == 5
    assert await granted_once_settled(a, clock, began) == 7


async def test_a_bucket_of_a_new_pool_is_full_once_it_has_settled(new_pool, clock):
    a, began = new_pool("a"), clock.now
    await a.say()
    clock.now = began + 1.4
    assert (await a.say(wanted=99)).granted == BURST - BURST // 2
    assert await granted_once_settled(a, clock, began) == BURST // 2 + 1


async def test_a_worker_of_an_earlier_pool_pays_for_what_it_may_have_used(new_pool, clock):
    """It is found by its version, even where that of the new pool is higher."""
    a, b, began = new_pool("a"), new_pool("b"), clock.now
    for _ in range(3):
        await a.say()
    clock.now = began + 1.4
    reply = await b.say(version=2)
    assert (reply.lapsed, reply.settling) == (True, True)
    assert await granted_once_settled(a, clock, began) == BURST - BURST // 2 + 1


async def test_where_an_earlier_worker_is_the_first_it_pays_as_well(new_pool, ledger, clock):
    """Its version may be that of the last order, which outlives the pool."""
    drain = Drain("host:9:z", 1.0, "chief", 1.0, version=9)
    assert await ledger.control("default", Controls(drains=(drain,)), 0)
    a, began = new_pool("a"), clock.now
    assert (await a.say(version=9)).settling
    assert await granted_once_settled(a, clock, began) == 1 - BURST // 2 + 15


@pytest.mark.parametrize("first", ["earlier", "new"])
async def test_a_pool_that_has_lost_data_sets_nothing_aside(new_pool, clock, first):
    a, b = new_pool("a"), new_pool("b")
    if first == "new":
        await b.say()
        clock.now += 0.3
    began = clock.now
    assert (await a.say(version=99)).settling
    clock.now = began + 1.4
    assert (await b.say()).settling
    assert await granted_once_settled(b, clock, began) == BURST - BURST // 2 + 1


FAIR = Fair((Class("user", 1.0, 0), Class("guest", 0.5, 0), Class("exempt", math.inf, 0)), (), 0, 0)


async def test_with_classes_slots_are_kept_that_each_of_them_may_have(pool, clock):
    a = pool("a", fair=FAIR)
    await a.say()
    clock.now += SETTLING * HEARTBEAT + 0.001  # the claims are new
    assert (await a.say(ahead=99)).ahead == LIMIT // 2 // RESERVE_PARTS
    held = LIMIT // 2 - RESERVE_PARTS
    assert (await a.say(held=held, ahead=99)).ahead == 1
    assert (await a.say(held=LIMIT // 2, ahead=99)).ahead == 0


async def test_a_paused_pool_gives_no_reserve(pool, ledger):
    a = pool("a")
    await a.say()
    assert await ledger.control("default", Controls(paused=Order(1, "chief", 1.0)), 0)
    assert (await a.say(ahead=9)).ahead == 0


async def test_a_settling_pool_gives_no_reserve_and_counts_those_that_are_told(pool, ledger):
    a = pool("a")
    await a.say()
    reply = await a.say(ahead=99, wanted=3, allowance=7, version=a.last.version + 1)
    assert (reply.settling, reply.granted, reply.ahead, reply.most_in_reserve) == (True, 3, 0, 0)
    reply = await a.say(held=7, reserve=4, ahead=5, version=a.last.version + 1)
    assert (reply.settling, reply.ahead, reply.total) == (True, 0, 7)
    assert await reading(ledger) == {"a": (3, 4)}


async def test_a_worker_that_is_gone_takes_its_reserve_with_it(pool, ledger, clock):
    a, b, c = pool("a"), pool("b"), pool("c", pid=2)
    await a.say(held=6, reserve=2)
    await b.say(held=9, reserve=3)
    await c.say(held=9, reserve=2)
    reply = await a.say(held=6, reserve=2, gone=(c.last.worker,))
    a.last = replace(a.last, gone=())
    assert (reply.total, reply.others_reserve) == (15, 3)
    for _ in range(6):
        clock.now += HEARTBEAT
        reply = await a.say(held=6, reserve=2)
    assert (reply.total, reply.others_reserve) == (6, 0)
    assert await reading(ledger) == {"a": (4, 2)}
    assert (await a.say(goodbye=True)).others_reserve == 0
    assert await reading(ledger) == {}


async def test_level_and_history_are_of_the_slots_that_are_held(pool, ledger, clock):
    a = pool("a")
    warned = LIMIT * 7 // 10
    reply = await a.say(held=warned - 1, ahead=9)
    assert reply.ahead == (LIMIT - warned + 1) // RESERVE_PARTS > 1
    assert (reply.level, reply.edges) == (Level.CALM, ())
    past = await ledger.past("default")
    assert past.seconds[-1].held == warned - 1
    reply = await a.say(held=warned + 1, reserve=1)
    assert (reply.level, reply.edges[0].held) == (Level.WARNING, warned)

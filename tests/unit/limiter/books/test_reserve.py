"""A worker's reserve: its size, when it is refilled and given back, and that a handshake need not wait for a call."""

import asyncio
from dataclasses import replace

import pytest

from channels_admission.core.levels import RESERVE_PARTS
from channels_admission.core.protocol import Refusal, Reply
from channels_admission.ledger.memory import MemoryLedger
from channels_admission.limiter.books.reserve import LEAST, Reserve
from channels_admission.limiter.books.state import State
from channels_admission.limiter.calls.schedule import QUIET
from channels_admission.limiter.connections.slot import Slot
from channels_admission.runtime.identity import Worker

from support.limiters import over_a_road
from support.virtual import run
from support.waiting import eventually

LIMIT = 40 * RESERVE_PARTS


@pytest.fixture
def opened(admission):
    """``async with opened(KEY=value) as limiter``: one whose heartbeats and calls the test can tell apart."""

    return lambda **keys: over_a_road(
        admission(**{"MAX_CONNECTIONS": LIMIT, "HEARTBEAT": 3, "LEASE": 30, "LEDGER_TIMEOUT": 0.25, **keys})
    )


def stored(limiter):
    """Slots held and in reserve, as the ledger counts them for the limiter's worker."""
    pools = (pool for name, pool in MemoryLedger._pools.items() if name[1] == limiter.pool.name)
    entries = (pool.entries.get(limiter.state.worker.id) for pool in pools)
    return next(((each.held - each.reserve, each.reserve) for each in entries if each), (0, 0))


async def ready(limiter):
    await eventually(lambda: stored(limiter)[1] > 0)


def test_the_size_follows_the_handshakes_of_a_heartbeat_within_the_room():
    reserve = Reserve(is_possible=True)
    assert reserve.size == LEAST
    sizes = []
    for admitted, heartbeat, most in (
        (0, True, 50), (30, False, 50), (35, True, 50), (36, False, 50),
        (36, False, 20), (36, True, 50), (37, True, 50), (40, True, 0),
    ):  # fmt: skip
        reserve.count(admitted, heartbeat=heartbeat)
        reserve.fit(most)
        sizes.append(reserve.size)
    assert sizes == [LEAST, 30, 35, 35, 20, LEAST, LEAST, 0]


def test_where_a_handshake_needs_more_than_a_slot_there_is_none():
    reserve = Reserve(is_possible=False)
    reserve.count(30, heartbeat=True)
    reserve.fit(50)
    assert reserve.size == 0


def test_a_handshake_with_room_waits_for_no_call(opened):
    async def test():
        async with opened() as limiter:
            await asyncio.sleep(0.1)
            limiter.reconciler.ledger.delay = 0.2
            began = asyncio.get_running_loop().time()
            slots = [await limiter.acquire() for _ in range(LEAST)]
            assert all(isinstance(slot, Slot) for slot in slots)
            assert asyncio.get_running_loop().time() == began

    run(test())


def test_one_after_the_other_at_five_a_second_makes_hardly_a_call(opened):
    async def test():
        async with opened() as limiter:
            await asyncio.sleep(0.1)
            before = limiter.state.calls.made
            for _ in range(150):
                slot = await limiter.acquire()
                await asyncio.sleep(0.2)
                slot.release()
            assert limiter.state.calls.made - before <= 15

    run(test())


def test_the_ledger_is_told_of_a_handshake_without_a_call_once_no_more_come(opened):
    async def test():
        async with opened(HEARTBEAT=60, LEASE=600) as limiter:
            await asyncio.sleep(0.1)
            before = limiter.state.calls.made
            slot = await limiter.acquire()
            await asyncio.sleep(QUIET - 0.01)
            assert limiter.state.calls.made == before
            await asyncio.sleep(0.02)
            assert (limiter.state.calls.made, stored(limiter)[0]) == (before + 1, 1)
            slot.release()
            await asyncio.sleep(QUIET + 0.01)
            assert (limiter.state.calls.made, stored(limiter)[0]) == (before + 2, 0)
            await asyncio.sleep(10)
            assert limiter.state.calls.made == before + 2

    run(test())


def test_two_hundred_a_second_that_stay_find_their_slots_counted(opened):
    """However far Redis is: half of the reserve lasts longer than a call."""

    async def test():
        async with opened() as limiter:
            limiter.reconciler.ledger.delay, loop = 0.01, asyncio.get_running_loop()
            waits, before = [], limiter.state.calls.made
            for _ in range(1000):
                began = loop.time()
                assert isinstance(await limiter.acquire(), Slot)
                waits.append(loop.time() - began)
                await asyncio.sleep(0.005)
            assert sum(wait > 0 for wait in waits) <= 20
            assert limiter.state.calls.made - before <= 100

    run(test())


def test_calls_for_the_reserve_alone_are_at_most_fifty_a_second(opened):
    async def test():
        async with opened() as limiter:
            await asyncio.sleep(0.1)
            before = limiter.state.calls.made
            for _ in range(200):
                limiter.state.allowance = limiter.state.held  # as if it were used up
                limiter.refill()
                await asyncio.sleep(0.001)
            assert 8 <= limiter.state.calls.made - before <= 0.2 * 50 + 1

    run(test())


def test_what_is_used_while_a_call_is_made_is_asked_for_by_another(opened):
    async def test():
        async with opened() as limiter:
            await asyncio.sleep(0.1)
            limiter.reconciler.ledger.delay, before = 0.03, limiter.state.calls.made
            limiter.report_now()
            await asyncio.sleep(0.01)
            for _ in range(LEAST):
                await limiter.acquire()
            assert limiter.state.calls.made == before + 1
            await asyncio.sleep(0.15)
            assert limiter.state.calls.made == before + 2
            assert stored(limiter) == (LEAST, LEAST)

    run(test())


@pytest.mark.parametrize(
    "changes",
    [{"total": round(0.96 * LIMIT)}, {"settling": True}, {"has_line": True}],
    ids=["scarce", "settling", "line"],
)
def test_the_reserve_is_wanted_no_more_where_slots_are_for_others(admission, changes):
    state = State(admission(MAX_CONNECTIONS=LIMIT).pool("default"), Worker())
    reply = Reply(0, total=0, limit=LIMIT, workers=1, version=1, settling=False, lapsed=False)
    assert state.begin_report().ahead == LEAST
    for said, size in ((reply, LEAST), (replace(reply, **changes), 0), (reply, LEAST)):
        state.settle(state.begin_report(), said)
        assert state.reserve.size == state.begin_report().ahead == size


@pytest.mark.parametrize(
    "keys",
    [
        {"CONNECT_RATE": 1000},
        {"QUOTAS": [{"key": "address", "max": 100}]},
        {"MAX_CONNECTIONS": RESERVE_PARTS - 1},
    ],
    ids=["rate", "quota", "small"],
)
async def test_a_pool_whose_handshakes_need_more_or_that_is_small_has_none(opened, keys):
    async with opened(**keys) as limiter:
        slot = await limiter.acquire()
        assert isinstance(slot, Slot)
        limiter.report_now()
        await eventually(lambda: stored(limiter) == (1, 0))
        assert all(report.ahead == 0 or keys.get("MAX_CONNECTIONS") for report in limiter.reconciler.ledger.reports)


async def test_the_reserve_is_given_back_where_slots_become_scarce(opened):
    async with opened(HEARTBEAT=0.2, LEASE=2) as limiter, opened(HEARTBEAT=0.2, LEASE=2) as other:
        await ready(limiter)
        slots = await asyncio.gather(*(other.acquire() for _ in range(LIMIT + 10)))
        await eventually(lambda: stored(limiter)[1] == 0)
        slots += await asyncio.gather(*(limiter.acquire() for _ in range(LIMIT + 10)))
        assert sum(isinstance(slot, Slot) for slot in slots) == LIMIT
        assert any(isinstance(slot, Refusal) for slot in slots)


@pytest.mark.parametrize("how", ["drain", "close"])
async def test_the_reserve_is_given_back_by_a_worker_that_leaves(opened, how):
    async with opened(DRAIN_DELAY=0) as limiter:
        await ready(limiter)
        if how == "drain":
            limiter.drain(1.0)
            await eventually(lambda: stored(limiter) == (0, 0))
        else:
            await limiter.aclose()
            assert stored(limiter) == (0, 0)


async def test_while_the_ledger_is_away_the_reserve_is_used_and_no_more(opened):
    async with opened(WHEN_LEDGER_DOWN="freeze", HEARTBEAT=0.2, LEASE=2) as limiter:
        await ready(limiter)
        limiter.reconciler.ledger.error = OSError("no road")
        await eventually(lambda: limiter.state.away)
        verdicts = [await limiter.acquire() for _ in range(LEAST + 2)]
        assert [isinstance(each, Slot) for each in verdicts] == [True] * LEAST + [False] * 2
        limiter.reconciler.ledger.error = None
        await eventually(lambda: not limiter.state.away)
        await eventually(lambda: stored(limiter)[0] == LEAST)

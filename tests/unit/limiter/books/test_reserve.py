"""A worker's reserve: its size, when it is refilled and given back, and that a handshake need not wait for a call."""

import asyncio
from dataclasses import replace

import pytest

from channels_admission.core.levels import RESERVE_PARTS
from channels_admission.core.overrides import Controls, Order
from channels_admission.core.protocol import Ask, Refusal, Reply
from channels_admission.ledger.memory import MemoryLedger
from channels_admission.limiter.books.reserve import AHEAD, LEAST, Reserve
from channels_admission.limiter.books.state import State
from channels_admission.limiter.calls.schedule import MORE, QUIET
from channels_admission.limiter.connections.slot import Slot
from channels_admission.runtime.identity import Worker

from support.limiters import over_a_road
from support.virtual import run
from support.waiting import eventually

LIMIT = 40 * RESERVE_PARTS
CLASSES = {"MAX_CONNECTIONS": 4 * LIMIT, "SHARES": {"guest": 0.5}, "CLASSIFY": "builtins.str"}


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
    reserve = Reserve(is_needed=True)
    assert reserve.size == LEAST
    sizes = []
    for came, heartbeat, most in (
        (0, True, 90), (30, False, 90), (5, True, 90), (1, False, 90),
        (0, False, 20), (0, True, 90), (1, True, 90), (3, True, 0),
    ):  # fmt: skip
        reserve.came += came
        reserve.allow(most)
        reserve.renew(heartbeat=heartbeat)
        sizes.append(reserve.size)
    assert sizes == [LEAST, 60, 70, 70, 20, 70, LEAST, 0]


def test_a_report_asks_for_what_the_handshakes_just_before_it_need(admission):
    state = State(admission(MAX_CONNECTIONS=LIMIT).pool("default"), Worker())
    for number in range(1, 4):
        state.settle(report := state.begin_report(10), granted(report))
        for _ in range(10):
            state.admit()
        report = state.begin_report()
        assert report.reserve + report.ahead == AHEAD * 10 * number


def test_a_worker_that_was_forgotten_uses_none_of_the_tokens_that_it_had(admission):
    state = State(admission(MAX_CONNECTIONS=LIMIT, CONNECT_RATE=100).pool("default"), Worker())
    state.settle(report := state.begin_report(10), granted(report))
    assert (state.reserve.grants, state.has_room) == (10 + report.ahead, True)
    state.settle(report := state.begin_report(), replace(granted(report), lapsed=True))
    assert (state.reserve.grants, state.has_room) == (0, False)


@pytest.mark.parametrize(("policy", "slots"), [("freeze", 2), ("share", 2), ("closed", 0)])
def test_without_the_ledger_no_slot_above_a_lowered_limit_is_used_again(admission, policy, slots):
    state = State(admission(MAX_CONNECTIONS=LIMIT, WHEN_LEDGER_DOWN=policy).pool("default"), Worker())
    state.settle(report := state.begin_report(10), replace(granted(report), total=20, limit=8, ahead=0))
    for _ in range(10):
        state.admit()
    state.controls = Controls(limit=Order(8, "chief", 0.0))
    state.fail(0.0)
    for _ in range(10):
        state.release()
        assert state._slots_alone <= 0
    state.controls = Controls(limit=Order(12, "chief", 0.0))
    assert state._slots_alone == slots


def test_where_all_handshakes_need_more_than_a_slot_there_is_none():
    reserve = Reserve(is_needed=False)
    reserve.allow(50)
    assert reserve.size == 0
    reserve.came += 1
    reserve.renew(heartbeat=False)
    assert reserve.size == LEAST


@pytest.mark.parametrize("size", range(1, 50))
def test_a_reserve_that_is_full_is_not_low(size):
    reserve = Reserve(is_needed=True)
    reserve.came = 100
    reserve.allow(size)
    assert 0 < reserve.least <= reserve.size == size


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


@pytest.mark.parametrize("pause", [0.2, 0.004], ids=["five a second", "one at a time"])
@pytest.mark.parametrize("keys", [{}, {"CONNECT_RATE": 400}, CLASSES], ids=["room", "rate", "classes"])
def test_one_after_the_other_make_a_call_for_ten_connections_at_the_most(opened, keys, pause):
    async def test():
        async with opened(**keys) as limiter:
            ledger = limiter.reconciler.ledger.inner
            ledger._clock = ledger._wall_clock = asyncio.get_running_loop().time
            await asyncio.sleep(0.1)
            before = limiter.state.calls.made
            for _ in range(150):
                slot = await limiter.acquire(Ask() if "SHARES" in keys else None)
                await asyncio.sleep(pause)
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


def test_where_more_and_more_come_the_ledger_is_told_ever_later(opened):
    async def test():
        async with opened(HEARTBEAT=60, LEASE=600) as limiter:
            await asyncio.sleep(0.1)
            before, loop, told = limiter.state.calls.made, asyncio.get_running_loop(), []
            slot, began = await limiter.acquire(), loop.time()
            await asyncio.sleep(QUIET / 2)
            slot.release()
            while not told:
                await asyncio.sleep(0.01)
                told += [loop.time() - began] * (limiter.state.calls.made - before)
            assert told == [pytest.approx(QUIET / 2 + MORE * QUIET, abs=0.02)]
            slot, began = await limiter.acquire(), loop.time()
            await asyncio.sleep(QUIET + 0.02)
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
            assert stored(limiter) == (LEAST, AHEAD * LEAST)

    run(test())


def granted(report, **changes):
    """A reply that gives all that is wanted."""
    held = report.held + report.wanted + report.ahead
    reply = Reply(report.wanted, held, LIMIT, 1, 1, False, False, ahead=report.ahead, most_in_reserve=LIMIT)
    return replace(reply, **changes)


def test_the_reserve_is_as_large_as_the_ledger_allows_by_its_last_reply(admission):
    state = State(admission(MAX_CONNECTIONS=LIMIT).pool("default"), Worker())
    assert state.begin_report().ahead == LEAST
    for most, size in ((50, LEAST), (0, 0), (2, 2), (50, LEAST)):
        state.settle(report := state.begin_report(), granted(report, ahead=0, most_in_reserve=most))
        assert state.reserve.size == state.begin_report().ahead == size


def books(admission, **keys):
    return State(admission(**{"MAX_CONNECTIONS": LIMIT, "CONNECT_RATE": 100, **keys}).pool("default"), Worker())


def test_with_a_rate_as_many_enter_as_there_are_tokens_and_the_others_are_given_back(admission):
    state = books(admission)
    state.settle(report := state.begin_report(1), granted(report))
    state.admit()
    assert (state.has_room, state.ready) == (True, LEAST)
    for _ in range(LEAST - 1):
        state.admit()
    state.release()
    assert state.ready == 1
    report = state.begin_report()
    assert (report.held, report.reserve, report.ahead, report.unused) == (LEAST, 1, 2 * LEAST - 1, 0)
    state.settle(report, granted(report, ahead=0, most_in_reserve=0))
    report = state.begin_report()
    assert (report.held, report.reserve, report.unused) == (LEAST - 1, 0, 1)


def test_with_a_rate_what_was_granted_to_clients_that_have_gone_is_for_no_later_one(admission):
    state = books(admission)
    state.settle(report := state.begin_report(5), granted(report, ahead=0, most_in_reserve=0))
    state.admit()
    assert state.has_room
    state.reserve.end_grants()
    assert not state.has_room
    assert state.begin_report().unused == 0


def test_where_somebody_is_expected_nothing_of_the_reserve_is_used(admission):
    state = books(admission)
    state.settle(report := state.begin_report(), granted(report))
    state.settle(report := state.begin_report(1), granted(report, has_line=True, ahead=0, most_in_reserve=0))
    state.admit()
    assert not state.has_room
    assert (state.begin_report().unused, state.ready) == (LEAST, 0)


def test_what_a_failed_call_leaves_in_doubt_is_not_used(admission):
    state = books(admission)
    state.settle(report := state.begin_report(), granted(report))
    state.begin_report(1)
    state.fail(0.0)
    report = state.begin_report()
    assert (report.held, report.reserve, report.unused) == (LEAST, 0, 0)
    state.settle(report, granted(report, ahead=0))
    assert not state.has_room


def test_with_a_slow_start_the_reserve_is_used_beside_a_connection_only(admission):
    state = books(admission, SLOW_START=5)
    state.settle(report := state.begin_report(1), granted(report))
    state.admit()
    assert report.ahead == 0
    state.settle(report := state.begin_report(), granted(report))
    assert state.may_enter(None)
    state.release()
    assert not state.may_enter(None)
    report = state.begin_report()
    assert (report.held, report.ahead, report.unused) == (0, 0, LEAST)


def test_what_was_kept_without_a_rate_has_no_token(admission):
    state = State(admission(MAX_CONNECTIONS=LIMIT).pool("default"), Worker())
    state.settle(report := state.begin_report(), granted(report))
    settings = f"limit={LIMIT},warn_at=0.7,lease=30000,heartbeat=3000,rate=5,burst=1"
    state.settle(report := state.begin_report(1), granted(report, settings=settings, ahead=0, most_in_reserve=0))
    state.admit()
    assert not state.has_room
    assert state.begin_report().unused == 0


async def test_where_all_ask_for_more_than_a_slot_none_is_kept(opened):
    async with opened(QUOTAS=[{"key": "address", "max": 100}]) as limiter:
        for _ in range(3):
            assert isinstance(await limiter.acquire(Ask((b"kim",))), Slot)
        limiter.report_now()
        await eventually(lambda: stored(limiter) == (3, 0))
        assert all(report.ahead == 0 for report in limiter.reconciler.ledger.reports)


async def test_in_a_pool_with_quotas_those_without_a_key_need_not_wait(opened):
    async with opened(QUOTAS=[{"key": "address", "max": 100}]) as limiter:
        await limiter.acquire(Ask((None,)))
        limiter.report_now()
        await eventually(lambda: stored(limiter) == (1, LEAST))
        before = limiter.state.calls.made
        assert isinstance(await limiter.acquire(Ask((None,))), Slot)
        assert limiter.state.calls.made == before
        await limiter.acquire(Ask((b"kim",)))
        assert limiter.state.calls.made == before + 1


async def test_in_a_pool_with_classes_a_slot_that_is_free_again_is_not_used_without_the_ledger(opened):
    async with opened(**CLASSES) as limiter:
        await ready(limiter)
        slots = [await limiter.acquire(Ask()) for _ in range(stored(limiter)[1])]
        before = limiter.state.calls.made
        slots[0].release()
        assert not limiter.state.may_enter(Ask())
        assert limiter.state.calls.made == before


async def test_a_pool_that_is_small_has_none(opened):
    async with opened(MAX_CONNECTIONS=RESERVE_PARTS - 1) as limiter:
        assert isinstance(await limiter.acquire(), Slot)
        limiter.report_now()
        await eventually(lambda: stored(limiter) == (1, 0))


async def test_a_limiter_that_is_replaced_makes_no_calls_for_its_reserve(opened):
    async with opened() as limiter:
        slot = await limiter.acquire()
        limiter.retire()
        await eventually(lambda: stored(limiter) == (1, 0))
        before = limiter.state.calls.made
        await asyncio.sleep(0.2)
        assert limiter.state.calls.made == before
        slot.release()


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

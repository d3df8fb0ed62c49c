"""The pauses between a worker's calls, and how many calls all workers of a pool make together."""

import asyncio
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from channels_admission.core.counters import Calls, Reason
from channels_admission.core.protocol import Refusal
from channels_admission.exceptions import LedgerRefused
from channels_admission.ledger.base import done_within
from channels_admission.ledger.memory import MemoryLedger
from channels_admission.limiter.calls.pace import (
    BUSY,
    CROWD_PAUSE,
    EASY,
    FULL_FRESH,
    IDLE,
    LONGEST_CALL,
    LONGEST_PAUSE,
    MOST_CALLS,
    SLACK,
    SLOWEST,
    WINDOW,
    CallPace,
)

from support.faulty import FaultyLedger
from support.limiters import limiter_over
from support.virtual import run

TIMEOUT, HEARTBEAT = 0.25, 3.0
WORKERS = 10_000
SHOWN = 20
"""Workers of these that are simulated; the others do the same."""


@pytest.fixture
def state():
    pool = SimpleNamespace(when_ledger_down="share")
    calls = SimpleNamespace(lately=0.0)
    return SimpleNamespace(workers=1, scarce=False, needs_grants=False, has_line=False, calls=calls, pool=pool)


@pytest.fixture
def pace(state):
    return CallPace(state, TIMEOUT, HEARTBEAT)


def busy(pace, share=1.0):
    """Let all workers make this share of the most calls for a second."""
    pace.count(0, 0.0)
    pace.count(round(share * MOST_CALLS), 1.0)


def test_a_few_workers_near_redis_pause_for_a_shortage_and_a_crowd_only(pace):
    assert pace.call == 0
    assert pace.shortage == FULL_FRESH
    assert pace.crowd(3) == 3 * CROWD_PAUSE
    assert pace.crowd(1000) == LONGEST_PAUSE * TIMEOUT


def test_workers_that_make_many_calls_together_pause_for_one_another_and_at_most_a_heartbeat(pace, state):
    state.workers = WORKERS
    assert (pace.call, pace.shortage) == (0, FULL_FRESH)
    busy(pace)
    assert pace.call == pace.shortage == WORKERS / MOST_CALLS
    state.workers = 10 * WORKERS
    assert pace.call == pace.shortage == HEARTBEAT


@pytest.mark.parametrize(
    ("load", "part"), [(0.4, 0), (EASY, 0), ((EASY + BUSY) / 2, 0.5), (BUSY, 1), (1, 1), (10, 1), (-1, 0)]
)
def test_the_part_of_a_worker_shrinks_with_the_calls_of_all(pace, state, load, part):
    state.workers = 1000
    busy(pace, load)
    assert pace.call == pytest.approx(part * 1000 / MOST_CALLS)


def test_calls_are_counted_over_a_while(pace, state):
    state.workers = 1000
    pace.count(100, 5.0)
    pace.count(100 + MOST_CALLS, 5.0 + WINDOW / 2)
    assert pace.call == 0
    pace.count(100 + MOST_CALLS, 5.0 + 2 * WINDOW)
    assert pace.call > 0
    pace.count(101 + MOST_CALLS, 6.0)
    assert pace.call == 0


def test_slow_calls_to_a_full_pool_are_fewer(pace, state):
    state.calls.lately = 0.2
    assert pace.shortage == IDLE * 0.2
    assert pace.call == 0  # there is room, and handshakes wait
    state.scarce = True
    assert pace.call == LONGEST_PAUSE * TIMEOUT
    state.calls.lately = 0.01
    assert pace.call == IDLE * 0.01
    state.calls.lately = 10
    assert pace.shortage == HEARTBEAT


def test_pauses_are_not_cut_short_for_handshakes_that_slow_calls_serve_too_late(pace, state):
    state.scarce, state.calls.lately = True, 0.99 * TIMEOUT
    assert pace.call == LONGEST_PAUSE * TIMEOUT
    state.calls.lately = TIMEOUT
    assert pace.call == IDLE * TIMEOUT
    state.calls.lately = 10
    assert pace.call == HEARTBEAT


@pytest.mark.parametrize("scarce", [False, True])
def test_a_late_answer_is_waited_for_as_long_as_redis_is_slow(pace, state, scarce):
    state.scarce = scarce
    for lately, longest in ((0.0, TIMEOUT), (0.02, TIMEOUT), (0.05, SLACK * 0.05), (10, HEARTBEAT)):
        state.calls.lately = lately
        assert pace.longest == longest
    assert CallPace(state, TIMEOUT, heartbeat=60).longest == SLOWEST


def test_a_slow_redis_of_a_full_pool_has_more_time_for_its_answer(pace, state):
    state.scarce, state.calls.lately = True, TIMEOUT / SLACK
    assert pace.timeout == TIMEOUT
    state.calls.lately = 0.05
    assert pace.timeout == SLACK * 0.05
    state.calls.lately = 10
    assert pace.timeout == LONGEST_CALL * TIMEOUT
    assert CallPace(state, TIMEOUT, heartbeat=0.6).timeout == 0.6
    assert CallPace(state, TIMEOUT, heartbeat=0.2).timeout == TIMEOUT
    state.calls.lately = 2.0
    assert CallPace(state, 3.0, heartbeat=60).timeout == SLOWEST


@pytest.mark.parametrize("but", [{"scarce": False}, {"pool": SimpleNamespace(when_ledger_down="open")}], ids=str)
def test_it_has_no_more_where_a_worker_may_decide_alone(pace, state, but):
    state.scarce, state.calls.lately = True, 0.2
    vars(state).update(but)
    assert pace.timeout == TIMEOUT


@pytest.mark.parametrize("need", ["needs_grants", "has_line"])
def test_it_has_no_more_where_slots_wait_for_an_answer_that_no_handshake_can_wait_for(pace, state, need):
    state.scarce = True
    setattr(state, need, True)
    state.calls.lately = 0.99 * TIMEOUT
    assert pace.timeout == LONGEST_CALL * TIMEOUT
    state.calls.lately = TIMEOUT
    assert pace.timeout == TIMEOUT


def test_how_long_calls_take_follows_slow_ones_sooner_than_fast_ones():
    calls, times = Calls(), iter([0, 1.0, 2, 2.0, 3, 3.0])
    seen = []
    for _ in range(3):
        with calls.timing(lambda: next(times)):
            pass
        seen.append(calls.lately)
    assert seen == pytest.approx([0.5, 0.45, 0.405])
    assert calls.times.seconds == 1.0


class Many(FaultyLedger):
    """A ledger that knows of further workers, each of which makes as many calls."""

    async def reconcile(self, pool, report):
        others = WORKERS // SHOWN
        reply = await super().reconcile(pool, replace(report, version=report.version // others))
        return replace(reply, workers=WORKERS, version=reply.version * others)


@pytest.mark.parametrize("limit", [0, SHOWN, 10**6], ids=["full", "scarce", "room for all"])
def test_ten_thousand_workers_in_a_storm_make_no_more_calls_than_redis_can_answer(admission, limit):
    settings, wall = (
        admission(MAX_CONNECTIONS=limit, HEARTBEAT=HEARTBEAT, LEASE=30, LEDGER_TIMEOUT=TIMEOUT),
        time.time(),
    )

    async def main():
        loop = asyncio.get_running_loop()
        inner = MemoryLedger(settings, lambda: wall + loop.time(), lambda: wall + loop.time())
        ledgers = [Many(inner) for _ in range(SHOWN)]
        limiters = [limiter_over(settings, ledger) for ledger in ledgers]
        verdicts = []

        async def knock(limiter):
            while True:
                began = loop.time()
                verdict = await limiter.acquire()
                assert loop.time() - began <= 1.05 * TIMEOUT
                verdicts.append(verdict)
                if not isinstance(verdict, Refusal):
                    loop.call_later(0.5, verdict.release)
                await asyncio.sleep(0.02)

        clients = [asyncio.ensure_future(knock(limiter)) for limiter in limiters for _ in range(5)]
        await asyncio.sleep(2 * HEARTBEAT)
        for ledger in ledgers:
            ledger.reports.clear()
        verdicts.clear()
        seconds = 10 * HEARTBEAT
        await asyncio.sleep(seconds)
        made = sum(len(ledger.reports) - 1 for ledger in ledgers)  # from the first one to the last
        assert all(ledger.reports for ledger in ledgers)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        for limiter in limiters:
            await limiter.aclose()
        return made / seconds * WORKERS / SHOWN, {getattr(each, "reason", "admitted") for each in verdicts}

    calls, seen = run(main())
    assert calls <= MOST_CALLS
    assert ("admitted" in seen) is bool(limit)
    assert Reason.LEDGER not in seen  # none waits for a call that comes too late


def test_a_handshake_that_came_during_a_call_is_refused_at_once_where_the_next_one_is_far(admission, monkeypatch):
    monkeypatch.setattr(CallPace, "call", 10 * TIMEOUT)
    settings = admission(MAX_CONNECTIONS=1, HEARTBEAT=HEARTBEAT, LEASE=30, LEDGER_TIMEOUT=TIMEOUT)

    async def main():
        ledger = FaultyLedger(MemoryLedger(settings))
        limiter, loop = limiter_over(settings, ledger), asyncio.get_running_loop()
        try:
            ledger.delay = 0.1
            await asyncio.sleep(0.05)  # the first heartbeat is on its way
            verdict, waited = await limiter.acquire(), loop.time()
        finally:
            ledger.delay = 0
            await limiter.aclose()
        return verdict.reason, waited

    reason, when = run(main())
    assert (reason, when) == (Reason.CROWD, pytest.approx(0.1, abs=0.01))


def handshakes_at_a_full_pool(admission, delays):
    """In each call that takes so long: why a handshake is refused, and after what time the ledger is away, if it is."""
    settings = admission(MAX_CONNECTIONS=1, HEARTBEAT=HEARTBEAT, LEASE=30, LEDGER_TIMEOUT=TIMEOUT)

    async def main():
        ledger = FaultyLedger(MemoryLedger(settings))
        limiter, loop, seen = limiter_over(settings, ledger), asyncio.get_running_loop(), []
        try:
            assert not isinstance(await limiter.acquire(), Refusal)
            for ledger.delay in delays:
                await asyncio.sleep(limiter.pace.shortage)
                began, made, lost_after = loop.time(), len(ledger.reports), None
                verdict = await limiter.acquire()
                assert loop.time() - began <= 1.01 * TIMEOUT
                assert len(ledger.reports) > made
                while lost_after is None and loop.time() - began < min(ledger.delay, 2):
                    await asyncio.sleep(0.01)
                    lost_after = loop.time() - began if limiter.state.away else None
                seen.append((verdict.reason, lost_after))
        finally:
            ledger.delay = 0
            await limiter.aclose()
        return seen

    return run(main())


def test_a_slow_redis_of_a_full_pool_is_not_lost_at_once_and_no_handshake_waits_longer(admission):
    assert handshakes_at_a_full_pool(admission, (0.1, 0.2, 0.6)) == [
        (Reason.FULL, None),
        (Reason.FULL, None),
        (Reason.LEDGER, None),
    ]


@pytest.mark.parametrize(("before", "times"), [(0.2, LONGEST_CALL), (0, 1)], ids=["slow", "fast"])
def test_a_redis_that_answers_a_full_pool_no_more_is_lost(admission, before, times):
    reason, lost_after = handshakes_at_a_full_pool(admission, (before, 10))[-1]
    assert (reason, lost_after) == (Reason.LEDGER, pytest.approx(times * TIMEOUT, abs=0.03))


def calls_of_a_slow_ledger(admission, happens, seconds):
    """When calls are made, from the first one that is late on, and what fails; ``happens`` to the ledger then."""
    settings = admission(MAX_CONNECTIONS=10, HEARTBEAT=HEARTBEAT, LEASE=30, LEDGER_TIMEOUT=TIMEOUT)

    async def main():
        ledger, made, loop = FaultyLedger(MemoryLedger(settings)), [], asyncio.get_running_loop()
        reconcile = ledger.reconcile

        async def timed(pool, report):
            made.append(loop.time())
            return await reconcile(pool, report)

        ledger.reconcile = timed
        limiter = limiter_over(settings, ledger)
        try:
            ledger.delay = 0.2
            while limiter.state.calls.lately < 0.15:
                limiter.report_now()
                await asyncio.sleep(0.25)
            made.clear()
            happens(ledger)
            limiter.report_now()
            await asyncio.sleep(seconds)
            return [at - made[0] for at in made], limiter.state.calls.failing
        finally:
            ledger.silent, ledger.delay, ledger.error = False, 0, None
            await limiter.aclose()

    return run(main())


def test_while_a_late_answer_may_come_no_other_call_is_made(admission):
    made, failing = calls_of_a_slow_ledger(admission, lambda ledger: setattr(ledger, "delay", 0.4), 3.3)
    assert made[:2] == [0, pytest.approx(0.4 + IDLE * 0.4, abs=IDLE * 0.2)]  # drawn by lot
    assert failing >= 1


def test_an_answer_that_is_lost_holds_for_no_longer_than_redis_was_slow(admission):
    made, failing = calls_of_a_slow_ledger(admission, lambda ledger: setattr(ledger, "silent", True), 2.5)
    assert made == [0, pytest.approx(SLACK * 0.175, abs=0.3)]
    assert failing == 1


def test_an_error_that_comes_late_is_the_error_of_the_call(admission, caplog):
    def happens(ledger):
        async def refuse(pool, report):
            await asyncio.sleep(1)
            raise LedgerRefused("no rights")

        ledger.inner = SimpleNamespace(reconcile=refuse)

    calls_of_a_slow_ledger(admission, happens, 2)
    assert any("no rights" in each.getMessage() for each in caplog.records)


async def test_a_busy_event_loop_is_no_silent_ledger():
    """Nine of ten ticks are still to come when the event loop has been busy for all of the time."""
    loop = asyncio.get_running_loop()
    answer, silent = loop.create_future(), loop.create_future()

    def keep_busy():
        time.sleep(0.2)
        loop.call_later(0.01, answer.set_result, None)

    loop.call_later(0.001, keep_busy)
    assert await done_within((answer,), 0.1)
    assert not await done_within((silent,), 0.01)
    assert not silent.cancelled()

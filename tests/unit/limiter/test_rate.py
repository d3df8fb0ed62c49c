"""The connect rate as a limiter keeps it: with the ledger, without it, and in the hints to those it refuses."""

import asyncio
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from channels_admission.core.counters import Reason
from channels_admission.core.herd.line import ASSUMED
from channels_admission.core.herd.rate import SCHEDULED
from channels_admission.exceptions import LedgerUnavailable
from channels_admission.ledger import open_ledger
from channels_admission.limiter.limiter import Slot

from support.faulty import FaultyLedger
from support.limiters import limiter_over
from support.waiting import eventually

RATE, BURST = 50, 10
KEYS = {"MAX_CONNECTIONS": 1000, "HEARTBEAT": 0.2, "LEASE": 2, "CONNECT_RATE": RATE, "CONNECT_BURST": BURST}


@pytest.fixture(params=["memory", "redis"])
def opened(request, admission):
    """``async with opened(count, KEY=value) as limiters``: so many workers of one pool with a full bucket."""

    @asynccontextmanager
    async def open_limiters(count=1, **keys):
        url = request.getfixturevalue("redis_server").url if request.param == "redis" else "memory"
        settings = admission(**{**KEYS, "LEDGER": url, **keys})
        ledgers = [FaultyLedger(open_ledger(settings)) for _ in range(count)]
        limiters = [limiter_over(settings, ledger) for ledger in ledgers]
        await eventually(lambda: all(limiter.state._met_settled for limiter in limiters))
        await asyncio.sleep(BURST / RATE)
        try:
            yield limiters
        finally:
            for limiter in limiters:
                await limiter.aclose()
            for ledger in ledgers:
                await ledger.aclose()

    return open_limiters


async def arrive(limiter, count):
    return await asyncio.gather(*(limiter.acquire() for _ in range(count)))


def admitted(verdicts):
    return [verdict for verdict in verdicts if isinstance(verdict, Slot)]


def refused(verdicts):
    return [verdict for verdict in verdicts if not isinstance(verdict, Slot)]


async def test_a_burst_is_admitted_and_the_others_told_apart_from_a_full_pool(opened):
    async with opened() as (limiter,):
        verdicts = await arrive(limiter, 100)
        assert len(admitted(verdicts)) == BURST
        assert {verdict.reason for verdict in refused(verdicts)} == {Reason.RATE}
        assert limiter.state.counters == {"admitted": BURST, "rate": 100 - BURST, "promised": 100 - BURST}


async def test_all_workers_together_keep_the_rate(opened):
    async with opened(4) as limiters:
        began = asyncio.get_running_loop().time()
        count = 0
        while (elapsed := asyncio.get_running_loop().time() - began) < 1.0:
            verdicts = await asyncio.gather(*(arrive(limiter, 5) for limiter in limiters))
            count += sum(len(admitted(each)) for each in verdicts)
            await asyncio.sleep(0.01)
        elapsed = asyncio.get_running_loop().time() - began
        assert count <= BURST + RATE * elapsed
        assert count >= RATE * 0.8


async def test_a_freed_slot_is_no_way_round_the_rate(opened):
    async with opened() as (limiter,):
        began = asyncio.get_running_loop().time()
        count = 0
        for _ in range(200):
            verdict = await limiter.acquire()
            if isinstance(verdict, Slot):
                count += 1
                verdict.release()
        assert count <= BURST + RATE * (asyncio.get_running_loop().time() - began)


async def test_every_refused_client_gets_a_time_of_its_own(opened):
    async with opened(2) as limiters:
        verdicts = await asyncio.gather(*(arrive(limiter, 60) for limiter in limiters))
        times = sorted(verdict.retry_after for each in verdicts for verdict in refused(each))
        step = ASSUMED / (SCHEDULED * RATE)
        assert len(times) == 120 - BURST
        assert times[0] == pytest.approx(1.0, abs=0.1)
        assert times[-1] == pytest.approx(1.0 + (120 - BURST - 1) * step, abs=0.1)
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert max(gaps) < 0.1


async def test_times_given_without_asking_are_told_to_the_ledger(opened):
    # So slow that no token is added while a busy machine pauses the test.
    async with opened(CONNECT_RATE=5, CONNECT_BURST=1) as (limiter,):
        await arrive(limiter, 11)
        quick = [await limiter.acquire() for _ in range(5)]
        assert {verdict.reason for verdict in quick} == {Reason.RATE}
        assert limiter.retries.unreserved == 5
        last = max(verdict.retry_after for verdict in quick)
        await eventually(lambda: limiter.retries.unreserved == 0)
        (verdict,) = await arrive(limiter, 1)
        if not isinstance(verdict, Slot):
            assert verdict.retry_after >= last - 0.3


async def test_a_handshake_given_up_wastes_no_slot(opened):
    async with opened() as (limiter,):
        limiter.reconciler.ledger.delay = 0.05
        waiting = [asyncio.ensure_future(limiter.acquire()) for _ in range(5)]
        await asyncio.sleep(0.02)
        waiting[0].cancel()
        verdicts = await asyncio.gather(*waiting[1:])
        assert len(admitted(verdicts)) == 4
        await eventually(lambda: limiter.state.unreported == 0)


@pytest.mark.parametrize("policy", ["share", "freeze", "closed"])
async def test_without_the_ledger_each_worker_keeps_its_part_of_the_rate(opened, policy):
    async with opened(2, WHEN_LEDGER_DOWN=policy) as limiters:
        slots = [slot for limiter in limiters for slot in admitted(await arrive(limiter, BURST // 2))]
        await eventually(lambda: all(limiter.state.workers == 2 for limiter in limiters))
        for limiter in limiters:
            limiter.reconciler.ledger.error = LedgerUnavailable("the road is closed")
        await eventually(lambda: all(limiter.state.away for limiter in limiters))
        counted = sum(limiter.state.allowance for limiter in limiters)
        for slot in slots:
            slot.release()
        loop = asyncio.get_running_loop()
        began, count, reasons = loop.time(), 0, set()
        while loop.time() - began < 0.5:
            verdicts = [await limiter.acquire() for limiter in limiters]
            count += len(admitted(verdicts))
            reasons |= {verdict.reason for verdict in refused(verdicts)}
            await asyncio.sleep(0.002)
        most = BURST + RATE * (loop.time() - began)
        if policy == "share":
            assert RATE * 0.3 <= count <= most
            assert reasons == {Reason.RATE}
        else:
            assert count == {"freeze": counted, "closed": 0}[policy]
            assert Reason.LEDGER in reasons


async def test_times_given_alone_are_paced_too(opened):
    async with opened(1) as (limiter,):
        limiter.reconciler.ledger.error = LedgerUnavailable("the road is closed")
        await eventually(lambda: limiter.state.away)
        verdicts = [await limiter.acquire() for _ in range(20)]
        times = [verdict.retry_after for verdict in refused(verdicts)]
        assert times == sorted(times)
        assert times[0] == pytest.approx(1.0, abs=0.2)


async def test_open_lets_everybody_in_whatever_the_rate(opened):
    async with opened(WHEN_LEDGER_DOWN="open") as (limiter,):
        limiter.reconciler.ledger.error = LedgerUnavailable("the road is closed")
        await eventually(lambda: limiter.state.away)
        assert len(admitted(await arrive(limiter, 100))) == 100


async def test_a_ramp_lets_an_empty_pool_fill_slowly(opened):
    async with opened(SLOW_START=2, CONNECT_RATE=100, CONNECT_BURST=50) as (limiter,):
        loop = asyncio.get_running_loop()
        began, slots = loop.time(), []
        while loop.time() - began < 1.0:
            slots += admitted(await arrive(limiter, 20))
            await asyncio.sleep(0.01)
        # Half of the rate is in force after a second: a quarter of a full second's admissions has passed.
        assert 15 <= len(slots) <= 1 + 100 * (loop.time() - began) ** 2 / 4


async def test_a_pool_with_another_rate_has_its_own(admission):
    settings = admission(POOLS={"chat": {"CONNECT_RATE": 5}}, CONNECT_RATE=8)
    assert (settings.pool("default").terms.rate, settings.pool("default").terms.burst) == (8, 4)
    assert (settings.pool("chat").terms.rate, settings.pool("chat").terms.burst) == (5, 3)

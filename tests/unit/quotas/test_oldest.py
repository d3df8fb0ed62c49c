"""Limiters, the middleware and the mixin where the oldest connection under a key gives way to a new one."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from channels_admission.exceptions import LedgerUnavailable
from channels_admission.ledger import open_ledger
from channels_admission.limiter.connections.asgi import REPLACED
from channels_admission.limiter.connections.slot import Slot
from channels_admission.limiter.limiter import Limiter
from channels_admission.limiter.registry import close_limiters, limiter_of
from channels_admission.middleware import AdmissionMiddleware
from channels_admission.status.snapshot import collect

from support.limiters import limiter_over
from support.users import KIM, LEE, Client, Echo, enter, leave, site
from support.waiting import eventually

HEARTBEAT, MOST = 0.3, 2
OLDEST = {"key": "user", "max": MOST, "full": "oldest", "rate": 50, "burst": 100}
KEYS = {"QUOTAS": [OLDEST], "HEARTBEAT": HEARTBEAT, "LEASE": 3, "MAX_CONNECTIONS": 50}
OVER = "quota:user"


class Seat:
    """An open connection of a limiter: runs until it is ended, and then gives its slot back."""

    def __init__(self, limiter: Limiter, slot: Slot) -> None:
        self.sent = []
        self.slot = slot
        self.task = asyncio.ensure_future(self._run(limiter))

    async def _run(self, limiter):
        async def receive():
            await asyncio.Event().wait()

        async def send(message):
            self.sent.append(message)

        connection = limiter.lookout.open(self.slot, {"type": "websocket"}, receive, send)
        try:
            await connection.receive()
        finally:
            limiter.leave(connection)

    @property
    def code(self):
        return self.sent[-1]["code"] if self.sent else None


@pytest.fixture(params=["memory", "redis"])
def opened(request, admission):
    """``async with opened(count, KEY=value) as limiters``: so many workers of one pool."""

    @asynccontextmanager
    async def open_limiters(count=2, **keys):
        url = request.getfixturevalue("redis_server").url if request.param == "redis" else "memory"
        settings = admission(**{**KEYS, "LEDGER": url, **keys})
        ledgers = [open_ledger(settings) for _ in range(count)]
        limiters = [limiter_over(settings, ledger) for ledger in ledgers]
        await eventually(lambda: all(limiter.state._met_settled for limiter in limiters))
        try:
            yield limiters
        finally:
            for limiter in limiters:
                await limiter.aclose()
            for ledger in ledgers:
                await ledger.aclose()

    return open_limiters


GAP = 0.1
"""Seconds: of those who come closer together than a call takes, either may count as the older one."""


async def come(limiter, user=KIM, after=0.0):
    await asyncio.sleep(after)
    verdict = await enter(limiter, user=user)
    return Seat(limiter, verdict) if isinstance(verdict, Slot) else verdict.reason


async def test_the_oldest_ends_on_another_worker_within_a_heartbeat(opened):
    async with opened() as (one, other):
        first, second = await come(one), await come(one, after=GAP)
        third = await come(other, after=GAP)
        began = asyncio.get_running_loop().time()
        assert third.code is None
        await eventually(lambda: first.task.done())
        assert asyncio.get_running_loop().time() - began < 2 * HEARTBEAT
        assert first.code == REPLACED
        assert first.sent[-1]["reason"] == "Replaced by a newer connection"
        assert (second.code, third.code) == (None, None)
        await eventually(lambda: one.state.held + other.state.held == MOST and not one.state.unreported)
        assert (one.state.counters["evicted"], other.state.counters["evicted"]) == (1, 0)
        fourth = await come(one)
        await eventually(lambda: second.task.done())
        assert (second.code, third.code, fourth.code) == (REPLACED, None, None)


async def test_nobody_ends_in_the_place_of_one_that_leaves_during_the_call(opened, monkeypatch):
    async with opened(1) as (limiter,):
        first, second = await come(limiter), await come(limiter, after=GAP)
        told, reconcile = [], limiter.reconciler.ledger.reconcile

        async def leave_meanwhile(pool, report):
            view = await reconcile(pool, report)
            told.extend(view.evicted)
            if view.evicted:
                first.slot.release()
            return view

        monkeypatch.setattr(limiter.reconciler.ledger, "reconcile", leave_meanwhile)
        third = await come(limiter, after=GAP)
        assert [each.number for each in told] == [1]
        await eventually(lambda: limiter.state.held == MOST and not limiter.state.unreported)
        assert (second.code, third.code) == (None, None)
        assert limiter.state.counters["evicted"] == 0


async def test_one_after_the_other_leaves_the_youngest(opened):
    async with opened() as limiters:
        seats = []
        for number in range(12):
            seat = await come(limiters[number % 2], after=GAP)
            assert isinstance(seat, Seat)
            seats.append(seat)
            await eventually(lambda: sum(limiter.state.held for limiter in limiters) <= MOST)
        await eventually(lambda: sum(seat.task.done() for seat in seats) == 10)
        assert [seat.code for seat in seats] == [REPLACED] * 10 + [None] * MOST
        assert sum(limiter.state.counters["evicted"] for limiter in limiters) == 10


async def test_a_flood_of_one_user_is_bounded_and_harms_nobody_else(opened):
    async with opened() as limiters:
        lee = await come(limiters[0], LEE)
        seats = [*await asyncio.gather(*(come(limiters[number % 2]) for number in range(40)))]
        admitted = [seat for seat in seats if isinstance(seat, Seat)]
        assert MOST <= len(admitted) <= 2 * MOST
        assert {seat for seat in seats if not isinstance(seat, Seat)} == {OVER}
        await eventually(lambda: sum(limiter.state.held for limiter in limiters) == MOST + 1)
        assert lee.code is None


async def test_a_full_pool_lets_nobody_in_and_nobody_out(opened):
    async with opened(1, MAX_CONNECTIONS=MOST) as (limiter,):
        seats = [await come(limiter) for _ in range(MOST)]
        assert await come(limiter) == "full"
        assert [seat.code for seat in seats] == [None] * MOST


async def test_while_the_ledger_is_away_the_quota_refuses(opened):
    async with opened(1) as (limiter,):
        seats = [await come(limiter) for _ in range(MOST)]
        limiter.reconciler._fail(LedgerUnavailable("gone"))
        assert await come(limiter) == OVER
        assert [seat.code for seat in seats] == [None] * MOST


async def test_a_dry_run_counts_whom_it_would_have_closed_and_closes_nobody(opened):
    async with opened(1, DRY_RUN=True) as (limiter,):
        seats = [await come(limiter) for _ in range(MOST + 1)]
        for _ in range(3):
            calls = limiter.state.calls.made
            limiter.report_now()
            await eventually(lambda calls=calls: limiter.state.calls.made > calls)
        assert [seat.code for seat in seats] == [None] * (MOST + 1)
        assert limiter.state.counters["dry:evicted"] == 1
        assert limiter.state.counters["evicted"] == 0


async def test_nothing_is_kept_of_slots_that_were_released(opened):
    async with opened(1) as (limiter,):
        seats = [await come(limiter, user) for user in (KIM, LEE, KIM)]
        await asyncio.sleep(0)
        for seat in seats:
            seat.task.cancel()
        await asyncio.gather(*(seat.task for seat in seats), return_exceptions=True)
        slot_ages = limiter.state.slot_ages
        assert (slot_ages._since, slot_ages._places, slot_ages.spared) == ({}, {}, set())


async def test_the_mixin_knows_the_user_and_closes_its_oldest_connection(admission):
    admission(QUOTAS=[{"key": "user", "max": 1, "full": "oldest", "rate": 10}])
    first, second = Client(site(KIM)), Client(site(KIM))
    assert await first.opens()
    assert await second.opens()
    closed = await first.socket.receive_output(5)
    assert (closed["type"], closed["code"]) == ("websocket.close", REPLACED)
    assert await second.is_open()
    limiter = limiter_of("default")
    await eventually(lambda: limiter.state.held == 1 and not limiter.state.unreported)
    (pool,) = (await collect()).pools
    assert (pool.evicted, pool.held, pool.refused) == (1, 1, {})
    await leave([second])


async def test_pools_without_such_a_quota_keep_no_ages(admission):
    admission(QUOTAS=[{"key": "user", "max": 1, "full": "refuse"}])
    client = Client(AdmissionMiddleware(Echo.as_asgi()))
    assert await client.opens()
    assert limiter_of("default").state.slot_ages is None
    await leave([client])
    await close_limiters()

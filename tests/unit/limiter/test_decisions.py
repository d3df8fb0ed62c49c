"""Clients that return with tickets: first in line, once each, and never further from their place by a refusal."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from channels_admission import conf
from channels_admission.core.counters import Reason
from channels_admission.core.herd.line import WIDTH
from channels_admission.core.herd.tickets import Signer, Ticket
from channels_admission.core.protocol import Ask, Refusal
from channels_admission.exceptions import LedgerUnavailable
from channels_admission.ledger import open_ledger
from channels_admission.limiter.calls.pace import FULL_FRESH
from channels_admission.limiter.limiter import Slot

from support.faulty import FaultyLedger
from support.limiters import limiter_over
from support.waiting import eventually

KEYS = {"MAX_CONNECTIONS": 3, "HEARTBEAT": 0.4, "LEASE": 4, "RETRY_AFTER": (0.5, 60)}


class Site:
    """A worker, and clients that hand back their tickets."""

    def __init__(self, settings, ledger) -> None:
        self.limiter = limiter_over(settings, ledger)
        self.ledger = ledger
        self.state = self.limiter.state
        self.clock = self.limiter.places.clock
        self.ask = Ask() if self.limiter.rules is not None else None

    async def come(self, ticket: Ticket | None = None) -> Slot | Refusal:
        return await self.limiter.acquire(self.ask, ticket)

    async def come_together(self, *tickets: Ticket | None) -> list[Slot | Refusal]:
        return await asyncio.gather(*map(self.come, tickets))

    async def fill(self) -> list[Slot]:
        slots = await self.come_together(*[None] * self.state.limit)
        assert all(isinstance(slot, Slot) for slot in slots)
        return slots

    async def refused(self, number: int) -> list[Ticket]:
        """The tickets of so many clients that come to a full pool, the earliest place first."""
        return sorted(map(self.ticket, await self.come_together(*[None] * number)))

    def ticket(self, refusal: Refusal) -> Ticket:
        ticket = self.limiter.places.read(refusal.ticket)
        assert ticket is not None
        return ticket

    async def until_due(self, ticket: Ticket, *, after: float = 0.01) -> None:
        await asyncio.sleep(max(ticket.place, ticket.due) - self.clock.time() + after)

    async def release(self, slot: Slot) -> None:
        """The ledger knows of the released slot when it returns."""
        slot.release()
        await eventually(lambda: self.state.allowance == self.state.held)


@pytest.fixture(params=["memory", "redis"])
def opened(request, admission):
    """``async with opened(KEY=value) as site``."""

    @asynccontextmanager
    async def open_site(**keys):
        url = request.getfixturevalue("redis_server").url if request.param == "redis" else "memory"
        settings = admission(**{**KEYS, "LEDGER": url, **keys})
        ledger = FaultyLedger(open_ledger(settings))
        site = Site(settings, ledger)
        await eventually(lambda: site.state._met_settled)
        try:
            yield site
        finally:
            await site.limiter.aclose()
            await ledger.aclose()

    return open_site


SHARED = {"QUOTAS": [{"key": "address", "max": 100}]}


@pytest.mark.parametrize("keys", [{}, SHARED], ids=["plain", "shared"])
async def test_a_freed_slot_goes_to_the_client_whose_ticket_is_due_and_not_to_one_that_came_before_it(opened, keys):
    async with opened(**keys) as site:
        slots = await site.fill()
        (ticket,) = await site.refused(1)
        await site.until_due(ticket)
        await site.release(slots[0])
        other, holder = await site.come_together(None, ticket)
        assert isinstance(holder, Slot)
        assert other.reason == Reason.FULL


@pytest.mark.parametrize("keys", [{}, SHARED], ids=["plain", "shared"])
async def test_due_tickets_go_in_by_their_places(opened, keys):
    async with opened(**keys) as site:
        slots = await site.fill()
        first, second, third = await site.refused(3)
        await site.until_due(third)
        for slot in slots[:2]:
            slot.release()
        await eventually(lambda: site.state.allowance == site.state.held)
        verdicts = await site.come_together(third, second, first)
        assert [isinstance(verdict, Slot) for verdict in verdicts] == [False, True, True]


@pytest.mark.parametrize("keys", [{}, SHARED], ids=["plain", "shared"])
async def test_one_that_is_due_and_finds_nothing_keeps_place_and_number_and_is_told_a_short_wait(opened, keys):
    async with opened(**keys) as site:
        await site.fill()
        (ticket,) = await site.refused(1)
        await site.until_due(ticket)
        refusal = await site.come(ticket)
        again = site.ticket(refusal)
        assert (refusal.reason, again.place, again.number) == (Reason.FULL, ticket.place, ticket.number)
        assert 0.5 <= refusal.retry_after <= 5.0
        assert again.due == pytest.approx(site.clock.time() + refusal.retry_after, abs=0.2)
        assert (site.state.counters["full"], site.state.counters["promised"]) == (2, 1)


@pytest.mark.parametrize("keys", [{}, SHARED], ids=["plain", "shared"])
async def test_an_early_ticket_keeps_its_time(opened, keys):
    async with opened(RETRY_AFTER=(20, 60), **keys) as site:
        await site.fill()
        (ticket,) = await site.refused(1)
        for _ in range(2):  # one is refused by the ledger, one for what the ledger has just said
            refusal = await site.come(ticket)
            assert site.ticket(refusal)[::2] == ticket[::2]
            assert refusal.retry_after == pytest.approx(max(20.0, ticket.place - site.clock.time()), abs=0.1)
        assert site.state.counters["promised"] == 1


@pytest.mark.parametrize("keys", [{}, SHARED], ids=["plain", "shared"])
async def test_of_a_hundred_copies_of_a_ticket_one_is_good(opened, keys):
    async with opened(**keys) as site:
        slots = await site.fill()
        ticket, *others = await site.refused(3)
        await site.until_due(others[-1], after=WIDTH)  # all three are expected
        await site.release(slots[0])
        verdicts = await site.come_together(*[ticket] * 100)
        assert sum(isinstance(verdict, Slot) for verdict in verdicts) == 1
        numbers = {site.ticket(verdict).number for verdict in verdicts if isinstance(verdict, Refusal)}
        assert ticket.number not in numbers
        await site.release(slots[1])
        copy, second = await site.come_together(ticket, others[0])
        assert (isinstance(copy, Refusal), isinstance(second, Slot)) == (True, True)


async def test_while_a_line_is_expected_no_freed_slot_is_taken_without_asking(opened):
    async with opened() as site:
        slots = await site.fill()
        (ticket,) = await site.refused(1)
        assert site.state.has_line
        await site.until_due(ticket)
        calls = site.state.calls.made
        slots[0].release()
        other, holder = await site.come_together(None, ticket)
        assert (isinstance(other, Refusal), isinstance(holder, Slot)) == (True, True)
        assert site.state.calls.made > calls


async def test_a_due_ticket_asks_in_a_shortage_that_refuses_others_at_once_but_not_more_often_than_they_may(opened):
    async with opened() as site:
        await site.fill()
        (ticket,) = await site.refused(1)
        await site.until_due(ticket)
        began, calls, loop = site.limiter._loop.time(), site.state.calls.made, site.limiter._loop
        attempts = 0
        while loop.time() < began + 0.5:
            ticket = site.ticket(await site.come(ticket))
            attempts += 1
        assert 3 < attempts <= site.state.calls.made - calls <= 4 + (loop.time() - began) / FULL_FRESH


async def test_tickets_that_are_forged_or_foreign_cost_no_call(opened):
    async with opened() as site:
        await site.fill()
        now = site.clock.time()
        foreign = Signer("another", conf.ticket_secrets())
        forged = [foreign.write(Ticket(now, now, number)) for number in range(1000)]
        await site.refused(1)
        calls = site.state.calls.made
        began = site.limiter._loop.time()
        verdicts = [await site.come(site.limiter.places.read(text)) for text in forged]
        assert {verdict.reason for verdict in verdicts} == {Reason.FULL}
        assert site.state.calls.made - calls <= 2 + 2 * (site.limiter._loop.time() - began) / FULL_FRESH


async def test_an_entrance_that_is_full_refuses_no_due_ticket(opened):
    async with opened() as site:
        slots = await site.fill()
        (ticket,) = await site.refused(1)
        await site.until_due(ticket)
        await site.release(slots[0])
        site.limiter.entrance.is_full = True
        other, holder = await site.come_together(None, ticket)
        assert (other.reason, isinstance(holder, Slot)) == (Reason.ENTRANCE, True)


async def test_one_that_a_worker_refuses_by_itself_keeps_its_place(opened, monkeypatch):
    async with opened() as site:
        await site.fill()
        (ticket,) = await site.refused(1)
        await site.until_due(ticket)
        monkeypatch.setattr(site.state, "draining", True)
        refusal = await site.come(ticket)
        assert refusal.reason == Reason.DRAINING
        assert site.ticket(refusal)[::2] == ticket[::2]


async def test_one_for_which_the_ledger_has_no_answer_in_time_keeps_its_place(opened):
    async with opened(LEDGER_TIMEOUT=0.1) as site:
        await site.fill()
        (ticket,) = await site.refused(1)
        await site.until_due(ticket)
        site.ledger.silent = True
        refusal = await site.come(ticket)
        site.ledger.silent = False
        assert refusal.reason == Reason.LEDGER
        assert site.ticket(refusal)[::2] == ticket[::2]


async def test_a_dry_run_refuses_no_ticket(opened):
    async with opened(DRY_RUN=True) as site:
        await site.fill()
        now = site.clock.time()
        assert isinstance(await site.come(Ticket(now, now, 1)), Slot)
        assert site.state.counters["dry:full"] == 1


async def test_without_the_ledger_a_due_ticket_goes_before_others_and_is_good_once(opened):
    async with opened(WHEN_LEDGER_DOWN="freeze") as site:
        slots = await site.fill()
        async with site.ledger.away(LedgerUnavailable("gone")):
            site.limiter.report_now()
            await eventually(lambda: site.state.away)
            ticket, second = await site.refused(2)
            await site.until_due(second, after=WIDTH)  # both are expected
            slots[0].release()
            other = await site.come()
            holder = await site.come(ticket)
            assert (other.reason, isinstance(holder, Slot)) == (Reason.LEDGER, True)
            slots[1].release()
            copy = await site.come(ticket)
            assert isinstance(copy, Refusal)
            assert site.ticket(copy).number != ticket.number
            assert isinstance(await site.come(second), Slot)


# A limit per worker


@pytest.mark.parametrize("keys", [{}, {"QUOTAS": [{"key": "user", "max": 5}]}], ids=["plain", "shared"])
async def test_a_worker_admits_no_more_than_its_own_limit_together_and_one_by_one(opened, keys):
    async with opened(MAX_CONNECTIONS=9, MAX_PER_WORKER=4, **keys) as site:
        verdicts = await site.come_together(*[None] * 7)
        slots = [each for each in verdicts if isinstance(each, Slot)]
        assert len(slots) == 4
        assert {each.reason for each in verdicts if isinstance(each, Refusal)} == {Reason.WORKER}
        assert (await site.come()).reason == Reason.WORKER
        slots.pop().release()
        slots.append(await site.come())
        assert isinstance(slots[-1], Slot)
        for slot in slots:
            slot.release()


async def test_a_dry_run_counts_those_beyond_a_worker_s_limit(opened):
    async with opened(MAX_PER_WORKER=1, DRY_RUN=True) as site:
        slots = [await site.come() for _ in range(2)]
        assert site.state.counters["dry:worker_full"] == 1
        for slot in slots:
            slot.release()


PASSED_ON = {"extensions": {"websocket.http.response": {}}, "headers": [(b"admission-retry", b"1")]}


async def test_those_that_wait_as_a_drain_begins_are_passed_on_too(opened):
    async with opened() as site:
        waiting = asyncio.ensure_future(site.limiter.acquire(site.ask, None, PASSED_ON))
        await asyncio.sleep(0)
        assert len(site.limiter.decisions.queue) == 1
        site.limiter.drain(0)
        refused = await waiting
        assert (refused.reason, refused.is_passed) == (Reason.DRAINING, True)
        again = await site.limiter.acquire(site.ask, None, PASSED_ON)
        assert (again.reason, again.is_passed, again.ticket) == (Reason.DRAINING, True, "")
        assert site.state.counters["passed"] == 2

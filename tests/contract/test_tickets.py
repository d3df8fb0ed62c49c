"""Tickets in every ledger: who goes first, what is kept, what is redeemed, and what the others are told."""

import asyncio

import pytest

from channels_admission.core.counters import Reason
from channels_admission.core.herd.line import AGAIN, ASSUMED, GRACE, LATE
from channels_admission.core.herd.rate import PROBING, SCHEDULED
from channels_admission.core.herd.tickets import Ticket
from channels_admission.core.overrides import Controls, Order
from channels_admission.core.protocol import Shown, Terms, Turn
from channels_admission.ledger.base import SETTLING

from support.claimants import Claimant, ask, settled
from support.reports import HEARTBEAT, LEASE, ClockedRedisLedger, Reporter

RATE = 10.0
TERMS = Terms(rate=RATE, burst=5, retry_after=(1.0, 60.0))
STEP = ASSUMED / (SCHEDULED * RATE)


def ticket(clock, place: float, number: int = 1, due: float | None = None) -> Ticket:
    """With its times in seconds from now."""
    return Ticket(clock.now + place, clock.now + (place if due is None else due), number)


def shown(*tickets: Ticket | None) -> tuple[Shown, ...]:
    """By so many handshakes, some of which have none."""
    return tuple(Shown(handshake, each) for handshake, each in enumerate(tickets) if each)


def waits(reply) -> dict[int, float | None]:
    """By handshake, in whole milliseconds."""
    return {turn.handshake: turn.wait and round(turn.wait, 3) for turn in reply.turns}


async def with_tokens(worker, clock, limit: int = 100):
    """A worker of a pool with a full bucket."""
    a = worker("a", limit=limit)
    await a.say(terms=TERMS)
    clock.now = round(clock.now, 0) + 4.0
    return a


async def test_a_pool_where_nobody_is_refused_has_no_line(worker):
    a = worker("a")
    reply = await a.say(wanted=3)
    assert (reply.has_line, reply.turns, reply.granted_shown) == (False, (), ())


async def test_whoever_is_refused_makes_a_line_that_ends_when_its_grace_is_over(worker, clock):
    a = worker("a", limit=1)
    clock.now = round(clock.now)
    assert (await a.say(wanted=2)).has_line
    clock.now += 2.4
    assert (await a.say(held=1)).has_line
    clock.now += 1.0
    assert not (await a.say(held=1)).has_line


async def test_a_due_ticket_goes_before_those_that_came_first(worker, clock):
    a = await with_tokens(worker, clock)
    first = [None, None, ticket(clock, -0.5, 1), None, ticket(clock, -0.7, 2)]
    reply = await a.say(wanted=7, shown=shown(*first))
    assert (reply.granted, reply.shortfall) == (5, Reason.RATE)
    assert reply.granted_shown == (2, 4)
    assert reply.turns == ()


async def test_due_tickets_go_in_the_order_of_their_places(worker, clock):
    a = await with_tokens(worker, clock)
    places = (-0.1, -0.3, -0.2, -0.9, -0.4, 0.1, -0.8, -0.05)
    reply = await a.say(wanted=8, shown=shown(*(ticket(clock, place, 7) for place in places)))
    assert (reply.granted, reply.granted_shown) == (5, (1, 2, 3, 4, 6))
    assert waits(reply) == {0: 1.0, 7: round(1.0 + 1 / RATE, 3), 5: round(1.0 + 2 / RATE, 3)}
    assert reply.retry_times is None


async def test_a_wait_of_a_due_ticket_is_five_seconds_at_the_most(worker, clock):
    a = await with_tokens(worker, clock, limit=0)
    reply = await a.say(wanted=90, shown=shown(*(ticket(clock, -0.001 * each, each) for each in range(90))))
    assert [turn.handshake for turn in reply.turns] == list(reversed(range(90)))
    assert [turn.wait for turn in reply.turns] == pytest.approx([min(AGAIN, 1.0 + each / RATE) for each in range(90)])


async def test_a_ticket_that_is_early_keeps_its_time_and_takes_none_of_the_schedule(worker, clock):
    a = await with_tokens(worker, clock)
    await a.say(wanted=5)
    reply = await a.say(held=5, wanted=3, shown=shown(ticket(clock, 7.25), None, ticket(clock, 700.0, 2, due=40.0)))
    assert waits(reply) == {0: 7.25, 2: 700.0}
    first = reply.retry_times.first
    reply = await a.say(held=5, wanted=1, shown=())
    assert reply.retry_times.first == pytest.approx(first + STEP)


async def test_a_ticket_that_is_early_is_admitted_in_the_order_of_arrival(worker, clock):
    a = await with_tokens(worker, clock)
    tickets = [None, ticket(clock, 3.0, 1), None, None, ticket(clock, 2.0, 2), ticket(clock, 1.5, 3), None]
    reply = await a.say(wanted=7, shown=shown(*tickets))
    assert (reply.granted, reply.granted_shown) == (5, (1, 4))
    assert waits(reply) == {5: 1.5}


async def test_a_ticket_is_good_once(worker, clock):
    a, b = await with_tokens(worker, clock), worker("b", limit=100)
    copy = ticket(clock, -0.5)
    assert (await a.say(wanted=1, shown=shown(copy))).granted_shown == (0,)
    clock.now += 0.3
    await b.say(wanted=9, terms=TERMS)
    for later in (0.0, 0.5, 0.65):
        clock.now += later
        reply = await b.say(wanted=1, shown=shown(copy._replace(due=clock.now)))
        assert reply.granted or reply.turns == (Turn(0, None),)
        await b.say(wanted=9, shown=())
    # With another number it is another ticket.
    reply = await b.say(wanted=9, shown=shown(*[None] * 8, copy._replace(number=2, due=clock.now)))
    assert None not in waits(reply).values()
    assert reply.granted == len(reply.granted_shown) or 8 not in reply.granted_shown


@pytest.mark.parametrize("place", [-0.5, 20.0])
async def test_a_redeemed_ticket_is_remembered_while_a_copy_that_a_worker_refused_by_itself_may_come(
    worker, clock, place
):
    a, b, longest = await with_tokens(worker, clock, limit=1), worker("b", limit=1), TERMS.retry_after[1]
    last = max(0.0, place) + longest
    copy = ticket(clock, place, due=min(place, 0.0))
    assert (await a.say(wanted=1, shown=shown(copy))).granted_shown == (0,)
    copy = copy._replace(due=clock.now + last)
    clock.now += last + GRACE + LATE - 0.001
    await a.say(held=1)
    assert waits(await b.say(wanted=1, shown=shown(copy), terms=TERMS)) == {0: None}
    clock.now += 0.001
    assert waits(await b.say(wanted=1, shown=shown(copy)))[0] is not None  # so few are remembered as have to be


async def redeemed_again(a, clock) -> Turn:
    """The answer to a ticket that was redeemed, in a pool that is full by it."""
    copy = ticket(clock, -0.5)
    assert (await a.say(wanted=1, shown=shown(copy))).granted_shown == (0,)
    (turn,) = (await a.say(held=1, wanted=1, shown=shown(copy))).turns
    return turn


async def test_it_is_noticed_when_a_ticket_is_good_twice(worker, clock, admission, redis_server):
    assert (await redeemed_again(worker("a", limit=1), clock)).wait is None
    forgetful = {"tickets.used": "function() return {} end"}
    ledger = ClockedRedisLedger(admission(LEASE=LEASE, HEARTBEAT=HEARTBEAT, LEDGER=redis_server.url), clock, forgetful)
    assert (await redeemed_again(Reporter(ledger, "b", limit=1, pool="other"), clock)).wait == 1.0
    await ledger.aclose()


async def test_of_copies_that_are_shown_at_once_one_is_good(worker, clock):
    a = await with_tokens(worker, clock, limit=2)
    copy = ticket(clock, -0.5)
    reply = await a.say(wanted=4, shown=shown(None, copy, copy, copy))
    assert (reply.granted, reply.granted_shown) == (2, (1,))
    assert waits(reply) == {2: None, 3: None}


async def test_a_ticket_is_good_until_its_grace_is_over_and_a_call_has_been_waited_for(worker, clock):
    a = await with_tokens(worker, clock, limit=1)
    in_time, late = (ticket(clock, -9.0, each, due=-GRACE - LATE - each / 100) for each in (0, 1))
    reply = await a.say(held=1, wanted=2, shown=shown(in_time, late))
    assert waits(reply)[1] is None
    assert waits(reply)[0] == 1.0


async def test_what_is_promised_is_kept_and_the_rest_is_for_whoever_comes(worker, clock):
    a = await with_tokens(worker, clock)
    reply = await a.say(wanted=25)
    assert (reply.granted, reply.retry_times.step) == (5, pytest.approx(STEP))
    clock.now += 1.2
    # Of the twenty, those of the first fifth of a second are expected; the bucket has five tokens.
    reply = await a.say(held=5, wanted=9)
    assert (reply.granted, reply.shortfall) == (3, Reason.RATE)
    due = [ticket(clock, -0.5 + 0.1 * place, place) for place in range(5)]
    reply = await a.say(held=8, wanted=6, shown=shown(None, *due))
    assert (reply.granted, reply.granted_shown) == (2, (1, 2))


async def test_what_nobody_comes_for_is_for_whoever_comes(worker, clock):
    a, granted = await with_tokens(worker, clock), []
    await a.say(wanted=12)
    for _ in range(8):
        clock.now += 0.5
        granted.append((await a.say(held=5, wanted=4)).granted)
    # Nothing is due before a second has passed, and less is kept the more tickets are missed.
    assert granted[:6] == [4, 4, 2, 3, 3, 4]


async def test_the_schedule_is_overbooked_by_the_share_of_tickets_that_are_shown(worker, clock):
    a = await with_tokens(worker, clock, limit=0)
    steps = []
    for _ in range(20):
        steps.append((await a.say(wanted=10)).retry_times.step * SCHEDULED * RATE)
        clock.now += 0.5
    # The first are due after a second, and missed a quarter of a second later.
    assert steps[:3] == pytest.approx([ASSUMED] * 3)
    assert steps[3] < 0.5
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] == pytest.approx(0.1)


async def test_a_schedule_that_is_much_longer_than_the_line_is_drawn_back(worker, clock):
    """Clients that try all the time, and none of whom keeps its place, are followed by one that comes alone."""
    a = await with_tokens(worker, clock, limit=10_000)
    reply = await a.say(wanted=1000)
    assert 1000 * reply.retry_times.step > 90
    for _ in range(40):
        clock.now += 0.5
        await a.say(wanted=50)
    reply = await a.say(wanted=20)
    assert reply.retry_times.first - reply.retry_times.elapsed < 20
    clock.now += 5.0
    assert (await a.say(wanted=1)).granted == 1


async def test_a_line_whose_tickets_nobody_shows_is_expected_no_more_until_one_is_due_and_finds_nothing(worker, clock):
    a, b = worker("a", limit=20), worker("b", limit=20)
    await a.say(wanted=20)
    has_line = []
    for _ in range(16):
        has_line.append((await a.say(held=20, wanted=20)).has_line)
        clock.now += 0.5
    assert has_line[:3] == [True] * 3
    assert has_line[-3:] == [False] * 3
    reply = await b.say(wanted=1, shown=shown(ticket(clock, -0.1)))
    assert (reply.granted, reply.has_line) == (0, True)
    assert (await a.say(held=20)).has_line


async def test_a_full_bucket_keeps_all_but_one_of_its_tokens_for_those_that_are_expected(worker, clock):
    a, terms = await with_tokens(worker, clock), Terms(rate=RATE, burst=2)
    await a.say(terms=terms)
    clock.now += 1
    assert (await a.say(wanted=22, terms=terms)).granted == 2
    clock.now += 1.24
    assert [(await a.say(held=held, wanted=4, terms=terms)).granted for held in (2, 3)] == [1, 0]
    clock.now += 0.05
    assert (await a.say(held=3, wanted=4, terms=terms)).granted == 0
    clock.now += 0.05
    assert (await a.say(held=3, wanted=4, terms=terms)).granted == 1


async def test_whoever_comes_alone_after_a_herd_that_left_is_admitted_at_once(worker, clock):
    a = await with_tokens(worker, clock)
    for _ in range(20):
        await a.say(wanted=500)
        clock.now += 0.1
    clock.now += 5.0
    reply = await a.say(wanted=1)
    assert (reply.granted, reply.has_line) == (1, True)


async def test_a_line_longer_than_the_bounds_keeps_its_order(worker, clock):
    a = await with_tokens(worker, clock, limit=0)
    first = (await a.say(wanted=1000)).retry_times
    second = (await a.say(wanted=1000)).retry_times
    assert second.first - second.elapsed == pytest.approx(1.0 + 1000 * STEP)
    assert second.first - second.elapsed > TERMS.retry_after[1]
    assert second.first - first.first == pytest.approx(1000 * STEP)


async def test_tickets_of_a_paused_pool_wait_by_its_schedule(worker, clock, ledger):
    a = await with_tokens(worker, clock)
    assert await ledger.control("default", Controls(paused=Order(1, "kim", 1.0)), 0)
    due = [ticket(clock, -0.5, 1), ticket(clock, -0.6, 2)]
    await a.say(wanted=1)
    for _ in range(20):
        clock.now += 1.0
        await a.say()
    reply = await a.say(wanted=3, shown=shown(*(each._replace(due=clock.now) for each in due), None))
    assert (reply.granted, reply.shortfall) == (0, Reason.PAUSED)
    assert waits(reply)[1] == 10.0
    assert waits(reply)[0] == pytest.approx(10.0 + reply.retry_times.step, abs=0.001)
    assert reply.retry_times.first - reply.retry_times.elapsed == pytest.approx(10.0 + 2 * reply.retry_times.step)


async def begin_to_settle(a, clock, left: float = 1.25) -> None:
    """Let the pool of ``a``, which is full, settle for so many seconds; its schedule is a minute long."""
    await a.say(wanted=600)
    await a.say(held=5, version=a.last.version + 1)
    clock.now = round(clock.now + SETTLING * HEARTBEAT - left, 3)


async def test_due_tickets_of_a_pool_that_settles_come_when_it_has_in_their_order(worker, clock):
    a = await with_tokens(worker, clock)
    await begin_to_settle(a, clock)
    due = [ticket(clock, -0.5, 1), None, ticket(clock, -0.7, 2)]
    reply = await a.say(held=5, wanted=3, allowance=5, shown=shown(*due))
    assert (reply.granted, reply.shortfall) == (0, Reason.SETTLING)
    assert waits(reply) == {2: 1.25, 0: round(1.25 + 1 / RATE, 3)}
    assert reply.retry_times.first - reply.retry_times.elapsed > 50
    clock.now += 1.25
    again = [each and each._replace(due=clock.now) for each in due]
    reply = await a.say(held=5, wanted=3, shown=shown(*again))
    assert (reply.settling, reply.granted_shown[:2]) == (False, (0, 2))
    assert waits(await a.say(held=8, wanted=3, shown=shown(*again))) == {0: None, 2: None}


async def test_a_wait_of_a_due_ticket_is_five_seconds_at_the_most_once_the_pool_has_settled(worker, clock):
    a = await with_tokens(worker, clock)
    await begin_to_settle(a, clock)
    due = [ticket(clock, 0.001 * each - 0.5, each) for each in range(90)]
    reply = await a.say(held=5, wanted=90, allowance=5, shown=shown(*due))
    assert [turn.wait for turn in reply.turns] == pytest.approx([1.25 + min(AGAIN, each / RATE) for each in range(90)])


async def test_a_ticket_passes_no_quota_and_none_is_redeemed_by_it(ledger, clock):
    a = await settled(ledger, clock)
    await a.claim(*(ask("kim") for _ in range(3)), terms=TERMS)
    clock.now += 1.0
    mine, other = ticket(clock, -0.5, 1), ticket(clock, -0.6, 2)
    reply = await a.claim(ask("kim"), ask("sam"), ask("sam"), shown=shown(mine, None, other))
    assert reply.verdicts == ("quota:user", "", "")
    assert (reply.turns, reply.granted_shown) == ((), ())
    reply = await a.claim(ask("eve"), ask("eve"), ask("kim"), shown=shown(mine, other))
    assert reply.verdicts[:2] == ("", "")
    clock.now += 0.2
    reply = await a.claim(*(ask(each) for each in ("a1", "a2", "a3", "a4")), shown=shown(mine, None, other))
    assert [turn for turn in reply.turns if turn.wait is not None] == []


async def test_in_a_shared_pool_due_tickets_are_decided_first(ledger, clock):
    a = await settled(ledger, clock, limit=2)
    tickets = [None, ticket(clock, 5.0, 3), ticket(clock, -0.2, 1), ticket(clock, -0.4, 2), ticket(clock, -0.1, 4)]
    reply = await a.claim(*(ask(f"u{place}") for place in range(5)), shown=shown(*tickets))
    assert reply.verdicts == (Reason.FULL, Reason.FULL, "", "", Reason.FULL)
    assert (reply.granted, reply.shortfall) == (2, Reason.FULL)
    assert {handshake: wait and round(wait, 1) for handshake, wait in waits(reply).items()} == {4: 1.0, 1: 5.0}


async def test_of_a_class_whose_share_is_full_a_ticket_waits(ledger, clock):
    a = await settled(ledger, clock)
    await a.claim(*(ask(f"u{place}", group="anonymous") for place in range(8)))
    shared = [ticket(clock, -0.2, 1), None]
    reply = await a.claim(ask("new", group="anonymous"), ask("staff", group="staff"), shown=shown(*shared))
    assert reply.verdicts == (Reason.SHARE, "")
    assert waits(reply) == {0: 1.0}


async def test_one_ticket_shown_a_hundred_times_at_once_by_several_workers_admits_one(worker, clock):
    workers = [worker(name, limit=1000) for name in "abcd"]
    for each in workers:
        await each.say(terms=TERMS)
    clock.now += 2.0
    copy = ticket(clock, -0.5)
    replies = await asyncio.gather(*(each.say(wanted=25, shown=shown(*[copy] * 25)) for each in workers))
    redeemed = [reply for reply in replies if any(turn.wait is None for turn in reply.turns) or reply.granted]
    assert len(redeemed) == 4
    assert sum(reply.granted for reply in replies) == 5  # as many as without tickets
    spent = sum(turn.wait is None for reply in replies for turn in reply.turns)
    assert spent + sum(reply.granted for reply in replies) == 100


async def test_a_report_of_many_tickets_is_answered(worker, clock):
    a = worker("a", limit=2_500)
    many = [ticket(clock, -0.5 + place / 10_000, place) for place in range(2_500)]
    reply = await a.say(wanted=2_500, shown=shown(*many))
    assert reply.granted_shown == tuple(range(2_500))
    reply = await a.say(held=2_500, wanted=2_500, shown=shown(*many))
    assert {turn.wait for turn in reply.turns} == {None}
    assert len(reply.turns) == 2_500


async def test_the_line_says_nothing_of_another_pool(ledger, clock):
    a, b = Claimant(ledger, "a", limit=0), Claimant(ledger, "a", limit=1, pool="other")
    assert (await a.say(wanted=50)).has_line
    clock.now += HEARTBEAT
    reply = await b.say(wanted=1)
    assert (reply.granted, reply.has_line) == (1, False)


async def test_the_share_begins_anew_when_the_line_has_ended(worker, clock):
    a = worker("a", limit=0)
    for _ in range(10):
        reply = await a.say(wanted=100)
        clock.now += 0.5
    assert reply.retry_times.step == pytest.approx(0.1 / (SCHEDULED * PROBING))
    clock.now += 120.0
    reply = await a.say(wanted=1)
    assert reply.retry_times.step == pytest.approx(ASSUMED / (SCHEDULED * PROBING))

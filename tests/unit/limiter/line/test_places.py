"""The places that refused clients get, and keep."""

import time

import pytest

from channels_admission import conf
from channels_admission.core.counters import SHED, UNACCEPTED, Reason
from channels_admission.core.herd.tickets import Signer, Ticket
from channels_admission.core.protocol import RetryTimes
from channels_admission.limiter.books.alone import Alone
from channels_admission.limiter.books.state import State
from channels_admission.limiter.line.places import LedgerClock, Places
from channels_admission.limiter.line.retries import RetrySchedule
from channels_admission.runtime.identity import Worker

EPOCH = 1_700_000_000.0


class Clock:
    now = 500.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """The places of one worker, whose clock the test sets. Times are seconds after :data:`EPOCH`."""

    def __init__(self, settings) -> None:
        self.state = State(settings.pool("default"), Worker())
        self.schedule = RetrySchedule(self.state)
        self.places = Places(self.state, self.schedule)
        self.clock = self.places._loop_time = Clock()
        self.places.clock = LedgerClock(self.clock)
        self.places.clock.hear(EPOCH)
        self.signer = Signer("default", conf.ticket_secrets())

    def retry_times(self, first: float, step: float = 0.1, reserved: int = 1000) -> None:
        self.schedule.renew(RetryTimes(first, step, 0.0), reserved, self.clock.now)

    def at(self, seconds: float) -> None:
        self.clock.now = 500.0 + seconds

    def given(self, refusal) -> tuple[float, float, int]:
        """Place, due and number of a refusal's ticket."""
        ticket = self.signer.read(refusal.ticket, EPOCH)
        return round(ticket.place - EPOCH, 2), round(ticket.due - EPOCH, 2), ticket.number


@pytest.fixture
async def desk(admission):
    return Desk(admission())


def shown(place: float, due: float | None = None, number: int = 7) -> Ticket:
    return Ticket(EPOCH + place, EPOCH + (place if due is None else due), number)


# The clock


def test_before_the_first_reply_it_is_this_machines_clock():
    assert LedgerClock(Clock()).time() == pytest.approx(time.time(), abs=5)


def test_after_it_it_is_the_ledgers():
    own = Clock()
    clock = LedgerClock(own)
    clock.hear(EPOCH)
    own.now += 7.0
    assert clock.time() == EPOCH + 7.0


def test_a_reply_that_is_slow_hardly_sets_it_back_and_a_quick_one_sets_it():
    own = Clock()
    clock = LedgerClock(own)
    clock.hear(EPOCH)
    own.now += 1.0
    clock.hear(EPOCH + 0.2)  # 0.8 s after it was made
    assert clock.time() == pytest.approx(EPOCH + 0.9)
    clock.hear(EPOCH + 1.0)
    assert clock.time() == EPOCH + 1.0


@pytest.mark.parametrize("jump", [3600.0, -3600.0])
def test_it_follows_a_clock_that_was_set(jump):
    clock = LedgerClock(Clock())
    clock.hear(EPOCH)
    clock.hear(EPOCH + jump)
    assert clock.time() == EPOCH + jump


# Reading


async def test_a_ticket_is_good_until_a_grace_after_it_is_due(desk):
    text = desk.signer.write(shown(10.0))
    for now in (0.0, 10.0, 11.5):
        desk.at(now)
        assert desk.places.read(text) == shown(10.0)
    assert not desk.state.counters
    desk.at(11.6)
    assert desk.places.read(text) is None
    assert desk.state.counters == {"missed": 1}


async def test_one_of_another_pool_or_key_and_a_forged_one_are_none_and_not_counted(desk):
    forged = "A" * 24
    foreign = Signer("other", conf.ticket_secrets()).write(shown(10.0))
    other_key = Signer("default", [b"x" * 32]).write(shown(10.0))
    assert [desk.places.read(text) for text in (forged, foreign, other_key, "", "é" * 24)] == [None] * 5
    assert not desk.state.counters


async def test_a_ticket_signed_with_a_former_secret_is_good(admission, settings):
    text = Desk(admission()).signer.write(shown(10.0))
    settings.SECRET_KEY_FALLBACKS = [settings.SECRET_KEY]
    settings.SECRET_KEY = "the next one"
    assert Desk(conf.current()).places.read(text) == shown(10.0)
    settings.SECRET_KEY_FALLBACKS = []
    assert Desk(conf.current()).places.read(text) is None


# A client without a ticket


@pytest.mark.parametrize("reason", [*Reason, UNACCEPTED, SHED, "lag"])
async def test_every_refusal_that_time_mends_gives_a_place_at_its_retry_time(desk, reason):
    desk.retry_times(4.0)
    refusal = desk.places.refuse(reason, wait=4.0)
    assert (refusal.reason, refusal.retry_after) == (reason, pytest.approx(4.0))
    assert desk.given(refusal)[:2] == (4.0, 4.0)
    assert desk.state.counters == {"promised": 1}


@pytest.mark.parametrize("reason", ["quota:user", "attempts:user"])
async def test_where_no_place_helps_there_is_none(desk, reason):
    assert desk.places.refuse(reason, wait=4.0).ticket == ""
    assert not desk.state.counters


async def test_two_clients_never_share_a_number(desk):
    numbers = {desk.given(desk.places.refuse("full"))[2] for _ in range(1000)}
    assert len(numbers) > 990
    assert max(numbers) > 1 << 30


async def test_a_place_beyond_the_upper_bound_is_kept_though_the_client_is_told_less(desk):
    desk.retry_times(55.0, step=10.0)
    given = [desk.given(desk.places.refuse("rate")) for _ in range(50)]
    assert [place for place, _, _ in given] == pytest.approx([55.0 + 10.0 * rank for rank in range(50)])
    assert given[0][1] == 55.0
    assert all(30.5 <= due <= 60.0 for _, due, _ in given[1:])


async def test_no_place_is_later_than_an_hour(desk):
    desk.retry_times(1.0, step=1000.0)
    places = [desk.given(desk.places.refuse("rate"))[0] for _ in range(9)]
    assert max(places) == pytest.approx(3600.0)


# A client with a ticket


async def test_an_early_ticket_keeps_its_own_time_and_takes_none_of_the_schedule(desk):
    desk.retry_times(50.0)
    for reason in ("full", "lag", Reason.ENTRANCE):
        refusal = desk.places.refuse(reason, ticket=shown(20.0, due=0.0))
        assert refusal.retry_after == pytest.approx(20.0)
        assert desk.given(refusal) == (20.0, 20.0, 7)
    assert desk.given(desk.places.refuse("full"))[0] == 50.0
    assert desk.state.counters == {"promised": 1}


async def test_an_early_ticket_of_a_late_place_comes_again_within_the_bounds(desk):
    place, due, number = desk.given(desk.places.refuse("full", ticket=shown(200.0, due=0.0)))
    assert (place, number) == (200.0, 7)
    assert 30.5 <= due <= 60.0


@pytest.mark.parametrize("reason", [*sorted({*Reason} - {Reason.ENTRANCE, Reason.PAUSED}), UNACCEPTED, SHED, "lag"])
async def test_a_due_ticket_keeps_its_place_and_comes_again_soon_not_behind_the_others(desk, reason):
    desk.retry_times(9.0)
    refusal = desk.places.refuse(reason, ticket=shown(-3.0, due=0.0))
    assert refusal.retry_after == pytest.approx(1.0)
    assert desk.given(refusal) == (-3.0, 1.0, 7)
    assert desk.places.refuse(reason, ticket=shown(-2.0, due=0.0)).retry_after > refusal.retry_after
    assert desk.places.refuse("full").retry_after == pytest.approx(9.0)
    assert desk.state.counters == {"promised": 1}


@pytest.mark.parametrize(("reason", "wait"), [(Reason.PAUSED, 9.0), (Reason.ENTRANCE, 4.0)])
async def test_a_due_ticket_keeps_its_place_in_a_pause_and_at_the_entrance_too(desk, reason, wait):
    desk.retry_times(9.0)
    assert desk.given(desk.places.refuse(reason, wait=4.0, ticket=shown(-3.0, due=0.0))) == (-3.0, wait, 7)


@pytest.mark.parametrize("reason", ["quota:user", "attempts:user"])
async def test_a_refusal_that_gives_no_place_takes_none_away(desk, reason):
    assert desk.given(desk.places.refuse(reason, wait=4.0, ticket=shown(20.0, due=0.0)))[::2] == (20.0, 7)


async def test_what_the_ledger_says_of_a_ticket_is_told_within_the_bounds(desk):
    assert desk.given(desk.places.keep("full", shown(-3.0), 2.5)) == (-3.0, 2.5, 7)
    assert desk.given(desk.places.keep("full", shown(0.2), 0.2)) == (0.2, 1.0, 7)


async def test_a_client_whose_ticket_is_redeemed_keeps_the_place_under_another_number(desk):
    ticket = desk.places.renumbered(shown(-3.0))
    assert ticket[:2] == shown(-3.0)[:2]
    assert ticket.number != 7


# The ends of connections


async def test_a_connection_that_is_ended_gets_a_place_where_there_is_a_rate(admission):
    desk = Desk(admission(CONNECT_RATE=10))
    assert desk.given(desk.places.end())[:2] == (1.0, 1.0)
    told = [Desk(admission()).places.end() for _ in range(20)]
    assert {each.ticket for each in told} == {""}
    assert all(1.0 <= each.retry_after <= 2.0 for each in told)


# Alone


async def test_alone_a_due_ticket_for_which_there_is_no_token_waits_for_a_short_time(admission):
    desk = Desk(admission(CONNECT_RATE=10, RETRY_AFTER=(0.5, 60)))
    desk.state.fail(desk.places.clock.time())
    waits = [desk.places.refuse("rate", ticket=shown(-3.0, number=number)).retry_after for number in range(100)]
    assert waits[:3] == pytest.approx([0.5, 0.5 + 1 / 9.7, 0.5 + 2 / 9.7])
    assert max(waits) == pytest.approx(5.0, abs=0.2)


async def test_alone_the_copy_of_a_redeemed_ticket_is_refused_as_one_without(admission):
    desk = Desk(admission(CONNECT_RATE=10))
    desk.state.fail(desk.places.clock.time())
    desk.state.allowance = 5
    desk.at(1.0)
    assert desk.state.refusal_alone(desk.places.clock.time(), None, shown(0.0)) is None
    place, _, number = desk.given(desk.places.refuse("rate", ticket=shown(0.0, due=0.9)))
    assert place > 1.0
    assert number != 7
    assert desk.state.counters == {"promised": 1}


async def test_alone_a_time_that_a_client_is_told_is_promised_but_not_one_that_is_before_its_place(
    admission, monkeypatch
):
    promised = []
    monkeypatch.setattr(Alone, "promise", lambda self, due, now: promised.append((due - EPOCH, now - EPOCH)))
    desk = Desk(admission(CONNECT_RATE=10))
    desk.places.refuse("rate")
    desk.state.fail(desk.places.clock.time())
    desk.places.refuse("rate")
    desk.places.keep("rate", shown(-3.0), 2.0)
    desk.places.keep("rate", shown(300.0, due=0.0), 300.0)
    assert promised == [(pytest.approx(1.0 + 1 / 9.7), 0.0), (2.0, 0.0)]


# Passed on to another worker

PASSED_ON = {"extensions": {"websocket.http.response": {}}, "headers": [(b"admission-retry", b"1")]}


@pytest.mark.parametrize("reason", [Reason.DRAINING, Reason.WORKER, "lag", "queries"])
async def test_what_is_passed_on_takes_no_place_and_is_told_to_come_soon(desk, reason):
    desk.retry_times(30.0)
    passed = desk.places.refuse(reason, scope=PASSED_ON)
    assert (passed.is_passed, passed.ticket, passed.reason) == (True, "", reason)
    assert 1 <= passed.retry_after <= 2
    assert desk.state.counters == {"passed": 1}
    assert desk.places.refuse(Reason.FULL).retry_after == 30.0


async def test_a_ticket_is_kept_while_another_worker_is_tried(desk):
    passed = desk.places.refuse(Reason.DRAINING, ticket=shown(5.0), scope=PASSED_ON)
    assert passed.is_passed
    assert desk.given(passed)[::2] == (5.0, 7)


@pytest.mark.parametrize(
    "reason", [*sorted({*Reason} - {Reason.DRAINING, Reason.WORKER}), "quota:user", "attempts:user"]
)
async def test_what_holds_for_all_workers_is_not_passed_on(desk, reason):
    assert not desk.places.refuse(reason, scope=PASSED_ON).is_passed
    assert "passed" not in desk.state.counters


async def test_nothing_is_passed_on_where_no_balancer_tries_another_worker(desk):
    assert not desk.places.refuse(Reason.DRAINING, scope={**PASSED_ON, "headers": []}).is_passed
    assert not desk.places.refuse(Reason.DRAINING).is_passed

"""What a worker admits while the ledger is away: due tickets first, each once, and the least share for the others."""

import pytest

from channels_admission.core.counters import Reason
from channels_admission.core.herd.line import EARLY, is_due
from channels_admission.core.herd.tickets import Ticket
from channels_admission.core.protocol import Terms
from channels_admission.limiter.books import alone as module
from channels_admission.limiter.books.alone import Alone

EPOCH = 1_700_000_000.0


def ticket(place: float, number: int = 1, due: float | None = None) -> Ticket:
    return Ticket(EPOCH + place, EPOCH + (place if due is None else due), number)


class Worker:
    """A worker with so many slots, or with a rate of its own; times are seconds after :data:`EPOCH`."""

    def __init__(self, slots: int = 10**6, rate: float | None = None, burst: int = 1, workers: int = 1) -> None:
        self.alone = Alone(Terms(rate, burst), workers, EPOCH)
        self.slots = slots

    def promise(self, time: float, now: float = 0.0) -> None:
        self.alone.promise(EPOCH + time, EPOCH + now)

    def find_nothing(self, now: float) -> None:
        """Somebody comes while nothing is free."""
        slots, self.slots = self.slots, 0
        self.come(now)
        self.slots = slots

    def come(self, now: float, shown: Ticket | None = None) -> Reason | None:
        reason = self.alone.refusal(EPOCH + now, self.slots, shown)
        if reason is None:
            self.slots -= 1
        return reason


def test_a_due_ticket_is_good_once_and_its_copies_are_none():
    worker = Worker(slots=2)
    worker.promise(1.0)
    assert worker.come(1.0, ticket(1.0)) is None
    assert worker.alone.is_redeemed(ticket(1.0))
    assert worker.alone.is_redeemed(ticket(1.0, due=60.0))
    assert not worker.alone.is_redeemed(ticket(1.0, number=2))


def test_a_copy_of_a_redeemed_ticket_does_not_stand_for_another_client_that_is_expected():
    worker = Worker(slots=1)
    for _ in range(2):
        worker.promise(1.0)
    worker.find_nothing(0.1)
    assert worker.come(1.6, ticket(1.0)) is None
    worker.slots = 1
    assert worker.come(1.6, ticket(1.0)) == Reason.LEDGER
    assert worker.come(1.6, ticket(1.0, number=2)) is None


def test_what_is_expected_is_kept_for_it_within_its_grace():
    worker = Worker(slots=1)
    for _ in range(5):
        worker.promise(1.0)
    worker.find_nothing(0.1)
    assert worker.come(1.6) == Reason.LEDGER
    assert worker.come(1.6, ticket(1.0)) is None


def test_many_slots_are_kept_from_clients_that_come_one_by_one_without_a_ticket():
    worker = Worker(slots=14)
    for number in range(40):
        worker.promise(1.0 + number / 100)
    worker.find_nothing(0.1)
    # Two fifths of them are due.
    assert [worker.come(1.2) for _ in range(40)] == [Reason.LEDGER] * 40
    assert [worker.come(1.2, ticket(1.0 + number / 100, number)) for number in range(14)] == [None] * 14


def test_of_what_tickets_get_the_others_get_a_tenth():
    worker, admitted = Worker(), 0
    for number in range(900):
        now = 1.0 + number / 100
        for ahead in range(5):
            worker.promise(now + ahead / 5, now)
        worker.slots = 1
        if worker.come(now) is None:
            admitted += 1
            continue
        assert worker.come(now, ticket(now, number)) is None
    assert admitted == pytest.approx(90, abs=10)


def test_what_nobody_fetches_goes_to_whoever_comes_after_a_grace():
    worker = Worker(slots=1)
    for number in range(300):
        worker.promise(number / 50)
    worker.find_nothing(0.05)
    reasons = [worker.come(number / 10) for number in range(1, 46)]
    assert reasons[:14] == [Reason.LEDGER] * 14
    assert None in reasons


def test_the_part_of_the_rate_is_kept_whatever_is_shown():
    worker = Worker(rate=40, burst=8, workers=4)
    reasons = [worker.come(now / 100, ticket(now / 100, number=now)) for now in range(100, 400)]
    assert set(reasons) == {None, Reason.RATE}
    assert 10 * 3 <= reasons.count(None) <= 2 + 10 * 3


def test_a_full_bucket_keeps_all_but_one_of_its_tokens():
    worker = Worker(rate=10, burst=3)
    for number in range(20):
        worker.promise(1.0 + number / 40)
    worker.find_nothing(0.1)
    assert [worker.come(1.2) for _ in range(3)] == [None, Reason.RATE, Reason.RATE]
    assert [worker.come(1.2, ticket(1.0, number)) for number in range(3)] == [None, None, Reason.RATE]


def test_a_full_worker_refuses_a_due_ticket_which_stays_good():
    worker = Worker(slots=0)
    assert worker.come(1.0, ticket(1.0)) == Reason.LEDGER
    assert not worker.alone.is_redeemed(ticket(1.0))


def test_an_early_ticket_is_none_yet():
    worker = Worker(slots=1)
    for _ in range(5):
        worker.promise(1.0)
    worker.find_nothing(0.1)
    assert worker.come(1.4, ticket(30.0, due=1.4)) == Reason.LEDGER


def test_a_ticket_is_due_as_early_as_for_the_ledger():
    early = [round(-EARLY - 0.01, 3), -EARLY]
    verdicts = []
    for early_by in early:
        worker = Worker(slots=1)
        for _ in range(5):
            worker.promise(1.0)
        worker.find_nothing(0.1)
        shown = ticket(1.4 - early_by, due=1.0)
        assert is_due(shown, EPOCH + 1.4) is (early_by == -EARLY)
        verdicts.append(worker.come(1.4, shown))
    assert verdicts == [Reason.LEDGER, None]


def test_it_remembers_no_more_than_some_tickets_and_none_for_longer_than_a_copy_may_be_good(monkeypatch):
    monkeypatch.setattr(module, "MOST_REDEEMED", 3)
    worker = Worker()
    for number in range(5):
        worker.come(1.0, ticket(1.0, number))
    assert [worker.alone.is_redeemed(ticket(1.0, number)) for number in range(5)] == [False] * 2 + [True] * 3
    worker.come(63.0, ticket(63.0))
    assert len(worker.alone._redeemed) == 1

"""Mixed herds that come back with tickets, simulated on the memory ledger; and proof that each rule is needed."""

import asyncio

import pytest

from channels_admission.core.herd.line import Line, Promises
from channels_admission.ledger.base import SETTLING
from channels_admission.ledger.memory import MemoryLedger

from support.lines import HAMMER, HINT, TICKETLESS, MixedHerd
from support.reports import Clock

BURST = RATE = 100
HEARTBEAT = 3


@pytest.fixture
def come(admission):
    """``come(clients, …)`` lets a herd come, and returns it when all are in."""

    def come(clients, **options) -> MixedHerd:
        clock = Clock()
        clock.now = 1_700_000_000.3
        MemoryLedger.forget_all()
        ledger = MemoryLedger(admission(LEASE=30, HEARTBEAT=HEARTBEAT), clock, clock)
        return asyncio.run(MixedHerd(ledger, clock, clients, **options).run())

    return come


def ideal(number: int) -> float:
    return (number - BURST) / RATE


@pytest.mark.parametrize(
    ("hint", "hammer", "never"), [(600, 600, 0.0), (60, 1140, 0.0), (1140, 60, 0.0), (600, 600, 0.33), (1200, 0, 0.0)]
)
def test_clients_with_tickets_are_back_as_fast_as_the_rate_allows(come, hint, hammer, never):
    herd = come({HINT: hint, HAMMER: hammer}, rate=RATE, never=never)
    assert herd.last_of(HINT) <= 1.15 * ideal(1200)
    assert herd.attempts[HINT] / hint <= 2.2
    assert herd.correlation() > 0.99


@pytest.mark.parametrize(("hint", "late"), [(600, 0.02), (600, 1.0), (60, 0.02), (60, 1.0)])
def test_clients_with_tickets_lose_nothing_to_those_that_hammer_and_waste_nothing(come, hint, late):
    """Also where they come up to a second after their time."""
    herd = come({HINT: hint, HAMMER: 1200 - hint}, rate=RATE, late=late)
    assert herd.last_of(HINT) <= herd.last_of(HAMMER) + 0.3 + late / 2
    assert herd.last_of(HAMMER) <= 1.1 * ideal(1200)
    assert herd.attempts[HINT] / hint <= 2.2


def test_clients_whose_tickets_are_due_while_the_pool_settles_keep_their_places(come, monkeypatch):
    """A new ledger, in which a worker may use forty slots before it is known that all have been heard."""
    monkeypatch.setattr(MemoryLedger, "volatile", True)
    herd = come({HINT: 600, HAMMER: 600}, rate=RATE, allowance=40)
    settles = SETTLING * HEARTBEAT
    assert herd.last_of(HINT, 1.0) <= min(settles + 1.15 * ideal(1200 - 4 * 40), herd.last_of(HAMMER))
    assert herd.attempts[HINT] / 600 <= 2.5
    assert herd.correlation() > 0.95


def test_clients_that_come_into_a_hammering_herd_and_keep_their_tickets_are_not_sent_behind_it(come):
    herd = come({HINT: 300, HAMMER: 1000}, rate=RATE, over=8.0)
    assert herd.last_of(HINT) <= 20.0
    assert herd.last_of(HAMMER) <= 1.15 * ideal(1300)


def test_in_a_full_pool_clients_with_tickets_are_not_later_than_those_that_hammer(come):
    herd = come({HINT: 300, HAMMER: 300}, limit=200, stay=3.0)
    assert herd.last_of(HINT) <= min(1.5 * 6.0, herd.last_of(HAMMER))


def test_a_line_longer_than_the_bounds_keeps_its_order(come):
    herd = come({HINT: 5000, HAMMER: 500}, rate=RATE)
    assert herd.last_of(HINT) <= 1.15 * ideal(5500)
    assert herd.correlation() > 0.99


def test_clients_that_keep_to_the_hint_without_tickets_are_back_as_fast(come):
    herd = come({TICKETLESS: 1200}, rate=RATE)
    assert herd.last_of(TICKETLESS) <= 1.2 * ideal(1200)
    assert herd.attempts[TICKETLESS] / 1200 <= 2.5


def forget(promises, now):
    """Learn nothing from the buckets whose grace is over."""
    for bucket in [each for each in promises.promised if 0.5 * each < now / 1000 - 2]:
        del promises.promised[bucket]
        promises.shown.pop(bucket, None)


def test_it_is_noticed_when_nothing_is_kept(come, monkeypatch):
    monkeypatch.setattr(Line, "expected", lambda line, now: 0.0)
    herd = come({HINT: 300, HAMMER: 300}, limit=200, stay=3.0)
    assert herd.last_of(HINT) > herd.last_of(HAMMER)


def test_the_schedule_of_a_herd_that_shows_few_tickets_is_overbooked(come, monkeypatch):
    assert come({HINT: 60, HAMMER: 1140}, rate=RATE).last_of(HAMMER) <= 1.15 * ideal(1200)
    monkeypatch.setattr(Promises, "learn", forget)
    assert come({HINT: 60, HAMMER: 1140}, rate=RATE).last_of(HAMMER) > 1.15 * ideal(1200)

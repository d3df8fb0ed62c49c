"""Herds that come back by their hints, simulated: the ledger's rules and a schedule for each worker, in steps of time.

A worker calls its ledger ten times a second. What it refuses between two calls, it refuses alone.
"""

import random
from collections import Counter
from dataclasses import dataclass, field
from heapq import heappop, heappush

import pytest

from channels_admission.core.counters import ADMITTED, Reason
from channels_admission.core.herd.rate import Pace, Situation
from channels_admission.core.protocol import Terms
from channels_admission.limiter.line.retries import RetrySchedule

TICK, CALL, HEARTBEAT = 0.01, 0.1, 3.0
WORKERS = 4


@dataclass
class Books:
    """What a schedule must know of its limiter."""

    terms: Terms
    workers: int = WORKERS
    entrance_speed: float = 0.0
    counters: Counter[str] = field(default_factory=Counter)


class Herd:
    """``clients`` that come at 0, to ``limit`` slots that each keeps for ``stay`` seconds and leaves for good.

    Until ``shut_for`` seconds have passed, all are refused as ``why``: by monitors with chance ``part``.
    """

    def __init__(self, clients, *, why=None, shut_for=0.0, part=1.0, limit=10**6, stay=1e9, rate=None, speed=0.0):
        terms = Terms(rate, int(rate or 1), 0.0)
        self.why, self.shut_for, self.part, self.limit, self.stay, self.terms = why, shut_for, part, limit, stay, terms
        self.pace, self.released, self.held, self.speed = Pace(0.0, terms), 0, 0, speed
        self.books = [Books(terms, entrance_speed=speed / WORKERS) for _ in range(WORKERS)]
        self.schedules = [RetrySchedule(books, HEARTBEAT) for books in self.books]
        self.coming = [(0.0, number) for number in range(clients)]
        self.leaving, self.back, self.attempts = [], [], 0
        self.waiting = [[] for _ in range(WORKERS)]
        random.seed(1013)

    def run(self):
        """When all were in, and the attempts of each."""
        step = 0
        clients = len(self.coming)
        while len(self.back) < clients:
            now = step * TICK
            assert now < 200
            while self.leaving and self.leaving[0] <= now:
                heappop(self.leaving)
                self.held, self.released = self.held - 1, self.released + 1
            while self.coming and self.coming[0][0] <= now:
                self.come(heappop(self.coming)[1], now)
            if step % round(CALL / TICK / WORKERS) == 0:
                self.call(step // round(CALL / TICK / WORKERS) % WORKERS, now)
            step += 1
        return sorted(self.back)[int(0.99 * clients) - 1], self.attempts / clients

    def come(self, client, now):
        self.attempts += 1
        worker = random.randrange(WORKERS)
        if now < self.shut_for and self.why != Reason.SETTLING and random.random() < self.part:
            self.refuse(worker, client, self.why, now)
        else:
            self.waiting[worker].append(client)

    def refuse(self, worker, client, why, now):
        heappush(self.coming, (now + self.schedules[worker].retry_after(why, now), client))

    def call(self, worker, now):
        schedule, wanted = self.schedules[worker], self.waiting[worker]
        if now < self.shut_for and self.why == Reason.LEDGER:
            return
        settles_in = max(0.0, self.shut_for - now) if self.why == Reason.SETTLING else 0.0
        room = 0 if settles_in else min(len(wanted), self.limit - self.held)
        granted = self.pace.admit(room, now, self.terms, empty=False)
        for _ in wanted[:granted]:
            self.held += 1
            self.back.append(now)
            self.books[worker].counters[ADMITTED] += 1
            heappush(self.leaving, now + self.stay)
        self.pace.measure(now, self.released, HEARTBEAT)
        refused = wanted[granted:]
        why = Reason.SETTLING if settles_in else Reason.RATE if refused and granted < room else None
        if not why and self.held >= self.limit:
            why = Reason.FULL
        is_open = self.held < 0.95 * self.limit
        situation = Situation(why, WORKERS, self.speed, is_open, settles_in)
        retry_times, schedule.unreserved = (
            self.pace.retry_times(now, self.terms, len(refused), schedule.unreserved, situation),
            0,
        )
        if retry_times:
            schedule.renew(retry_times, len(refused), now)
        for client in refused:
            self.refuse(worker, client, why, now)
        wanted.clear()


@pytest.mark.parametrize(
    ("herd", "ideal", "multiple", "attempts"),
    [
        # A tenth refused by a monitor in the first second, as at the return of a herd.
        (Herd(2000, why="lag", shut_for=0.5, part=0.1), 0.5, 5.0, 1.2),
        (Herd(2000, why="lag", shut_for=0.5, part=0.1, speed=2000.0), 0.5, 4.0, 1.2),
        (Herd(2000, why="lag", shut_for=0.5, part=0.1, rate=200), 9.9, 1.15, 2.3),
        (Herd(2000, rate=200), 9.9, 1.15, 2.1),
        # A pool that becomes full at once, and is left by all at the same time.
        (Herd(600, limit=200, stay=3.0), 6.0, 1.5, 6.0),
        (Herd(600, limit=200, stay=8.0), 16.0, 1.5, 9.0),
        (Herd(2000, limit=1000, stay=20.0), 20.0, 1.5, 7.0),
        (Herd(600, why=Reason.SETTLING, shut_for=4.5), 4.5, 2.0, 2.0),
        (Herd(2000, why=Reason.SETTLING, shut_for=4.5, speed=2000.0), 4.5, 1.3, 2.0),
        (Herd(800, why=Reason.LEDGER, shut_for=10.0), 10.0, 1.6, 8.0),
        (Herd(800, why="memory", shut_for=10.0), 10.0, 1.5, 6.0),
        (Herd(800, why=Reason.PAUSED, shut_for=60.0), 60.0, 1.6, 9.0),
    ],
)
def test_a_herd_is_back_within_a_multiple_of_the_ideal(herd, ideal, multiple, attempts):
    last, each = herd.run()
    assert last <= multiple * ideal
    assert each <= attempts


def test_a_pause_of_hours_is_asked_a_few_times_a_second_by_two_hundred_clients():
    herd = Herd(200, why=Reason.PAUSED, shut_for=1e9)
    for step in range(20_000):
        now = step * TICK
        while herd.coming[0][0] <= now:
            herd.come(heappop(herd.coming)[1], now)
        if step % 30 == 0:
            herd.call(step // 30 % WORKERS, now)
        if step == 15_000:
            before = herd.attempts
    assert (herd.attempts - before) / 50 < 8

"""Mixed herds in virtual time: clients of several kinds, four workers that only pass on, and a real ledger."""

import random
from collections import Counter
from dataclasses import replace
from heapq import heappop, heappush

from channels_admission.core.herd.line import EARLY, GRACE
from channels_admission.core.herd.rate import unpaced
from channels_admission.core.herd.tickets import Ticket
from channels_admission.core.protocol import Report, Shown, Terms

TICK, CALL = 0.01, 0.04
WORKERS = 4
HAMMERED = 0.5
"""Seconds from one attempt of a hammering client to the next."""
HINT, HAMMER, TICKETLESS = "hint", "hammer", "ticketless"


class MixedHerd:
    """``clients`` by their kind, that come in the first fifth of a second to a pool of ``ledger``.

    Those that keep to the hint come in the first ``over`` seconds.
    ``never``: the chance that a client with a ticket does not return. A slot is held for ``stay`` seconds. Those that
    keep to the hint come up to ``late`` seconds after their time. ``allowance``: the slots of each worker in a ledger
    that has just started and settles.
    """

    def __init__(
        self, ledger, clock, clients, *, rate=None, limit=10**6, stay=1e9, never=0.0, over=0.2, late=0.02,
        allowance=None, seed=1
    ):  # fmt: skip
        self.ledger, self.clock, self.rng, self.never, self.stay = ledger, clock, random.Random(seed), never, stay
        self.late, self.allowance = late, allowance
        self.terms = Terms(rate, int(rate or 1), 0.0)
        self.began, self.numbers = clock.now, iter(range(10**9))
        self.reports = [
            Report(f"host:{pid}:a", 0, 0, 0, limit, 0, allowance or limit, terms=self.terms, host="a" * 12, born=7)
            for pid in range(1, WORKERS + 1)
        ]
        self.released = [0] * WORKERS
        self.queues = [[] for _ in range(WORKERS)]
        self.coming = []
        self.leaving = []
        self.back = {}
        self.attempts = Counter()
        self.entered = []
        """The place of each ticket that was redeemed and the time, in order."""
        self.gone = 0
        self.count = sum(clients.values())
        for kind, number in clients.items():
            for _ in range(number):
                self.come(kind, self.rng.random() * (over if kind == HINT else 0.2))

    def come(self, kind, at, ticket=None):
        heappush(self.coming, (at, next(self.numbers), kind, ticket))

    async def run(self, most=400.0):
        step = 0
        await self.prepare()
        while sum(map(len, self.back.values())) + self.gone < self.count:
            self.now = step * TICK
            assert self.now < most, {kind: len(times) for kind, times in self.back.items()}
            self.clock.now = round(self.began + self.now, 3)
            while self.leaving and self.leaving[0][0] <= self.now:
                worker = heappop(self.leaving)[1]
                self.released[worker] += 1
                self.reports[worker] = replace(self.reports[worker], held=self.reports[worker].held - 1)
            while self.coming and self.coming[0][0] <= self.now:
                _, _, kind, ticket = heappop(self.coming)
                self.attempts[kind] += 1
                self.queues[self.rng.randrange(WORKERS)].append((kind, ticket))
            if step % round(CALL / TICK / WORKERS) == 0:
                await self.call(step // round(CALL / TICK / WORKERS) % WORKERS)
            step += 1
        return self

    async def prepare(self):
        """Let the bucket fill before the herd comes, or let it come to a pool that settles."""
        for report in self.reports:
            await self.ledger.reconcile("default", report)
        self.began = self.clock.now = round(self.clock.now + (0.0 if self.allowance else 2.0), 3)

    async def call(self, worker):
        queue, self.queues[worker] = self.queues[worker], []
        report, wall = self.reports[worker], self.clock.now
        shown = tuple(
            Shown(place, ticket)
            for place, (_, ticket) in enumerate(queue)
            if ticket is not None and wall <= ticket.due + GRACE
        )
        report = replace(report, seq=report.seq + 1, wanted=len(queue), shown=shown)
        report = replace(report, counters={"released": self.released[worker]} if self.released[worker] else {})
        reply = await self.ledger.reconcile("default", report)
        self.reports[worker] = replace(report, held=report.held + reply.granted)
        granted = set(reply.granted_shown)
        others = (place for place in range(len(queue)) if place not in {each.handshake for each in shown})
        granted |= {next(others) for _ in range(reply.granted - len(granted))}
        turns, given = {turn.handshake: turn.wait for turn in reply.turns}, 0
        self.watch(reply, len(granted))
        for place, (kind, ticket) in enumerate(queue):
            if place in granted:
                self.admit(worker, kind, ticket)
            elif turns.get(place) is not None:
                self.refuse(kind, replace_due(ticket, wall + self.told(turns[place])), turns[place])
            else:
                time = (
                    unpaced(reply.retry_times.first + given * reply.retry_times.step, 0.0) - reply.retry_times.elapsed
                )
                given += 1
                ticket = Ticket(round(wall + time, 2), round(wall + self.told(time), 2), self.rng.getrandbits(32))
                self.refuse(kind, ticket, time)

    def watch(self, reply, granted):
        """See a reply."""

    def told(self, wait):
        low, high = self.terms.retry_after
        self.last = max(low, wait) if wait < high else self.rng.uniform((low + high) / 2, high)
        return self.last

    def refuse(self, kind, ticket, time):
        if kind == HAMMER:
            self.come(kind, self.now + HAMMERED)
        elif kind == HINT and self.rng.random() < self.never:
            self.gone += 1
        else:
            self.come(kind, self.now + self.last + self.rng.random() * self.late, ticket if kind == HINT else None)

    def admit(self, worker, kind, ticket):
        self.back.setdefault(kind, []).append(self.now)
        if ticket is not None and ticket.place <= self.clock.now + EARLY:
            self.entered.append((ticket.place, self.now))
        heappush(self.leaving, (self.now + self.stay, worker))

    def last_of(self, kind, share=0.99):
        times = sorted(self.back[kind])
        return round(times[int(share * len(times)) - 1], 2)

    def correlation(self):
        """Of the ranks of places and entries."""
        by_place, by_time = (
            sorted(range(len(self.entered)), key=lambda each, at=at: self.entered[each][at]) for at in (0, 1)
        )
        ranks = {each: rank for rank, each in enumerate(by_place)}
        number = len(by_time)
        apart = sum((ranks[each] - rank) ** 2 for rank, each in enumerate(by_time))
        return 1 - 6 * apart / (number * (number * number - 1))


def replace_due(ticket, due):
    return ticket._replace(due=round(due, 2))

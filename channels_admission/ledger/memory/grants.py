"""How many slots a report is given, and why not more, as ``lua/grants.lua`` decides it."""

from collections.abc import Iterable

from ...core.attempts import judge
from ...core.counters import Reason
from ...core.protocol import Fair, Key, Report
from ...core.quota import Allowed, Decision, decide
from ...core.rate import Pace
from .pool import Grant, Pool, count
from .tickets import Presented

TIMELY = (Reason.FULL, Reason.SHARE, Reason.RATE, Reason.PAUSED)
"""Reasons that time mends, so that a ticket keeps its place."""


class Granting:
    """The slots that one report is given in a pool with so many ``held`` slots."""

    def __init__(self, pool: Pool, pace: Pace, report: Report, shown: Presented, held: int, limit: int) -> None:
        self._pool, self._pace, self._report, self._shown = pool, pace, report, shown
        self._held, self._limit = held, limit
        self._is_paused = pool.controls.paused is not None

    @property
    def _room(self) -> int:
        return 0 if self._is_paused else max(0, self._limit - self._held)

    def _free(self) -> int:
        return self._pace.free(self._room, self._pool.clock, self._report.terms, empty=self._held == 0)

    @property
    def _lacking(self) -> Reason:
        """What a handshake lacks for which nothing is free."""
        if self._is_paused:
            return Reason.PAUSED
        return Reason.RATE if self._free() < self._room else Reason.FULL

    def _admit(self, number: int) -> None:
        self._pace.admit(number, self._pool.clock, self._report.terms, empty=self._held == 0)

    def give(self) -> Grant:
        """In a pool that is not shared."""
        due, wanted, free, lacking = self._shown.due, self._report.wanted, self._free(), self._lacking
        tickets, others = self._pace.line.share_out(self._shown.now, free, len(due), wanted - len(due))
        shown = (*due[:tickets], *self._shown.among_first(others))
        unserved = frozenset({*due, *self._shown.among_first(wanted)} - {*shown})
        self._admit(tickets + others)
        slots = tickets + others
        return Grant(slots, wanted - slots, lacking if slots < wanted else None, shown, unserved)

    def give_shared(self, fair: Fair, claims: dict[Key, int], swept: Iterable[Key]) -> Grant:
        """In a pool that is shared by quotas or classes; the worker's ``claims`` follow what it says."""
        pool, report = self._pool, self._report
        count(pool.claims, claims, fair.claims)
        told = [key for key, _ in fair.claims]
        most = {place: bound.most or 0 for place, bound in enumerate(fair.quotas)}
        pool.holders.tell(report.worker, told, fair.ages, most, pool.clock)
        known = {key: pool.holders.number(key) for key in told}
        over = judge(pool.attempts, fair, pool.clock, report.terms.retry_after[1])
        free, due = self._free(), self._shown.due
        line = self._pace.line
        allowed = Allowed(*line.allow(self._shown.now, free, len(due), report.wanted - len(due)), self._lacking)
        decided = decide(
            fair, self._limit, self._held, pool.claims, allowed, due,
            paused=self._is_paused, over=over, known=known.__getitem__,
        )  # fmt: skip
        line.took(free, decided.tickets, decided.used - decided.tickets)
        self._admit(decided.used)
        self._count(fair, claims, decided)
        pool.holders.post([*told, *swept], pool.claims)
        shown = (*due, *self._shown.among_first(len(fair.asks)))
        return Grant(
            decided.given, decided.refused(fair), decided.shortfall,
            tuple(place for place in shown if not decided.verdicts[place]),
            frozenset(place for place in shown if decided.verdicts[place] in TIMELY),
            decided.classes(fair), tuple(decided.verdicts), tuple(over[place].wait for place in sorted(over)),
        )  # fmt: skip

    def _count(self, fair: Fair, claims: dict[Key, int], decided: Decision) -> None:
        """Count what is granted under its keys."""
        pool = self._pool
        count(pool.claims, claims, [(key, claims.get(key, 0) + more) for key, more in decided.claims.items()])
        for ask, reason in zip(fair.asks, decided.verdicts, strict=True):
            for bound, key in zip(fair.quotas, ask.claims, strict=False):
                if key and bound.oldest and not reason:
                    pool.holders.grant(self._report.worker, key, bound.most or 0, pool.clock)

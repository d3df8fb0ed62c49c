"""How many slots a report is given, and why not more."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ...core.counters import Reason
from ...core.protocol import Fair, Key, Report
from ...core.quotas.attempts import Over, judge
from ...core.quotas.quota import MENDED_BY_TIME, Allowed, Decision, Part, decide
from ...core.quotas.shares import most as most_of
from .claims import Own
from .pool import StoredPool
from .tickets import Presented


@dataclass(slots=True)
class Grant:
    """What one report is given."""

    slots: int
    refused: int
    """Handshakes that get a retry time of the schedule, and those with tickets that keep their place."""
    shortfall: Reason | None
    shown: tuple[int, ...] = ()
    """The handshakes with tickets that are granted."""
    unserved: frozenset[int] = frozenset()
    """The handshakes with tickets that are refused for a reason that time mends."""
    classes: dict[str, int] = field(default_factory=dict)
    verdicts: tuple[str, ...] = ()
    waits: tuple[float, ...] = ()


class Granting:
    """The slots that one report is given in a pool with so many ``held`` slots."""

    def __init__(
        self, pool: StoredPool, report: Report, shown: Presented, held: int, limit: int, *, is_empty: bool
    ) -> None:
        self._pool, self._report, self._shown = pool, report, shown
        self._held, self._limit, self._is_empty = held, limit, is_empty
        self._is_paused = pool.controls.paused is not None
        self._room = self._slots()
        self._free = pool.pace.free(self._room, pool.clock.seconds, report.terms, empty=is_empty)
        self._spare = pool.pace.spare(self._free, pool.clock.seconds, report.terms)

    def _slots(self) -> int:
        """Slots that are free for newcomers."""
        room = self._limit - self._held
        if self._pool.clock.is_settling:
            room = min(room, self._report.allowance - self._report.held)
        return 0 if self._is_paused else max(0, room)

    @property
    def _lacking(self) -> Reason:
        """What a handshake lacks for which nothing is free."""
        if self._is_paused:
            return Reason.PAUSED
        if self._free < self._room:
            return Reason.RATE
        return Reason.SETTLING if self._pool.clock.is_settling else Reason.FULL

    def _admit(self, number: int) -> None:
        self._pool.pace.admit(number, self._pool.clock.seconds, self._report.terms, empty=self._is_empty)

    def give(self) -> Grant:
        """In a pool that is not shared."""
        due, wanted, lacking = self._shown.due, self._report.wanted, self._lacking
        line, rest = self._pool.pace.line, wanted - len(due)
        tickets, others = line.share_out(self._shown.now, self._free, len(due), rest, self._spare)
        shown = (*due[:tickets], *self._shown.among_first(others))
        unserved = frozenset({*due, *self._shown.among_first(wanted)} - {*shown})
        slots = tickets + others
        self._admit(slots)
        if lacking is Reason.SETTLING and self._held + slots >= self._limit:
            lacking = Reason.FULL
        return Grant(slots, wanted - slots, lacking if slots < wanted else None, shown, unserved)

    def give_shared(self, fair: Fair, own: Own, swept: Iterable[Key]) -> Grant:
        """In a pool that is shared by quotas or classes; the worker's ``own`` claims follow what it says."""
        claims, report, now = self._pool.claims, self._report, self._pool.clock.seconds
        claims.count(own, fair.claims)
        told = [key for key, _ in fair.claims]
        most = {place: int(most_of(bound, self._limit)) for place, bound in enumerate(fair.quotas)}
        claims.holders.tell(report.worker, told, fair.ages, most, now)
        over = judge(self._pool.attempts, fair, now, report.terms.retry_after[1])
        decided = self._decide(fair, own, over)
        claims.count(own, [(key, own.counts.get(key, 0) + more) for key, more in decided.claims.items()])
        for ask, reason in zip(fair.asks, decided.verdicts, strict=True):
            for place, key in enumerate(ask.claims):
                if key and fair.quotas[place].oldest and not reason:
                    claims.holders.grant(report.worker, key, most[place], now)
        claims.holders.post([*told, *swept], claims.sums)
        shown = (*self._shown.due, *self._shown.among_first(len(fair.asks)))
        return Grant(
            decided.given, decided.refused(fair), decided.shortfall,
            tuple(place for place in shown if not decided.verdicts[place]),
            frozenset(place for place in shown if decided.verdicts[place] in MENDED_BY_TIME),
            decided.classes(fair), tuple(decided.verdicts), tuple(over[place].wait for place in sorted(over)),
        )  # fmt: skip

    def _decide(self, fair: Fair, own: Own, over: dict[int, Over]) -> Decision:
        """The verdicts, with what is free shared out between due tickets and others."""
        pool, report, line, due = self._pool, self._report, self._pool.pace.line, self._shown.due
        part = Part(report.held, report.allowance, fair.parts, own.counts) if pool.clock.is_settling else None
        known = {key: 0 if part else pool.claims.holders.number(key) for key, _ in fair.claims}
        rest = report.wanted - len(due)
        tickets, others = line.allow(self._shown.now, self._free, len(due), rest, self._spare)
        decided = decide(
            fair, self._limit, self._held, pool.claims.sums, Allowed(tickets, others, self._lacking), due,
            paused=self._is_paused, over=over, known=known.__getitem__, part=part,
        )  # fmt: skip
        line.took(self._free, decided.tickets, decided.used - decided.tickets)
        self._admit(decided.used)
        return decided

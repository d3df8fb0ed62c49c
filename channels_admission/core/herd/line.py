"""The line of a pool: the retry times that refused clients were promised, and what is kept for those that return. Pure.

Each refused client gets a ticket for the retry time that it is told, whether or not it will return at that time, or can
hand a ticket back at all. So a ledger counts, in buckets of :data:`WIDTH`, how many tickets it promised and how many of
these were shown. By these counts it shares out what is free:

- Tickets that are due go first, the earliest place before others. Up to nine tenths of what is free is kept for those
  that are expected and have not come, for :data:`GRACE` after their time.
- Everybody else gets the rest, never less than a tenth (:data:`LEAST`), and what has been free for a grace. A bucket
  that is full keeps no token of which the place is needed for the next one.
- The schedule promises more times than there are admissions, by the share of tickets that was lately shown
  (:attr:`Line.overbooked`). A ticket that is shown counts as shown whether or not there is a slot for it: otherwise
  overbooked tickets that find nothing would count as missed, and the overbooking would grow without end.

A ticket that is not shown is missed :data:`SOON` after its time. So the share is known before the schedule
of clients that only hammer has run away, and little is kept for them. One that is shown later counts from then on.

Clients that hammer can still be in before those with tickets, where nothing else would use the slots: a few of them
before the first ticket is due, and more where many clients with tickets never return. The others have been told their
times by then. They lose nothing by it: each ticket is served as if all clients had kept to their hints.

A line is bounded whatever is promised: times beyond :data:`LONGEST` are not counted, and those that are not near share
buckets of :data:`WIDE`. A line in which no client is expected any more begins anew.

Times are Unix seconds, reckoned in whole milliseconds; ``ledger/lua/line.lua`` has the same rules.
"""

import math
from collections.abc import Callable

from ..levels import ROUNDING
from .tickets import Ticket

GRACE = 1.5
"""Seconds after its time for which a ticket is good."""
WIDTH = 0.5
"""Seconds of a bucket."""
WIDE = 4.0
"""Seconds of a bucket of times that are not near."""
LONGEST = 3600.0
"""Seconds from now for which times are promised."""
LEAST = 0.1
"""The least share of what is free for clients without a ticket, and of the tickets promised that count as kept."""
FADING = 0.6
"""What a bucket leaves of the weight of those before it in the share of tickets shown."""
ASSUMED = 0.93
"""The share of tickets shown that is assumed while none was due. Some clients never return, and a schedule as dense as
this costs the others next to no further attempts."""
PRIOR = 5.0
"""Tickets that count as promised in a bucket before all others, of which the assumed share was shown."""
SOON = 0.25
"""Seconds after its time from which a ticket counts as missed, until it is shown."""
LIKELY = 0.5
"""Tickets that must be expected, in part, before one is likely to be shown."""
EARLY = 0.1
"""Seconds before its place from which a ticket is due, since hints are told in tenths and clocks differ."""
LATE = 1.0
"""Seconds beyond the grace for which a ticket is good that has waited for the call of the ledger."""
AGAIN = 5.0
"""The longest wait, in seconds, of a due ticket that finds nothing free, once the pool has settled; unless
``RETRY_AFTER`` begins later."""

_GRACE, _WIDTH, _WIDE, _LONGEST, _SOON = (round(1000 * each) for each in (GRACE, WIDTH, WIDE, LONGEST, SOON))


class Promises:
    """Promised and shown tickets of one kind, by bucket."""

    def __init__(self) -> None:
        self.promised: dict[int, int] = {}
        self.shown: dict[int, int] = {}
        self._sum_promised, self._sum_shown = PRIOR, ASSUMED * PRIOR
        """Of the buckets whose grace is over, fading."""
        self.share = ASSUMED
        """How many of those that were lately due have been shown."""

    def add(self, bucket: int, number: int) -> None:
        if number:
            self.promised[bucket] = self.promised.get(bucket, 0) + number

    def show(self, bucket: int) -> bool:
        """Count one as shown, if there is one left in the bucket."""
        is_left = self.shown.get(bucket, 0) < self.promised.get(bucket, 0)
        if is_left:
            self.shown[bucket] = self.shown.get(bucket, 0) + 1
        return is_left

    def learn(self, now: int) -> None:
        """Learn the share from what was due :data:`SOON` ago, and forget the buckets whose grace is over."""
        promised, shown, known = self._sum_promised, self._sum_shown, now - _SOON
        for bucket in sorted(each for each in self.promised if each * _WIDTH < known):
            due = self.promised[bucket] * _overlap(bucket, 0, known)
            promised = FADING * promised + due
            shown = FADING * shown + min(due, self.shown.get(bucket, 0))
            if bucket < (now - _GRACE) // _WIDTH:
                self._sum_promised, self._sum_shown = promised, shown
                del self.promised[bucket]
                self.shown.pop(bucket, None)
        self.share = shown / promised

    def ahead(self, first: int) -> float:
        """Those that are expected from a bucket on."""
        return self.share * sum(number for bucket, number in self.promised.items() if bucket >= first)

    def expected(self, begins: int, ends: int) -> float:
        """Those that are expected between two times, in milliseconds, and have not been shown."""
        buckets = range(begins // _WIDTH, ends // _WIDTH + 1)
        return sum(
            max(0.0, self.share * promised * _overlap(bucket, begins, ends) - self.shown.get(bucket, 0))
            for bucket in buckets
            if (promised := self.promised.get(bucket, 0))
        )


class Line:
    """The line of one pool. Let it :meth:`advance` before all else."""

    def __init__(self) -> None:
        self._now = 0
        self._begin()

    def _begin(self) -> None:
        self._first, self._again = Promises(), Promises()
        """Tickets for a retry time of the schedule, and those that were due and found nothing free."""
        self._wide: dict[int, int] = {}
        """Promised times that are not near."""
        self._near = 0
        """The first wide bucket that is not near."""
        self._credit = 0.0
        """Slots that clients without a ticket may still get, in part, of those that tickets got."""
        self._window = self._now
        self._given = 0
        """Slots that clients without a ticket got in this grace."""
        self._left, self._left_before = math.inf, 0.0
        """The least that was left free in this grace and in the one before."""

    @property
    def is_empty(self) -> bool:
        """Whether no ticket is expected."""
        return not (self._first.promised or self._again.promised or self._wide)

    @property
    def share(self) -> float:
        """The share of tickets that was lately shown in time, of those for a retry time of the schedule."""
        return self._first.share

    @property
    def overbooked(self) -> float:
        """By what the schedule's steps are multiplied."""
        return max(LEAST, self.share)

    @property
    def ahead(self) -> float:
        """Tickets that are expected from now on, by the share that was lately shown."""
        first = self._now // _WIDTH
        return self._first.ahead(first) + self._again.ahead(first) + self.share * sum(self._wide.values())

    @property
    def is_expecting(self) -> bool:
        """Whether a ticket is likely to be shown, by the share that was lately shown."""
        return not self.is_empty and max(self.ahead, self.expected(self._now / 1000)) >= LIKELY

    def advance(self, now: float) -> None:
        """Go on to ``now``: learn from the tickets that were due, and forget the buckets whose grace is over."""
        self._now = round(1000 * now)
        near = self._now // _WIDE + 2
        if self.is_empty or near < self._near - 1:  # the clock was put back
            self._begin()
        self._near = max(self._near, near)
        for bucket in sorted(each for each in self._wide if each < self._near):
            self._divide(bucket, self._wide.pop(bucket))
        for each in (self._first, self._again):
            each.learn(self._now)
        if self._now - self._window >= _GRACE:
            self._window, self._given = self._now, 0
            if self._left < math.inf:  # a client asked
                self._left_before, self._left = self._left, math.inf
        if self.is_empty:
            self._begin()
            self._near = near

    def _divide(self, wide: int, number: int) -> None:
        """Spread a wide bucket evenly over others."""
        parts = _WIDE // _WIDTH
        for part in range(parts):
            self._first.add(wide * parts + part, number * (part + 1) // parts - number * part // parts)

    def promise(self, time: float, number: int = 1, *, again: bool = False) -> None:
        """Promise a time; ``again``, where the ticket was due before and found nothing free."""
        edge = self._edge(round(1000 * time))
        if self._now - _GRACE < edge <= self._now + _LONGEST:
            self._promise_before(edge, number, self._again if again else self._first)

    def promise_series(self, number: int, first: float, before: Callable[[float], int]) -> None:
        """Promise ``number`` times from ``first`` on, of which ``before`` says how many are earlier than a time.

        Both times are in seconds from now.
        """
        done, edge = 0, self._edge(self._now + round(1000 * first))
        while done < number and edge <= self._now + _LONGEST:
            so_far = max(done, min(number, before((edge - self._now) / 1000)))
            self._promise_before(edge, so_far - done, self._first)
            done, edge = so_far, self._edge(edge)

    def _edge(self, time: int) -> int:
        """The end of a time's bucket, in milliseconds."""
        width = _WIDTH if time < self._near * _WIDE else _WIDE
        return (time // width + 1) * width

    def _promise_before(self, edge: int, number: int, kind: Promises) -> None:
        """In the bucket that ends at ``edge``."""
        if edge <= self._near * _WIDE:
            kind.add(edge // _WIDTH - 1, number)
        elif number:
            self._wide[edge // _WIDE - 1] = self._wide.get(edge // _WIDE - 1, 0) + number

    def show(self, due: float, *, again: bool = False) -> None:
        """A ticket is shown that was due at ``due``."""
        bucket = round(1000 * due) // _WIDTH
        if not (again and self._again.show(bucket)):
            self._first.show(bucket)

    def expected(self, now: float) -> float:
        """Tickets that are due and have not been shown, of those that will be by the share.

        Those that were due before and found nothing are expected for a grace before they come again.
        """
        time = round(1000 * now)
        return self._first.expected(time - _GRACE, time) + self._again.expected(time - _GRACE, time + _GRACE)

    def share_out(self, now: float, free: int, due: int, others: int, spare: int = 0) -> tuple[int, int]:
        """How many of ``free`` slots go to tickets that are ``due`` and were shown, and to clients without one.

        ``spare`` of them need not be kept: clients without a ticket get as many at the least, unless tickets use them.
        """
        tickets, more = self.allow(now, free, due, others, spare)
        self.took(free, tickets, more)
        return tickets, more

    def allow(self, now: float, free: int, due: int, others: int, spare: int = 0) -> tuple[int, int]:
        """The same, before it is known how many of them can use it."""
        if self.is_empty and not due:
            return 0, min(others, free)
        first = min(others, free, math.floor(self._credit + ROUNDING))
        tickets = min(due, free - first)
        rest = free - first - tickets
        kept = math.floor(self.expected(now) + 0.5)
        unclaimed = math.floor(min(rest, self._left, self._left_before))
        least = math.floor(LEAST * (free + self._given) + ROUNDING) - self._given - first
        return tickets, first + max(0, min(others - first, rest, max(rest - kept, least, unclaimed, spare - first)))

    def took(self, free: int, tickets: int, others: int) -> None:
        """So many of ``free`` slots went to tickets that were due, and to clients without one."""
        if self.is_empty and not tickets:
            return
        credit = min(self._credit + tickets * LEAST / (1 - LEAST), max(1.0, LEAST * free))
        self._credit = max(0.0, credit - others)
        self._given += others
        self._left = min(self._left, free - tickets - others)


def _overlap(bucket: int, begins: int, ends: int) -> float:
    """The part of a bucket that is between two times in milliseconds."""
    first = bucket * _WIDTH
    return max(0, min(ends, first + _WIDTH) - max(begins, first)) / _WIDTH


def is_due(ticket: Ticket, now: float) -> bool:
    """Whether it is the turn of a ticket."""
    return round(1000 * ticket.place) <= round(1000 * now) + round(1000 * EARLY)


def forgotten_at(ticket: Ticket, now: float, longest: float) -> float:
    """Until when a ticket that is redeemed ``now`` is remembered; ``longest`` is the upper bound of ``RETRY_AFTER``.

    A copy keeps its own time until its place. Each refusal, of the ledger or of a worker that decides alone, tells it
    to come again within the bound, and it is good for a grace and a call after that. Workers that decide alone can
    renew a copy for as long as they refuse, without the ledger. Such a copy is worth no more than the new ticket that
    they give to any client.
    """
    return max(ticket.place, now) + max(longest, AGAIN) + GRACE + LATE


def is_again(ticket: Ticket) -> bool:
    """Whether a ticket that is due was shown before."""
    return round(1000 * ticket.due) > round(1000 * ticket.place)

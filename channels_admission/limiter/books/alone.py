"""What one worker admits while the ledger is away, and which clients first. Pure.

Times are those of tickets: Unix seconds of the ledger's clock.
"""

import math
from collections import OrderedDict

from ...core.counters import Reason
from ...core.herd.bucket import TokenBucket
from ...core.herd.line import GRACE, LEAST, Line, is_due
from ...core.herd.tickets import Ticket
from ...core.levels import ROUNDING
from ...core.protocol import Terms

FEW = math.ceil(1 / LEAST) - 1
"""Slots of which the least share of clients without a ticket is less than one."""
MOST_REDEEMED = 10_000
"""Redeemed tickets that are remembered, the last ones."""


class Alone:
    """The line of a worker that decides alone, by its part of the rate, if there is one, and of the slots.

    It begins empty: what the ledger knows of promises, the worker does not.
    """

    def __init__(self, terms: Terms, workers: int, now: float) -> None:
        part = max(1, workers)
        self._bucket = TokenBucket(terms.rate / part, max(1, terms.burst // part), now) if terms.rate else None
        self._line = Line()
        self._line.advance(now)
        self._kept_for = terms.retry_after[1] + GRACE
        """Seconds after its redemption in which a copy of a ticket may be in time."""
        self._redeemed: OrderedDict[tuple[float, int], float] = OrderedDict()
        """Until when each redeemed ticket is remembered."""

    @property
    def overbooked(self) -> float:
        """By what the steps of retry times are multiplied."""
        return self._line.overbooked

    def promise(self, time: float, now: float) -> None:
        """A client has been told to come at ``time``."""
        self._line.advance(now)
        self._line.promise(time)

    def is_redeemed(self, ticket: Ticket) -> bool:
        return (ticket.place, ticket.number) in self._redeemed

    def refusal(self, now: float, slots: int, ticket: Ticket | None) -> Reason | None:
        """Why a handshake that shows ``ticket`` is refused while there are so many ``slots``; else it has its token."""
        self._line.advance(now)
        is_first = False
        if ticket is not None and not self.is_redeemed(ticket):
            self._line.show(ticket.due)
            is_first = is_due(ticket, now)
        free = max(0, slots if self._bucket is None else min(slots, self._bucket.left(now)))
        spare = 0 if self._bucket is None else self._bucket.spare(free, now)
        if free - self._line.expected(now) <= ROUNDING:
            free = min(free, FEW)  # else each of many clients would be the first of a tenth
        if not any(self._line.share_out(now, free, int(is_first), int(not is_first), spare)):
            return Reason.LEDGER if self._bucket is None or slots <= 0 else Reason.RATE
        if self._bucket is not None:
            self._bucket.take(now)
        if is_first and ticket is not None:
            self._redeem(ticket, now)
        return None

    def _redeem(self, ticket: Ticket, now: float) -> None:
        redeemed = self._redeemed
        while redeemed and (len(redeemed) >= MOST_REDEEMED or next(iter(redeemed.values())) < now):
            redeemed.popitem(last=False)
        redeemed[ticket.place, ticket.number] = now + self._kept_for

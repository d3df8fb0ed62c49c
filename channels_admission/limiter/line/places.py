"""The places of refused clients in the line of one pool: given with each refusal, and known again by its ticket."""

import asyncio
import math
import random
import time
from collections.abc import Callable
from dataclasses import replace

from ... import conf
from ...core.counters import DRAINED, MISSED, PASSED, PROMISED, REDEEMED, is_own
from ...core.herd.line import EARLY, GRACE, is_due
from ...core.herd.tickets import PER_SECOND, Signer, Ticket
from ...core.protocol import Refusal
from ..books.state import State
from ..calls.pace import SLOWEST
from ..connections.asgi import Scope
from ..connections.refusal import is_passed_on
from ..queue import NO_RETRY_TIME
from .retries import RetrySchedule

NUMBER_BITS = 32
SLOW = 8
"""The part of its delay by which a slow reply sets the clock back: the clock may have been set back itself."""


class LedgerClock:
    """The ledger's Unix time, by the last reply; before the first one, by this machine. ``clock`` gives seconds.

    It goes on while the ledger is away, so that workers agree on the tickets given before.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ahead = time.time() - clock()
        self._is_by_wall = True

    def hear(self, now: float) -> None:
        """A reply has come that was made at ``now``. One that took its time says less of the clock than a quick one."""
        ahead = now - self._clock()
        is_quick = not 0 <= self._ahead - ahead <= SLOWEST
        self._ahead = ahead if self._is_by_wall or is_quick else self._ahead + (ahead - self._ahead) / SLOW
        self._is_by_wall = False

    def time(self) -> float:
        return self._clock() + self._ahead

    def at(self, own: float) -> float:
        """The time at which the machine's clock is at ``own``."""
        return own + self._ahead


class Places:
    """Gives refused clients their retry times and tickets by ``retries``, and reads the tickets. Decides nothing.

    Belongs to one event loop.
    """

    def __init__(self, state: State, retries: RetrySchedule) -> None:
        self._loop_time = asyncio.get_running_loop().time
        self.clock = LedgerClock(self._loop_time)
        self._state = state
        self._retries = retries
        self._signer = Signer(state.pool.name, conf.ticket_secrets())

    def read(self, text: str) -> Ticket | None:
        """The ticket, if it is whole, of this pool and in time."""
        now = self.clock.time()
        ticket = self._signer.read(text, now)
        if ticket is not None and now > ticket.due + GRACE:
            self._state.counters[MISSED] += 1
            return None
        return ticket

    def heard(self, refusal: Refusal, text: str) -> Refusal:
        """The refusal of a client that has shown ``text``: it listens, if that is a ticket of this pool."""
        return replace(refusal, listens=self._signer.read(text, self.clock.time()) is not None)

    def is_due(self, ticket: Ticket) -> bool:
        """Whether the client is first in line."""
        return is_due(ticket, self.clock.time())

    def rank(self, ticket: Ticket | None) -> float:
        """What those that wait are ordered by: the place, where it is due."""
        return ticket.place if ticket is not None and self.is_due(ticket) else math.inf

    def is_awaited(self, ticket: Ticket) -> bool:
        """Whether the client comes when it was told to, or first in line: the ledger should hear of it."""
        return min(ticket.place, ticket.due) <= self.clock.time() + EARLY

    def redeem(self, ticket: Ticket) -> None:
        """The client is admitted."""
        if self.is_due(ticket):
            self._state.counters[REDEEMED] += 1

    # Refusals

    def refuse(
        self, reason: str, wait: float = 0.0, ticket: Ticket | None = None, scope: Scope | None = None
    ) -> Refusal:
        """A refusal with its retry time and ticket; ``ticket`` is the one that was shown.

        Where the reason is this worker's alone and by ``scope`` a balancer may try another worker, it is passed on.

        A ticket that was shown keeps its place, and mostly takes none of the schedule: one that is early keeps its time
        as well, and one that is due comes again soon. ``wait`` is that of the refusal, if any. A refusal for which no
        place helps gives no new ticket.
        """
        if scope is not None and is_own(reason) and is_passed_on(scope, self._state.pool):
            return self._pass_on(reason, ticket)
        is_placeless = reason.startswith(NO_RETRY_TIME)
        if self._state.away and (alone := self._state.alone):
            self._retries.overbooked = alone.overbooked
            ticket = None if ticket is not None and alone.is_redeemed(ticket) else ticket
        now = self._loop_time()
        if ticket is not None and not is_placeless and (wait_on := self._own_wait(reason, ticket, now)) is not None:
            return self.keep(reason, ticket, wait_on)
        place = self._retries.place(reason, now, wait)
        if ticket is not None:
            return self.keep(reason, ticket, place)
        told = self._retries.told(place)
        if is_placeless:
            return Refusal(reason, told)
        self._state.counters[PROMISED] += 1
        ledger_now = self.clock.at(now)
        return self._with(reason, told, Ticket(ledger_now + place, ledger_now + told, random.getrandbits(NUMBER_BITS)))

    def _pass_on(self, reason: str, ticket: Ticket | None) -> Refusal:
        """A refusal that the balancer answers by trying another worker: it takes none of the schedule."""
        self._state.counters[PASSED] += 1
        soon = self._retries.soon()
        refusal = Refusal(reason, soon) if ticket is None else self.keep(reason, ticket, soon)
        return replace(refusal, is_passed=True)

    def _own_wait(self, reason: str, ticket: Ticket, now: float) -> float | None:
        """The seconds after which ``ticket`` comes again without a retry time of the schedule, if it does."""
        return self._retries.short(reason, now) if self.is_due(ticket) else ticket.place - self.clock.at(now)

    def keep(self, reason: str, ticket: Ticket, wait: float) -> Refusal:
        """A refusal with the same place as that of the shown ``ticket``, for ``wait`` seconds."""
        told = self._retries.told(wait)
        return self._with(reason, told, ticket._replace(due=self.clock.time() + told))

    def renumbered(self, ticket: Ticket) -> Ticket:
        """The same place for a client that is refused though its ticket was redeemed."""
        return ticket._replace(number=random.getrandbits(NUMBER_BITS))

    def end(self) -> Refusal:
        """What a client is told whose connection the package closes: to come by the rate, or without one soon."""
        return self.refuse(DRAINED) if self._state.terms.rate else Refusal(DRAINED, self._retries.soon())

    def _with(self, reason: str, told: float, ticket: Ticket) -> Refusal:
        if self._state.away and (alone := self._state.alone) and ticket.place < ticket.due + 1 / PER_SECOND:
            alone.promise(ticket.due, self.clock.time())
        return Refusal(reason, told, self._signer.write(ticket))

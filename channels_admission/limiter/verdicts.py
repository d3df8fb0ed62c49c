"""The verdict on one handshake: a slot, or why there is none."""

import asyncio

from ..core.counters import DRY, Reason
from ..core.herd.tickets import Ticket
from ..core.protocol import Ask, Refusal
from ..core.quotas.attempts import Over
from ..events.log import RefusalLog
from .books.slots import Slots
from .books.state import State
from .connections.asgi import Scope
from .connections.slot import Owner, Slot
from .line.places import Places
from .queue import Handshake


class Verdicts:
    """Verdicts on the handshakes of ``owner`` without the ledger, and all refusals. Belongs to one event loop."""

    def __init__(self, owner: Owner, state: State, slots: Slots, places: Places, log: RefusalLog) -> None:
        self._owner = owner
        self._state = state
        self._slots = slots
        self._places = places
        self._rules = owner.rules
        self._log = log
        self._loop = asyncio.get_running_loop()

    def is_exempt(self, ask: Ask | None) -> bool:
        return ask is not None and self._rules is not None and self._rules.is_exempt(ask.class_index)

    def refuse_attempt(
        self, ask: Ask, slot: Slot | None = None, ticket: Ticket | None = None, *, is_asked: bool = False
    ) -> Slot | Refusal | None:
        """A refusal if the client tries too often, before anything is spent on it; the attempt is counted.

        Where the ledger ``is_asked`` about attempts that pass here, only its earlier refusals under the same key count.
        """
        over = self._over(ask, is_asked=is_asked) if ask.tries else None
        return None if over is None else self.refuse(over.reason, ask, slot, ticket, over.wait)

    def _over(self, ask: Ask, *, is_asked: bool) -> Over | None:
        attempts, state, now = self._state.attempts, self._state, self._loop.time()
        if attempts is None:
            return None
        if is_asked:
            return attempts.known(ask.tries, now)
        if state.away and state.pool.when_ledger_down == "open":
            return None
        return attempts.alone(ask.tries, now, state.workers)

    def learn(self, over: Over, ask: Ask, now: float) -> None:
        """The ledger has refused an attempt: the next ones of the client need no call until it has waited."""
        if self._state.attempts is not None:
            self._state.attempts.learn(over, ask.tries, now)

    def refuse_unasked(
        self, reason: str, ask: Ask | None, ticket: Ticket | None, scope: Scope | None = None
    ) -> Slot | Refusal:
        """Refuse without the ledger. A client that tries too often gets no retry time of the schedule."""
        if ask is not None and (refusal := self.refuse_attempt(ask, ticket=ticket)):
            return refusal
        return self.refuse(reason, ask, ticket=ticket, scope=scope)

    def refuse(
        self,
        reason: str,
        ask: Ask | None = None,
        slot: Slot | None = None,
        ticket: Ticket | None = None,
        wait: float = 0.0,
        scope: Scope | None = None,
    ) -> Slot | Refusal:
        """A refusal; in a dry run what was asked for, except in a drain.

        ``wait`` is how many seconds a client must wait that tries too often, or finds the entrance full.
        """
        if self._is_let_in(reason):
            return self._slots.take(ask, slot)
        return self._places.refuse(reason, wait, ticket, scope)

    def refuse_waiting(self, handshake: Handshake, reason: str, wait: float = 0.0) -> Slot | Refusal:
        """The same for a handshake that has waited for the ledger."""
        ticket, turn = handshake.ticket, handshake.turn
        if ticket is None or turn is None:
            return self.refuse(reason, handshake.ask, handshake.slot, ticket, wait, handshake.scope)
        if self._is_let_in(reason):
            return self._slots.take(handshake.ask, handshake.slot)
        return self._places.keep(reason, ticket, turn)

    def _is_let_in(self, reason: str) -> bool:
        """Count a refusal, and tell whether a dry run admits the client all the same."""
        is_dry = self._state.dry_run and reason != Reason.DRAINING
        self._state.counters[f"{DRY}{reason}" if is_dry else str(reason)] += 1
        self._log.note()
        if is_dry:
            self._owner.report_soon()
        return is_dry

    def alone(self, ask: Ask | None = None, slot: Slot | None = None, ticket: Ticket | None = None) -> Slot | Refusal:
        """The verdict without the ledger."""
        if ask is not None and (refusal := self.refuse_attempt(ask, slot, ticket)):
            return refusal
        reason = None
        if slot is not None:
            reason = self._state.claim_alone(ask)
        elif not self.is_exempt(ask):
            reason = self._state.refusal_alone(self._places.clock.time(), ask, ticket)
        return self._slots.take(ask, slot) if reason is None else self.refuse(reason, ask, slot, ticket)

    def overdue(self, handshake: Handshake) -> Slot | Refusal:
        """The verdict on a handshake that has waited for the ledger for ``LEDGER_TIMEOUT``."""
        if self.is_exempt(handshake.ask) or (handshake.slot is None and self._state.may_enter(handshake.ask)):
            return self._slots.take(handshake.ask, handshake.slot)
        return self.refuse_waiting(handshake, Reason.LEDGER)

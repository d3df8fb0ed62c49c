"""The slots of one limiter: given, counted under other keys and taken back, with the books kept in step."""

from collections.abc import Callable
from itertools import zip_longest

from ...core.counters import AUTHENTICATED
from ...core.protocol import Ask
from ..connections.slot import Owner, Slot
from .state import State


class Slots:
    """Gives slots of ``owner`` and keeps ``state``; ``clock`` gives seconds. Decides nothing."""

    def __init__(self, owner: Owner, state: State, clock: Callable[[], float]) -> None:
        self._owner = owner
        self._state = state
        self._clock = clock

    def admit(self, ask: Ask | None = None) -> Slot:
        """A slot for what has been claimed."""
        slot = Slot(self._owner) if ask is None else Slot(self._owner, ask.claims, ask.class_index)
        if self._state.slot_ages is not None:
            self._state.slot_ages.note(slot, self._clock())
        self._state.admit(ask)  # nothing may go wrong from here on
        return slot

    def give(self, ask: Ask | None, slot: Slot | None) -> Slot:
        """A slot for what has been claimed, or ``slot`` with that as well."""
        if slot is None:
            return self.admit(ask)
        if ask is not None:
            self._extend(slot, ask)
            if self._state.slot_ages is not None and slot.limiter is not None:
                self._state.slot_ages.note(slot, self._clock())
        return slot

    def _extend(self, slot: Slot, ask: Ask) -> None:
        """Count ``slot`` under what was claimed for it as well."""
        claims = self._state.claims
        if slot.limiter is None:  # its connection has ended meanwhile
            self.give_up(ask)
        elif claims is not None:
            claims.leave(slot.class_index)
            claims.enter(ask.class_index)
            # Where two asks for the slot were granted at the same time, the later claim is given back.
            claims.give(tuple(old and new for old, new in zip(slot.claims, ask.claims, strict=False)))
            slot.claims = tuple(new if old is None else old for old, new in zip_longest(slot.claims, ask.claims))
            slot.class_index = ask.class_index

    def give_up(self, ask: Ask | None) -> None:
        """What was claimed is free again, since the client has gone meanwhile."""
        if ask is not None and self._state.claims is not None:
            self._state.claims.give(ask.claims)

    def take(self, ask: Ask | None, slot: Slot | None) -> Slot:
        """The same, and claim it without the ledger's word."""
        if ask is not None and self._state.claims is not None:
            self._state.claims.take(ask.claims)
        return self.give(ask, slot)

    def take_back(self, slot: Slot, *, is_unused: bool = False) -> None:
        """The slot was released."""
        state = self._state
        if state.slot_ages is not None:
            state.slot_ages.forget(slot)
        state.release(slot.claims, slot.class_index, is_unused=is_unused)
        are_few = state.claims is None or state.claims.are_few(slot.claims, state.limit, state.workers)
        if are_few and state.allowance - state.held <= state.reserve.most:
            self._owner.report_when_quiet()
        else:
            self._owner.report_soon()

    def withdraw(self, slot: Slot) -> None:
        """Take back a slot that was never used: its handshake is refused after all."""
        slot.limiter = None
        self.take_back(slot, is_unused=True)

    def acquaint(self, slot: Slot) -> None:
        """The slot's connection has authenticated."""
        if self._state.pool.pending_deadline is not None:
            self._state.counters[AUTHENTICATED] = 1
        rules, claims = self._owner.rules, self._state.claims
        if rules is not None and claims is not None:
            known = rules.without_pending(slot.claims)
            if known != slot.claims:
                claims.give(rules.pending)
                slot.claims = known
                self._owner.report_soon()

"""What a limiter answers: a slot or a refusal, each counted as it is given; and for how long one answers for others."""

import random
from itertools import zip_longest
from typing import Any

from ..connections.slot import Slot
from ..core.counters import ATTEMPTS, DRY, QUOTA, Reason
from ..core.protocol import Ask, Refusal
from ..core.rate import RetrySchedule
from ..events.dispatch import Events
from ..quotas.requests import Rules
from .state import State
from .timetable import Timetable, crowd_pause

FULL_FRESH = 0.02
"""Seconds for which a pool that could not grant all is taken to have nothing left: at most 50 calls a second then.

Longer where a crowd knocks at a full pool, as long as a herd pauses: to wait for a refusal costs a worker four times
what the refusal does. Slots that the worker itself gets back are given away at once all the same, until the ledger
has heard of them; others see theirs when that time is over.
"""


class Fullness:
    """Which handshakes need not ask the ledger, since it has just refused others like them."""

    def __init__(self, ledger_timeout: float) -> None:
        self._ledger_timeout = ledger_timeout
        self.until: dict[int, tuple[float, str]] = {}
        """For each class, until when it is taken to have no room, and why; for all, where there are none, the first."""
        self.turned_away = 0
        """How many were refused so since the ledger was last asked."""

    def note_class(self, group: int, reason: str, now: float) -> None:
        """One of the class was refused for want of room."""
        self.until[group] = now + FULL_FRESH, reason

    def note_pool(self, shortfall: Reason, refused: int, started: float) -> None:
        """So many were refused in a pool without classes, by a call that began at ``started``."""
        crowd, self.turned_away = refused + self.turned_away, 0
        crowded = crowd_pause(crowd, self._ledger_timeout) if shortfall is Reason.FULL else 0
        self.until[0] = started + max(FULL_FRESH, crowded), shortfall


class Verdicts:
    """Gives the slots of ``limiter``, and refuses. Belongs to one event loop."""

    def __init__(
        self, limiter: Any, state: State, rules: Rules | None, schedule: RetrySchedule, events: Events,
        timetable: Timetable,
    ) -> None:  # fmt: skip
        self._limiter = limiter
        self._state = state
        self._rules = rules
        self._schedule = schedule
        self._events = events
        self._timetable = timetable
        self._loop = timetable.loop

    def admit(self, ask: Ask | None = None) -> Slot:
        slot = Slot(self._limiter) if ask is None else Slot(self._limiter, ask.claims, ask.group)
        if ask is not None:
            self._date(slot)
        self._state.admit(ask)  # nothing may go wrong from here on
        return slot

    def _date(self, slot: Slot) -> None:
        """Remember since when the slot is counted under its keys, where that matters."""
        if self._state.elders is not None:
            self._state.elders.note(slot, self._loop.time())

    def give(self, ask: Ask | None, slot: Slot | None) -> Slot:
        """A slot for what has been claimed, or ``slot`` with that as well."""
        if slot is None:
            return self.admit(ask)
        if ask is not None:
            self._extend(slot, ask)
        return slot

    def _extend(self, slot: Slot, ask: Ask) -> None:
        if slot.limiter is None:  # its connection has ended meanwhile
            self.take_back(ask)
        elif self._state.claims is not None:
            self._state.claims.leave(slot.group)
            self._state.claims.enter(ask.group)
            # Two who asked at the same time were both granted what is kept once.
            self._state.claims.give(tuple(old and new for old, new in zip(slot.claims, ask.claims, strict=False)))
            slot.claims = tuple(new if old is None else old for old, new in zip_longest(slot.claims, ask.claims))
            slot.group = ask.group
            self._date(slot)

    def take_back(self, ask: Ask | None) -> None:
        """What was claimed for somebody who has gone is free again."""
        if ask is not None and self._state.claims is not None:
            self._state.claims.give(ask.claims)

    def refuse(
        self, reason: str, ask: Ask | None = None, slot: Slot | None = None, wait: float = 0.0
    ) -> Slot | Refusal:
        """A refusal, or what was asked for in a dry run, which refuses nobody but for a drain.

        ``wait`` is how long a client must leave off that tries too often.
        """
        is_dry = self._state.dry_run and reason != Reason.DRAINING
        self._state.refuse(f"{DRY}{reason}" if is_dry else reason)
        self._events.refusals.note()
        if is_dry:
            self._timetable.report_soon()
            return self._take(ask, slot)
        if reason.startswith(QUOTA):
            return Refusal(reason, self._schedule.chance())
        if reason.startswith(ATTEMPTS):
            return Refusal(reason, self._turn(wait))
        return Refusal(reason, self._schedule.next(self._loop.time()))

    def _turn(self, wait: float) -> float:
        """The hint to a client whose turn is so far away; beyond the bounds, a chance one in their upper half."""
        low, high = self._state.terms.retry_after
        return max(low, wait) if wait < high else random.uniform((low + high) / 2, high)

    def over(self, ask: Ask | None, slot: Slot | None = None, *, is_asked: bool = False) -> Slot | Refusal | None:
        """A refusal where the client tries too often, before anything is spent on it; see :meth:`.State.over`."""
        over = self._state.over(ask, self._loop.time(), is_asked=is_asked)
        return None if over is None else self.refuse(over.reason, ask, slot, over.wait)

    def turn_away(self, reason: str, ask: Ask) -> Slot | Refusal:
        """Refuse without the ledger's word; one that tries too often gets no moment of the schedule."""
        return self.over(ask) or self.refuse(reason, ask)

    def alone(self, ask: Ask | None = None, slot: Slot | None = None) -> Slot | Refusal:
        """The verdict without the ledger's word."""
        if ask is not None and (refused := self.over(ask, slot)):
            return refused
        reason = None
        if slot is not None:
            reason = self._state.claim_alone(ask)
        elif not self.is_exempt(ask):
            reason = self._state.refusal_alone(self._loop.time(), ask)
        return self._take(ask, slot) if reason is None else self.refuse(reason, ask, slot)

    def overdue(self, ask: Ask | None, slot: Slot | None) -> Slot | Refusal:
        """The verdict on who has waited for the ledger's word as long as anybody may."""
        if self.is_exempt(ask) or (ask is None and self._state.has_room):
            return self.give(ask, slot)
        return self.refuse(Reason.LEDGER, ask, slot)

    def is_exempt(self, ask: Ask | None) -> bool:
        return ask is not None and self._rules is not None and self._rules.is_exempt(ask.group)

    def _take(self, ask: Ask | None, slot: Slot | None) -> Slot:
        """What is asked for, without the ledger's word."""
        if ask is not None and self._state.claims is not None:
            self._state.claims.take(ask.claims)
        return self.give(ask, slot)

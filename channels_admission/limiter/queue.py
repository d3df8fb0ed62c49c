"""The handshakes that wait in a limiter for the ledger's word, in the order of arrival."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..connections.slot import Slot
from ..core.attempts import Over
from ..core.counters import ATTEMPTS, QUOTA, Reason
from ..core.protocol import Ask, Refusal, View
from ..quotas.claims import first_asks
from ..quotas.requests import Rules
from ..runtime.faults import Faults
from .patience import Patience
from .state import State
from .timetable import Timetable
from .verdicts import Fullness, Verdicts

NO_MOMENT = (QUOTA, ATTEMPTS)
"""Begin the reasons for which no free moment of the pool is any better than another."""


class Handshake(asyncio.Future["Slot | Refusal"]):
    """A handshake that waits for its verdict."""

    overdue: int
    """The tick at which it has waited its time."""
    ask: Ask | None = None
    slot: Slot | None = None
    """What it has already, where it asks for more."""
    is_asked = False
    """Whether a call has asked for it."""


@dataclass(slots=True)
class Batch:
    """The handshakes whose verdicts one call brings."""

    handshakes: list[Handshake]
    asks: tuple[Ask, ...] | None
    """What each asks for, in a pool that is shared by quotas or classes."""
    told: int = 0
    """How many of them have been told, where each has a verdict of its own."""

    @property
    def wanted(self) -> int:
        """Slots."""
        return len(self.handshakes) if self.asks is None else sum(not ask.late for ask in self.asks)

    def refused(self, view: View) -> int:
        """How many of those who want a slot may come again at a free moment; a quota has none."""
        if self.asks is None:
            return self.wanted - view.granted
        verdicts = zip(self.asks, view.verdicts, strict=True)
        return sum(bool(reason) and not (ask.late or reason.startswith(NO_MOMENT)) for ask, reason in verdicts)


class Queue:
    """The queue of one limiter. Belongs to one event loop."""

    def __init__(
        self, state: State, rules: Rules | None, verdicts: Verdicts, fullness: Fullness, patience: Patience,
        timetable: Timetable, faults: Faults,
    ) -> None:  # fmt: skip
        self.waiting: deque[Handshake] = deque()
        self._state = state
        self._is_shared = rules is not None
        self._verdicts = verdicts
        self._fullness = fullness
        self._patience = patience
        self._timetable = timetable
        self._faults = faults
        patience.watch(self._look)

    async def verdict(self, ask: Ask | None = None, slot: Slot | None = None) -> Slot | Refusal:
        """A slot for ``ask``, or ``slot`` with that as well, or a refusal. Cancelling it costs no slot."""
        handshake = self._join(ask, slot)
        try:
            return await handshake
        except asyncio.CancelledError:
            self._abandon(handshake)
            raise

    def _join(self, ask: Ask | None, slot: Slot | None) -> Handshake:
        handshake = Handshake(loop=self._timetable.loop)
        handshake.ask, handshake.slot = ask, slot
        handshake.overdue = self._patience.begin()
        self.waiting.append(handshake)
        if len(self.waiting) == 1:
            self._timetable.ring()
        return handshake

    def _abandon(self, handshake: Handshake) -> None:
        """The handshake was cancelled, perhaps just after its slot was given."""
        if handshake.done() and not handshake.cancelled():
            verdict = handshake.result()
            # One that had its slot before keeps it, for its connection may go on.
            if isinstance(verdict, Slot) and handshake.slot is None:
                verdict.release()

    # What a call asks and answers

    def batch(self) -> Batch:
        """Those whom the next call asks for."""
        waiting = [each for each in self.waiting if not each.done()]
        if not self._is_shared:
            for each in waiting:
                each.is_asked = True
            return Batch(waiting, None)
        asks = [each.ask or Ask() for each in waiting]
        number = first_asks(asks)
        return Batch(waiting[:number], tuple(asks[:number]))

    def answer(self, batch: Batch, view: View, started: float) -> None:
        """Tell the batch what the ledger said, in answer to a call that began at ``started``."""
        if batch.asks is not None:
            self._tell_each(batch, view)
            return
        if view.shortfall:
            self._fullness.note_pool(view.shortfall, batch.refused(view), started)
        self._share_out(view.shortfall or Reason.FULL)

    def _share_out(self, shortfall: Reason) -> None:
        """Admit in the order of arrival as far as slots are counted, then refuse those who were asked for."""
        waiting = self.waiting
        while waiting:
            if waiting[0].done():
                waiting.popleft()
            elif self._state.has_room:
                self._decide(waiting.popleft(), self._verdicts.admit)
            elif waiting[0].is_asked:
                self._decide(waiting.popleft(), self._verdicts.refuse, shortfall)
            else:
                break

    def _tell_each(self, batch: Batch, view: View) -> None:
        """What was granted to one who has gone meanwhile is free again."""
        now, waits = self._timetable.loop.time(), iter(view.waits)
        for handshake, ask, reason in zip(batch.handshakes, batch.asks or (), view.verdicts, strict=True):
            batch.told += 1
            if reason and not (ask.late or reason.startswith(NO_MOMENT)):
                self._fullness.note_class(ask.group, reason, now)
            wait = self._learn(reason, ask, next(waits, 0.0), now) if reason.startswith(ATTEMPTS) else 0.0
            if handshake.done():
                is_given = False
            elif reason:
                is_given = self._decide(handshake, self._verdicts.refuse, reason, ask, handshake.slot, wait)
            else:
                is_given = self._decide(handshake, self._verdicts.give, ask, handshake.slot)
            if not (is_given or reason):
                self._verdicts.take_back(ask)
        while self.waiting and self.waiting[0].done():
            self.waiting.popleft()

    def _learn(self, reason: str, ask: Ask, wait: float, now: float) -> float:
        """The client's next attempts need no call until it has waited so long."""
        if self._state.attempts is not None:
            self._state.attempts.learn(Over(reason, wait), ask.tries, now)
        return wait

    def take_back(self, batch: Batch, view: View) -> None:
        """What the ledger granted to those of the batch who were not told of it is free again."""
        if batch.asks is not None:
            for ask, reason in list(zip(batch.asks, view.verdicts, strict=True))[batch.told :]:
                if not reason:
                    self._verdicts.take_back(ask)

    def _decide(self, handshake: Handshake, verdict: Callable[..., Slot | Refusal], *args: Any) -> bool:
        """Give one who waits the verdict, or where none can be made a refusal; whether it could be made."""
        try:
            handshake.set_result(verdict(*args))
        except Exception as error:
            self._faults.note("a verdict", error)
            handshake.set_result(Refusal(Reason.LEDGER, self._state.terms.retry_after[1]))
            return False
        return True

    # What needs no call

    def answer_alone(self) -> None:
        """Decide for all, since the ledger does not."""
        while self.waiting:
            handshake = self.waiting.popleft()
            if not handshake.done():
                self._decide(handshake, self._verdicts.alone, handshake.ask, handshake.slot)

    def turn_away(self, reason: Reason) -> None:
        """Refuse all who wait for a slot."""
        for handshake in self.waiting:
            if handshake.slot is None and not handshake.done():
                self._decide(handshake, self._verdicts.refuse, reason, handshake.ask)

    def _look(self) -> bool:
        """Decide for those who have waited their time."""
        waiting, now = self.waiting, self._patience.now
        while waiting and (waiting[0].done() or waiting[0].overdue <= now):
            handshake = waiting.popleft()
            if not handshake.done():
                self._decide(handshake, self._verdicts.overdue, handshake.ask, handshake.slot)
        return bool(waiting)

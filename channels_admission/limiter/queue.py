"""The handshakes of one limiter that wait for the ledger, in the order of arrival, and those that need not wait."""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ..core.counters import ATTEMPTS, QUOTA, Reason
from ..core.herd.tickets import Ticket
from ..core.protocol import Ask, Refusal, Reply, Report, Shown
from ..ledger.base import TICKS
from ..quotas.claims import first_asks
from ..runtime.faults import Faults
from .calls.pace import CallPace
from .connections.asgi import Scope
from .connections.slot import Slot

FREED_FRESH = 0.1
"""The same after a call that found free slots, where no ticket is likely to be shown: the workers use most of these
themselves."""
NO_RETRY_TIME = (QUOTA, ATTEMPTS)
"""Prefixes of the reasons for which no free slot of the pool helps."""


class Handshake(asyncio.Future[Slot | Refusal]):
    """A handshake that waits for its verdict."""

    overdue: int
    """The tick at which it has waited for ``LEDGER_TIMEOUT``."""
    ask: Ask | None = None
    slot: Slot | None = None
    """The slot it has already, where it asks for more."""
    ticket: Ticket | None = None
    """The ticket that it has shown."""
    scope: Scope | None = None
    """What it has asked with, where a balancer may try another worker."""
    place = math.inf
    """The place of its ticket, where this is due."""
    turn: float | None = None
    """Seconds after which the ledger wants it to come again with its ticket."""
    is_asked = False
    """Whether a call has asked for it."""


@dataclass(slots=True)
class Batch:
    """The handshakes whose verdicts one call brings, and the report that asks for them."""

    handshakes: list[Handshake]
    asks: tuple[Ask, ...] | None
    """What each asks for, in a pool that is shared by quotas or classes."""
    is_all: bool
    """Whether no other handshake waited when the call was made."""
    started: float
    """The event loop's time when the call was made."""
    report: Report = field(init=False)
    told: int = 0
    """How many of them have their verdicts, in a pool that is shared."""

    @property
    def shown(self) -> tuple[Shown, ...]:
        """The tickets of its handshakes."""
        shown = ((index, each.ticket) for index, each in enumerate(self.handshakes))
        return tuple(Shown(index, ticket) for index, ticket in shown if ticket is not None)

    @property
    def wanted(self) -> int:
        """Slots."""
        return len(self.handshakes) if self.asks is None else sum(not ask.late for ask in self.asks)

    def refused(self, reply: Reply) -> int:
        """How many of those that want a slot may come again when one is free."""
        if self.asks is None:
            return self.wanted - reply.granted
        return sum(may_retry(ask, reason) for ask, reason in zip(self.asks, reply.verdicts, strict=True))

    def reserved(self, reply: Reply) -> int:
        """How many of these get a retry time of the schedule: those without a ticket that keeps its place."""
        return self.refused(reply) - sum(turn.wait is not None for turn in reply.turns)

    def untold(self, reply: Reply) -> list[Ask]:
        """What was granted to those that have not been told so, in a pool that is shared."""
        verdicts = list(zip(self.asks or (), reply.verdicts, strict=False))
        return [ask for ask, reason in verdicts[self.told :] if not reason]

    def hear_turns(self, reply: Reply) -> None:
        """Note what is said of the tickets of those that are refused."""
        for turn in reply.turns:
            handshake = self.handshakes[turn.handshake]
            handshake.turn = turn.wait
            if turn.wait is None:  # it was redeemed before
                handshake.ticket = None


def may_retry(ask: Ask, reason: str) -> bool:
    """Whether ``ask``, refused for ``reason``, wants a slot and may get one as soon as the pool has one."""
    return bool(reason) and not (ask.late or reason.startswith(NO_RETRY_TIME))


class Queue:
    """Waiting handshakes. Decides nothing: ``expire`` is called with each that has waited for ``seconds``.

    Belongs to one event loop.
    """

    def __init__(self, seconds: float, expire: Callable[[Handshake], object], faults: Faults) -> None:
        self.waiting: deque[Handshake] = deque()
        self._seconds = seconds
        self._expire = expire
        self._faults = faults
        self._loop = asyncio.get_running_loop()
        self._tick = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self.waiting)

    def join(self, ask: Ask | None, slot: Slot | None) -> Handshake:
        """A handshake at the end of the queue."""
        handshake = Handshake(loop=self._loop)
        handshake.ask, handshake.slot = ask, slot
        handshake.overdue = self._tick + TICKS
        self.waiting.append(handshake)
        if self._timer is None:
            self._start_timer()
        return handshake

    def batch(self, now: float, *, shared: bool) -> Batch:
        """The handshakes that a call ``now`` asks for."""
        waiting = [each for each in self.waiting if not each.done()]
        if not shared:
            for each in waiting:
                each.is_asked = True
            return Batch(waiting, None, True, now)
        waiting.sort(key=lambda each: each.place)
        asks = [each.ask or Ask() for each in waiting]
        number = first_asks(asks)
        return Batch(waiting[:number], tuple(asks[:number]), number == len(waiting), now)

    def take(self, is_next: Callable[[Handshake], bool] | None = None) -> Iterator[Handshake]:
        """Remove and yield those that still wait, as long as the first one ``is_next``."""
        waiting = self.waiting
        while waiting and (waiting[0].done() or is_next is None or is_next(waiting[0])):
            handshake = waiting.popleft()
            if not handshake.done():
                yield handshake

    def drop_answered(self) -> None:
        """Remove the handshakes at the head that have their verdicts."""
        while self.waiting and self.waiting[0].done():
            self.waiting.popleft()

    def close(self) -> None:
        """Call ``expire`` no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _start_timer(self) -> None:
        self._timer = self._loop.call_later(self._seconds / TICKS, self._count)

    def _count(self) -> None:
        self._timer = None
        self._tick += 1
        with self._faults.spare("the end of the wait"):
            for handshake in self.take(lambda each: each.overdue <= self._tick):
                self._expire(handshake)
        if self.waiting:
            self._start_timer()


class Shortage:
    """What the ledger has just refused: for a short time, handshakes like these are refused without another call.

    Waiting for a refusal costs a worker four times what the refusal does. So the time is longer where a crowd knocks at
    a full pool: as long as a herd pauses. Slots that the worker itself gets back are given away at once all the same,
    until the ledger has heard of them; other workers see theirs when that time is over.
    """

    def __init__(self, pace: CallPace) -> None:
        self._pace = pace
        self._until: dict[int, tuple[float, str]] = {}
        """For each class, until when it is taken to have no room, and why; in a pool without classes, for the first."""
        self._noted_at = 0.0
        """When the last call began that refused some in a pool without classes."""
        self._refused = 0
        """Handshakes that were refused for it since the ledger was last asked."""

    def reason(self, class_index: int, now: float) -> str | None:
        """Why a handshake of the class is refused without a call, if it is; it is counted."""
        until, reason = self._until.get(class_index, (0.0, ""))
        if now >= until:
            return None
        self._refused += 1
        return reason

    def note_class(self, class_index: int, reason: str, now: float) -> None:
        """A handshake of the class was refused."""
        self._until[class_index] = now + self._pace.shortage, reason

    def note_pool(self, shortfall: Reason, refused: int, started: float) -> None:
        """So many were refused in a pool without classes, by a call that began at ``started``."""
        crowd, self._refused = refused + self._refused, 0
        pause = self._pace.crowd(crowd) if shortfall is Reason.FULL else 0.0
        self._until[0] = started + max(self._pace.shortage, pause), shortfall
        self._noted_at = started

    def forget(self) -> None:
        """Ask about the next handshakes."""
        self._until.clear()

    def end(self, *, has_line: bool) -> None:
        """A pool without classes has room: ask again soon after the call before, sooner where ``has_line``."""
        if 0 in self._until:
            until, reason = self._until[0]
            pause = max(self._pace.shortage, 0.0 if has_line else FREED_FRESH)
            self._until[0] = min(until, self._noted_at + pause), reason

"""The entrance of one event loop: admits connections in turns, so that open connections are served in between.

A reply of the ledger may admit hundreds of handshakes at once. If all of them started at once, the event loop would
serve no other connection until the last one has connected. So only as many go in as the
:class:`~.core.herd.window.Window` has room for; the next ones follow after a turn in which the event loop, and the
thread that runs sync code, have served the other connections.
"""

import asyncio
import math
from collections import OrderedDict
from contextvars import Context
from heapq import heappop, heappush
from itertools import islice
from typing import Protocol

from ...core.counters import DELAYED, DRY, Reason
from ...core.herd.window import START, Window
from ...runtime.faults import Faults
from ..books.state import State
from ..connections.connection import Connection
from .turns import TICK, Turns

MEASURED = 1.0
"""Seconds over which the speed is measured."""
ONE_OF = 10
"""Of so many that are let in, one goes in by the time for which it has waited, and not by a place."""
HASTE = 2.0
"""How much faster refused clients are told to come than the entrance lets in: early clients wait, and late ones leave
the entrance idle."""
LAST = 1 / 8
"""The part of ``ENTRANCE_WAIT`` for which the last ones of a herd may wait beyond it, if all of them enter by then. Had
they been refused, they would be back later: by default a second is the least that a refused client is told."""
MOST_PROMISED = 10_000
"""Refused clients whose retry times are remembered."""
RECENT = 2.0
"""Seconds for which a herd that is inside still shows in the lag (:data:`~..overload.monitors.WINDOW`)."""
REMEMBERED = 60.0
"""Seconds after a herd for which its speed is reported: the next herd may find the worker changed."""
LASTING = 30.0
"""Seconds after which a herd is taken for overload."""


class Door(Protocol):
    """A limiter, as the entrance sees it."""

    state: State

    @property
    def connections(self) -> dict[Connection, float]:
        """The open connections, the youngest last."""


class Waiter(asyncio.Future["str | None"]):
    """A handshake that waits with its slot. Its result is the reason for a refusal, or None."""

    door: Door
    since: float
    place = math.inf
    """Its place in the line of its pool, where its ticket is due."""


class Entrance:
    """The entrance to all limiters of one event loop. ``longest`` is ``ENTRANCE_WAIT``; the last ones may wait for
    :data:`LAST` of it more."""

    def __init__(self, longest: float | None, faults: Faults) -> None:
        self.room: float = math.inf if longest is None else START
        """How many may go in before the next turn; 0 while others wait."""
        self.speed = 0.0
        """Handshakes a second that were lately let in while others had to wait; 0.0 where unknown."""
        self.is_full = False
        """Whether one more would wait for too long."""
        self._longest = longest or math.inf
        self._faults = faults
        self._loop = asyncio.get_running_loop()
        self._window = Window(self._loop.time())
        self._exempt: OrderedDict[Waiter, None] = OrderedDict()
        self._others: OrderedDict[Waiter, None] = OrderedDict()
        self._due: list[tuple[float, int, Waiter]] = []
        """A heap of those of the others that have a place."""
        self._passed = 0
        """Others that were let in."""
        self._doors: dict[Door, int] = {}
        """Those with waiting handshakes since the last calm, each with the number let in since it was measured."""
        self._entered = 0
        """Handshakes let in since the last calm."""
        self._given = self.room
        """The room at the beginning of the turn."""
        self._turns = Turns(self._loop, self._end_turn, faults, self._is_calm)
        self._last: Door | None = None
        """That of the handshake which took the last room."""
        self._measured_at = self._calm_at = self._busy_at = self._rested_at = -math.inf
        self._measured: set[Door] = set()
        """Those whose reports tell a speed."""
        self._forget_timer: asyncio.TimerHandle | None = None
        self._promised: list[float] = []
        """A heap of the retry times of refused clients."""

    @property
    def waiting(self) -> int:
        """Handshakes that wait with their slots."""
        return len(self._exempt) + len(self._others)

    @property
    def is_spreading(self) -> bool:
        """Whether a herd is being let in, or was until recently, and not for longer than :data:`LASTING`."""
        now = self._loop.time()
        return (self.waiting > 0 or now - self._calm_at < RECENT) and now - self._busy_at < LASTING

    def hint(self) -> float:
        """Seconds until one more refused client should come: each at its own time, by the speed."""
        if not self.speed:
            return 0.0
        now = self._loop.time()
        while self._promised and self._promised[0] <= now:
            heappop(self._promised)
        before = len(self._others) + len(self._promised) / HASTE
        wait = before / self.speed - self._longest / 2
        if len(self._promised) < MOST_PROMISED:
            heappush(self._promised, now + wait)
        return wait

    async def wait(self, door: Door, *, is_exempt: bool, place: float = math.inf) -> str | None:
        """Wait for a turn. Gives the reason for a refusal, or None. May be cancelled at any time.

        Those with a ``place`` in their pool's line go in before others, but for one of ten.

        While :attr:`room` is above 1, taking one from it does the same.
        """
        if self.room >= 1:
            self.room -= 1
            self._last = door
            self._turns.begin(newcomers=int(self._given - self.room) - 1)
            return None
        if self.is_full and not is_exempt and place == math.inf and not door.state.dry_run:
            return Reason.ENTRANCE
        waiter = Waiter(loop=self._loop)
        waiter.door, waiter.since = door, self._loop.time()
        if not self.waiting and waiter.since - self._calm_at >= RECENT:
            self._busy_at, self.speed = waiter.since, 0.0
        queue = self._exempt if is_exempt else self._others
        queue[waiter] = None
        if place < math.inf and not is_exempt:
            waiter.place = place
            heappush(self._due, (place, id(waiter), waiter))
        self._doors.setdefault(door, 0)
        door.state.counters[DELAYED] += 1
        self._look()
        self._turns.begin()
        try:
            return await waiter
        finally:
            queue.pop(waiter, None)

    # Turns

    def _is_calm(self) -> bool:
        """Whether those that took the room came one by one: in no less than a turn, and most of them are answered."""
        if self.waiting or self._doors or not START <= self._given <= self.room + START or self._last is None:
            return False
        if self._loop.time() - self._rested_at < TICK or _unanswered(self._last, START) > START / 2:
            return False
        self._rest()
        return True

    def _end_turn(self, took: float) -> None:
        try:
            self._next(took)
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Rather let all in than keep anybody out."""
        self._faults.note("the entrance", error)
        self._let_in(math.inf)
        self._rest()

    def _next(self, took: float) -> None:
        """Learn from the turn that is over, and begin the next one, unless all are inside."""
        now = self._loop.time()
        entered = int(self._given - self.room)
        self._entered += entered
        inside = sum(_unanswered(door, min(self._entered, self._window.youngest)) for door in self._doors)
        was_limited = self._window.is_limited
        self._window.learn(took, entered, inside, now, is_awaited=self.waiting > 0)
        if self._window.is_limited:
            self._measure(now, is_first=not was_limited)
        self._turn_away(now)
        self._given = self._window.room(inside, now)
        self.room = self._let_in(self._given)
        self._look()
        if self.waiting or self.room < self._given or entered > START:
            self._turns.begin()
        else:
            self._rest()

    def _rest(self) -> None:
        """Rest, with no handshake waiting."""
        now = self._rested_at = self._loop.time()
        if self._doors:
            self._calm_at = now
            self._doors = {}
            self._forget_later()
        for queue in (self._exempt, self._others):
            queue.clear()  # even an empty one keeps the room that a herd once needed
        self._due = []
        self._entered, self.is_full, self._last = 0, False, None
        self._window.rest(now)
        self._given = self.room = int(self._window.size)

    def _forget_later(self) -> None:
        """Report the speed for :data:`REMEMBERED` from now on."""
        if self._forget_timer is not None:
            self._forget_timer.cancel()
        if self._measured:
            self._forget_timer = self._loop.call_later(REMEMBERED, self._forget, context=Context())

    def _forget(self) -> None:
        self._forget_timer = None
        if not self.waiting:  # else the next calm begins the time anew
            for door in self._measured:
                door.state.entrance_speed = 0.0
            self._measured.clear()

    def _let_in(self, room: float) -> float:
        """Let in the exempt and then the others. Gives the room that is left."""
        for queue in (self._exempt, self._others):
            while queue and room >= 1:
                waiter = self._next_other() if queue is self._others else queue.popitem(last=False)[0]
                if not waiter.done():
                    waiter.set_result(None)
                    self._doors[waiter.door] = self._doors.get(waiter.door, 0) + 1
                    room -= 1
        return room

    def _next_other(self) -> Waiter:
        """The earliest place, or one time of ten the one that has waited longest."""
        self._passed += 1
        while self._due and self._passed % ONE_OF:
            waiter = heappop(self._due)[2]
            if waiter in self._others:
                del self._others[waiter]
                return waiter
        return self._others.popitem(last=False)[0]

    def _measure(self, now: float, *, is_first: bool) -> None:
        """Measure the speed, from the time on at which the window was found to be limited."""
        elapsed = now - self._measured_at
        if not is_first and elapsed < MEASURED:
            return
        if not is_first:
            speed = sum(self._doors.values()) / elapsed
            self.speed = (self.speed + speed) / 2 if self.speed else speed
            for door, count in self._doors.items():
                door.state.entrance_speed = count / elapsed
                self._measured.add(door)
        self._doors = dict.fromkeys(self._doors, 0)
        self._measured_at = now

    # Refusals

    def _turn_away(self, now: float) -> None:
        """Refuse handshakes of a closed pool, those that have waited too long, and the last ones, which would."""
        for door in self._doors:
            reason = door.state.closed
            if reason and (reason == Reason.DRAINING or not door.state.dry_run):
                for waiter in [each for queue in (self._exempt, self._others) for each in queue if each.door is door]:
                    self._refuse(waiter, reason)
        for queue in (self._exempt, self._others):
            while queue and now - (waiter := next(iter(queue))).since >= self._bound():
                self._refuse(waiter, None if queue is self._exempt else Reason.ENTRANCE)
        for waiter in [each for each in reversed(self._others) if each.place == math.inf] if self._look() else ():
            if waiter.door.state.dry_run or not self._look():
                break
            self._refuse(waiter, Reason.ENTRANCE)

    def _bound(self) -> float:
        """Seconds that the first may wait."""
        all_are_last = self.waiting <= self.speed * self._longest * LAST
        return self._longest * (1 + LAST if all_are_last else 1)

    def _look(self) -> bool:
        self.is_full = self.speed > 0 and len(self._others) > self.speed * self._longest * (1 + LAST)
        return self.is_full

    def _refuse(self, waiter: Waiter, reason: str | None) -> None:
        """End the wait. A dry run only counts those that have waited too long."""
        self._exempt.pop(waiter, None)
        self._others.pop(waiter, None)
        if reason == Reason.ENTRANCE and waiter.door.state.dry_run:
            waiter.door.state.counters[f"{DRY}{reason}"] += 1
            reason = None
        if not waiter.done():
            waiter.set_result(reason)


def _unanswered(door: Door, last: int) -> int:
    """How many of the ``last`` connections are not answered yet."""
    return sum(each.unanswered is not None for each in islice(reversed(door.connections), last))

"""When a refused client should come again: a retry time for each, from a schedule, whatever the reason."""

import math
import random
from collections.abc import Mapping
from typing import Protocol

from ..core.counters import ADMITTED, ATTEMPTS, DRAINED, QUOTA, UNACCEPTED, Reason
from ..core.protocol import Offer, Terms
from ..core.rate import PROBING, SCHEDULED, Drought, paced, unpaced

FRESH = 2.0
"""Heartbeats after which an offer says nothing any more: a worker that refuses is given one at every heartbeat."""
CALM = 5.0
"""Seconds without a refusal by a monitor after which the next one is the first of another overload."""
MEASURED = 1.0
"""Seconds from which on the admissions beside such refusals make a speed."""
POOLED = frozenset({*Reason, UNACCEPTED, DRAINED} - {Reason.ENTRANCE})
"""The reasons that the pool's retry times are for."""
OWN_WAIT = (Reason.ENTRANCE, ATTEMPTS)
"""Begin the reasons of refusals that come with a wait of their own."""


class Limited(Protocol):
    """What a schedule asks of its limiter's :class:`~.state.State`."""

    @property
    def terms(self) -> Terms: ...

    @property
    def workers(self) -> int: ...

    @property
    def entrance_speed(self) -> float: ...

    @property
    def counters(self) -> Mapping[str, int]: ...


class Line:
    """Retry times one after the other, within the bounds of ``RETRY_AFTER``."""

    def __init__(self) -> None:
        self._next = -math.inf

    def next(self, now: float, soonest: float, apart: float, high: float) -> float:
        """Seconds until the next free one, which is given away."""
        retry = max(self._next, now + soonest)
        self._next = min(retry + apart, max(self._next, now + high))
        return retry - now


class Overload:
    """The refusals of a worker's monitors that follow one another, and how fast it admits beside them."""

    def __init__(self, state: Limited) -> None:
        self._state = state
        self._began = self._last = -math.inf
        self._admitted = 0

    def speed(self, now: float) -> float:
        """Connections a second that the worker admits under this pressure."""
        admitted = self._state.counters.get(ADMITTED, 0)
        if now - self._last > CALM:
            self._began, self._admitted = now, admitted
        elapsed, self._last = now - self._began, now
        measured = (admitted - self._admitted) / elapsed if elapsed >= MEASURED else 0.0
        return self._state.entrance_speed or measured or PROBING


class RetrySchedule:
    """The retry times that a limiter gives to the clients that it refuses.

    They come from the ledger's latest **offer**. Of its retry times so many are this limiter's own, one for each
    handshake that the ledger refused. Those beyond are counted as ``owed``, until a report tells the ledger, and lie
    further apart, since the other workers go on at the same time. Before an offer, while the ledger is away, and once
    the latest offer is old, they follow the worker's **own speed**: its part of the rate or the speed of its entrance,
    the lower of both, or else :data:`~.core.rate.PROBING`.

    A monitor's refusal is told no earlier time than the speed at which the worker admits under that pressure allows.
    While the ledger is away, and in a quota, retry times move away with the length of it
    (:class:`~.core.rate.Drought`). Those of a quota are none of the pool's, and are not owed. A client that tries too
    often is told when its key has a turn, and at the entrance the wait that the entrance has measured.

    Chance spreads only beyond the upper bound of ``RETRY_AFTER``, over the upper half of the bounds.
    """

    def __init__(self, state: Limited, heartbeat: float = 3.0) -> None:
        self._state = state
        self._fresh_for = FRESH * heartbeat
        self._offer: Offer | None = None
        self._expires = -math.inf
        self._at = 0.0
        self._next = 0.0
        """The next retry time, in the pool's pace."""
        self._reserved = 0
        self._overload, self._pressed = Overload(state), Line()
        self._without_quota, self._quota = Drought(), Line()
        self._without_ledger, self._admitted = Drought(), 0
        self.owed = 0
        """Retry times given away beyond those that a ledger has reserved."""

    def renew(self, offer: Offer, reserved: int, now: float) -> None:
        """Go on from ``offer``, of whose retry times so many are this limiter's own."""
        self._offer, self._reserved, self._at, self._next = offer, reserved, now, offer.first
        self._expires = now + self._fresh_for

    def go_alone(self, now: float) -> None:
        """Go on without a ledger, by this worker's own speed, from the earliest retry time on."""
        slow_start = self._state.terms.slow_start
        self._offer, self._reserved, self._at, self._next = None, 0, now - slow_start, slow_start / 2
        self._expires = math.inf

    def retry_after(self, reason: str, now: float, wait: float = 0.0) -> float:
        """Seconds until a client refused for ``reason`` should come again; ``wait`` if the reason has its own."""
        low, high = bounds = self._state.terms.retry_after
        if reason in POOLED:
            wait = self._pooled(now)
        elif reason.startswith(QUOTA):
            wait = self._quota.next(now, self._without_quota.soonest(now, bounds), 1 / PROBING, high)
        elif not reason.startswith(OWN_WAIT):
            pressed = self._pressed.next(now, low, 1 / self._overload.speed(now), high)
            wait = max(pressed, self._pooled(now))
        if reason == Reason.LEDGER:
            wait = max(wait, self._soonest_alone(now))
        return max(low, wait) if wait < high else random.uniform((low + high) / 2, high)

    def soon(self, now: float) -> float:
        """The same for one whose connection we end, at a steady pace: without a rate soon, for there may be room."""
        low, high = self._state.terms.retry_after
        return self.retry_after(DRAINED, now) if self._state.terms.rate else random.uniform(low, min(2 * low, high))

    def _pooled(self, now: float) -> float:
        """Seconds until the pool's next free retry time, which is given away."""
        if now > self._expires:
            self.go_alone(now)
        (low, high), slow_start = self._state.terms.retry_after, self._state.terms.slow_start
        passed = now - self._at + (self._offer.elapsed if self._offer else 0.0)
        retry = max(self._next, paced(passed + low, slow_start))
        self._next = min(retry + self._apart(), max(self._next, paced(passed + high, slow_start)))
        return unpaced(retry, slow_start) - passed

    def _apart(self) -> float:
        """From this retry time of the pool to the next one of this limiter; whether it is owed is counted."""
        if self._reserved and self._offer is not None:
            self._reserved -= 1
            return self._offer.step
        self.owed += 1
        return self._own_step() if self._offer is None else self._offer.step * max(1, self._state.workers)

    def _own_step(self) -> float:
        rate, speed = self._state.terms.rate, self._state.entrance_speed
        part = rate / max(1, self._state.workers) if rate else 0.0
        return 1 / (SCHEDULED * min((each for each in (part, speed) if each), default=PROBING))

    def _soonest_alone(self, now: float) -> float:
        """How far away the earliest retry time is while the ledger is away and this worker admits nobody."""
        admitted = self._state.counters.get(ADMITTED, 0)
        if admitted != self._admitted:
            self._admitted = admitted
            self._without_ledger.end()
        return self._without_ledger.soonest(now, self._state.terms.retry_after)

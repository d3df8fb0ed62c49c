"""Retry times for refused clients, from a schedule."""

import math
import random
from collections.abc import Mapping
from typing import Protocol

from ...core.counters import ADMITTED, ATTEMPTS, DRAINED, QUOTA, UNACCEPTED, Reason
from ...core.herd.line import AGAIN, LONGEST
from ...core.herd.rate import PROBING, SCHEDULED, Drought, paced, unpaced
from ...core.protocol import RetryTimes, Terms

FRESH = 2.0
"""Heartbeats after which the ledger's times are too old: a worker that refuses gets new ones with every heartbeat."""
CALM = 5.0
"""Seconds without a refusal by a monitor after which an overload is over."""
MEASURED = 1.0
"""Seconds of an overload after which its admissions give a speed."""
POOLED = frozenset({*Reason, UNACCEPTED, DRAINED} - {Reason.ENTRANCE})
"""The reasons that follow the pool's schedule."""
OWN_WAIT = (Reason.ENTRANCE, ATTEMPTS)
"""Prefixes of the reasons whose refusals have a wait of their own."""


class Limited(Protocol):
    """The part of :class:`~.state.State` that a schedule uses."""

    @property
    def terms(self) -> Terms: ...

    @property
    def workers(self) -> int: ...

    @property
    def entrance_speed(self) -> float: ...

    @property
    def counters(self) -> Mapping[str, int]: ...


class Spaced:
    """Retry times one after the other."""

    def __init__(self) -> None:
        self._next = -math.inf

    def next(self, now: float, soonest: float, apart: float, latest: float) -> float:
        """Take the next free retry time, about ``latest`` at the most; in seconds from ``now``."""
        retry = max(self._next, now + soonest)
        self._next = min(retry + apart, max(self._next, now + latest))
        return retry - now


class Overload:
    """The speed at which a worker admits connections while its monitors refuse others."""

    def __init__(self, state: Limited) -> None:
        self._state = state
        self._began = self._last = -math.inf
        self._admitted = 0

    def speed(self, now: float) -> float:
        """Connections per second that the worker admits."""
        admitted = self._state.counters.get(ADMITTED, 0)
        if now - self._last > CALM:
            self._began, self._admitted = now, admitted
        elapsed, self._last = now - self._began, now
        measured = (admitted - self._admitted) / elapsed if elapsed >= MEASURED else 0.0
        return self._state.entrance_speed or measured or PROBING


class RetrySchedule:
    """The retry times that a limiter gives to refused clients.

    They follow the ledger's latest reply, which reserves one for each handshake that the ledger refused. Further
    ones are counted as ``unreserved`` until a report tells the ledger. They are further apart, since the other workers
    give out theirs at the same time. Before the first, while the ledger is away, and once the latest is old, retry
    times follow the worker's **own speed**: the lower of its part of the rate and the speed of its entrance, or else
    :data:`~.core.herd.rate.PROBING`.

    After a refusal by a monitor the retry time is also limited by the speed at which the worker admits connections.
    After refusals by a quota, and while the ledger is away, retry times move away with the length of the
    :class:`~.core.herd.rate.Drought`. Those of a quota are not part of the pool's schedule, and not counted. A refusal
    by a rate of attempts waits for the next turn of its key, one by the entrance for the time that the entrance
    measured. A client whose ticket is due waits for a :meth:`short` time, not for the end of the schedule.

    A retry time above the upper bound of ``RETRY_AFTER`` is a client's :meth:`place`, but not what it is :meth:`told`.
    """

    def __init__(self, state: Limited, heartbeat: float = 3.0) -> None:
        self._state = state
        self._fresh_for = FRESH * heartbeat
        self._retry_times: RetryTimes | None = None
        self._expires = -math.inf
        self._at = 0.0
        self._next = 0.0
        """The next retry time, in pace time."""
        self._reserved = 0
        self._overload, self._pressed = Overload(state), Spaced()
        self._without_quota, self._quota = Drought(), Spaced()
        self._by_itself, self._admitted = Drought(), 0
        self._due = Spaced()
        self.overbooked = 1.0
        """By what the own speed's steps are multiplied: the share of tickets that is shown while the ledger is away."""
        self.unreserved = 0
        """Retry times given out beyond those that the ledger has reserved."""

    def renew(self, retry_times: RetryTimes, reserved: int, now: float) -> None:
        """Continue with ``retry_times``, of which ``reserved`` are this limiter's own."""
        self._retry_times, self._reserved, self._at, self._next = retry_times, reserved, now, retry_times.first
        self.overbooked = 1.0
        self._expires = now + self._fresh_for

    def go_alone(self, now: float) -> None:
        """Continue without a ledger: by this worker's own speed, from the earliest retry time on."""
        slow_start = self._state.terms.slow_start
        self._retry_times, self._reserved, self._at, self._next = None, 0, now - slow_start, slow_start / 2
        self._expires = math.inf

    def retry_after(self, reason: str, now: float, wait: float = 0.0) -> float:
        """Take a retry time for a refused client, and give what it is told."""
        return self.told(self.place(reason, now, wait))

    def told(self, wait: float) -> float:
        """What a client is told that should wait for ``wait`` seconds.

        Within the bounds of ``RETRY_AFTER``, and above them at random in their upper half.
        """
        low, high = self._state.terms.retry_after
        return max(low, wait) if wait < high else random.uniform((low + high) / 2, high)

    def place(self, reason: str, now: float, wait: float = 0.0) -> float:
        """Take a retry time for a refused client, in seconds from ``now``; ``wait`` is that of the refusal, if any."""
        low, high = bounds = self._state.terms.retry_after
        if reason in POOLED:
            wait = self._pooled(now)
        elif reason.startswith(QUOTA):
            wait = self._quota.next(now, self._without_quota.soonest(now, bounds), 1 / PROBING, high)
        elif not reason.startswith(OWN_WAIT):
            pressed = self._pressed.next(now, low, 1 / self._overload.speed(now), LONGEST)
            wait = max(pressed, self._pooled(now))
        if reason == Reason.LEDGER:
            wait = max(wait, self._soonest(now))
        return max(low, wait)

    def soon(self) -> float:
        """The same, soon, for a client whose connection the package closes in a pool without a rate."""
        low, high = self._state.terms.retry_after
        return random.uniform(low, min(2 * low, high))

    def short(self, reason: str, now: float) -> float | None:
        """The same for a client whose ticket was due: by this worker's speed, in the order in which they come.

        None where time does not help soon: then it waits by the schedule, as in the ledger.
        """
        most = max(self._state.terms.retry_after[0], AGAIN)
        if reason == Reason.PAUSED or reason.startswith(OWN_WAIT) or (soonest := self._soonest(now)) > most:
            return None
        apart = self._own_step() if reason in POOLED else 1 / self._overload.speed(now)
        return self._due.next(now, soonest, apart, most)

    def _pooled(self, now: float) -> float:
        """Take the pool's next free retry time; in seconds from ``now``."""
        if now > self._expires:
            self.go_alone(now)
        low, slow_start = self._state.terms.retry_after[0], self._state.terms.slow_start
        passed = now - self._at + (self._retry_times.elapsed if self._retry_times else 0.0)
        soonest, latest = passed + low, passed + LONGEST
        if slow_start:
            soonest, latest = paced(soonest, slow_start), paced(latest, slow_start)
        retry = max(self._next, soonest)
        apart = self._retry_times.step if self._retry_times else self.overbooked * self._own_step()
        if self._reserved:
            self._reserved -= 1
        else:
            self.unreserved += 1
            apart *= self._state.workers if self._retry_times and self._state.workers else 1
        self._next = min(retry + apart, max(self._next, latest))
        return (unpaced(retry, slow_start) if slow_start else retry) - passed

    def _own_step(self) -> float:
        rate, speed = self._state.terms.rate, self._state.entrance_speed
        part = rate / max(1, self._state.workers) if rate else 0.0
        return 1 / (SCHEDULED * min((each for each in (part, speed) if each), default=PROBING))

    def _soonest(self, now: float) -> float:
        """Seconds until the earliest retry time while this worker refuses by itself and admits no connection."""
        admitted = self._state.counters.get(ADMITTED, 0)
        if admitted != self._admitted:
            self._admitted = admitted
            self._by_itself.end()
        return self._by_itself.soonest(now, self._state.terms.retry_after)

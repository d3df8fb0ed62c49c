"""How many handshakes may be on their way into a worker, learnt as congestion windows are. Pure.

- A turn of the worker in which the newcomers take longer than the target shrinks the window in proportion.
- A short turn lets it grow, at most twofold, once as many as fit into it have been answered in short turns. Costs that
  come late, after a query of the database for example, are seen before more go in.
- Once the window was too large, newcomers are paced as well: a few at a time, and hardly faster than they were lately
  answered. So those whose cost comes late do not all spend it in one turn.
- What a turn takes without newcomers is measured now and then, and does not count against them.

Times are in seconds of a clock that never runs backwards.
"""

import math
from collections import deque

TARGET = 0.04
"""Seconds that newcomers may take of a turn."""
START = 4
"""The window at first, and at the most after a calm: what an idle worker lets in at once."""
LEAST = 2.0
"""The smallest window: while one newcomer waits for the database, another one may connect."""
GROWTH = 2.0
"""The most by which the window grows at a time. It grows only in turns shorter than the target divided by that."""
SHRINK = 0.25
"""The least part of the window that one turn leaves."""
UNANSWERED = 0.25
"""Seconds of short turns after which the window grows without an answer: consumers may take their time to accept."""
QUIET = 5
"""Every so many turns, if they are long, one is measured without newcomers."""
SEVERAL = 2 * QUIET
"""Turns after which it is known what they take without newcomers."""
RISE = 0.5
"""The most of such a turn by which the measure rises at a time: something else may have made it long."""
CLUMPS = 4
"""The number of parts into which the newcomers of a full turn are spread."""
HASTE = 2.0
"""How much faster newcomers go in than they were answered, so that the worker is not idle for want of them. Gain and
greatest rate of late are those of BBR (Cardwell et al., 2016)."""
SAMPLED, LATELY = 0.1, 10
"""Seconds over which the rate of answers is measured, and how many of these measures count."""


class Pacer:
    """How fast newcomers may go in: hardly faster than they were lately answered, and a few at a time."""

    def __init__(self, now: float) -> None:
        self._rates: deque[float] = deque(maxlen=LATELY)
        self._answered = 0
        self._since = self._at = now
        self._tokens = 0.0

    def learn(self, answered: int, now: float) -> None:
        """So many were answered since the turn before."""
        self._answered += answered
        elapsed = now - self._since
        if elapsed >= SAMPLED:
            self._rates.append(self._answered / elapsed)
            self._answered, self._since = 0, now

    def room(self, now: float) -> float:
        """How many may go in."""
        elapsed, self._at = now - self._at, now
        rate = HASTE * max(self._rates, default=0.0)
        if not rate:
            return math.inf
        self._tokens = min(max(1.0, rate * TARGET / CLUMPS), self._tokens + rate * elapsed)
        return self._tokens

    def let_in(self, number: int) -> None:
        self._tokens = max(0.0, self._tokens - number)


class Window:
    """The window of one event loop."""

    def __init__(self, now: float) -> None:
        self.size: float = START
        self._forget(now)

    def _forget(self, now: float) -> None:
        self._limit: float | None = None
        self._is_quiet = self._is_long = self._is_paced = False
        self._base = 0.0
        self._turns = self._entered = self._inside = 0
        self._grew_at = now
        self._pacer = Pacer(now)

    def rest(self, now: float) -> None:
        """Begin anew after a calm, with no more than :data:`START`."""
        self.size = min(self.size, START)
        self._forget(now)

    @property
    def is_limited(self) -> bool:
        """Whether a window that is not much larger has been found to be too large."""
        return self._limit is not None and self.size <= GROWTH * self._limit

    @property
    def youngest(self) -> int:
        """How many of the last newcomers may be unanswered for want of time; older ones are slow by themselves."""
        return int(GROWTH * self.size)

    def room(self, inside: int, now: float) -> int:
        """How many may go in now, while so many are on their way; none in a turn that is measured without newcomers."""
        self._is_quiet = self._is_long and not self._turns % QUIET and not inside
        self._turns += 1
        if self._is_quiet:
            return 0
        room, paced = self.size - inside, math.inf if self._limit is None else self._pacer.room(now)
        self._is_paced = paced < room
        return max(0, int(min(room, paced)))

    def learn(self, took: float, entered: int, inside: int, now: float, *, is_awaited: bool) -> None:
        """A turn took so long in which so many went in; so many are on their way, and others wait if ``is_awaited``."""
        self._entered += entered
        there, self._inside = self._inside + entered, inside
        self._pacer.let_in(entered)
        self._pacer.learn(there - inside, now)
        if self._is_quiet:
            self._base = min(took, self._base + RISE * took)
            return
        ours, target = took - self._base, max(TARGET, self._base)
        self._is_long = ours > target / GROWTH
        if self._is_long:
            self._grew_at, self._entered = now, inside
            if there > 0 and self._turns > SEVERAL and not self.is_limited:
                self._limit = self.size
        if ours > target and there > 0:
            self.size = max(LEAST, self.size * max(SHRINK, target / ours))
        elif not (self._is_long or self._is_paced) and (is_awaited or self.size < START):
            is_answered = self._entered - inside >= self.size
            if is_answered or now - self._grew_at >= UNANSWERED:
                self.size *= min(GROWTH, target / GROWTH / ours) if ours > 0 else GROWTH
                self._grew_at, self._entered = now, 0

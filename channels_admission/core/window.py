"""How many handshakes may be on their way into a worker at a time, learnt as congestion windows are. Pure.

- A turn of the worker in which the newcomers take longer than the target shrinks the window in proportion.
- A short turn lets it grow, at most twofold, once as many as fit into it have been answered. Costs that come late,
  after a query of the database for example, are seen before more go in.
- What a turn takes without newcomers is measured now and then, and does not count against them.

Times are in seconds of a clock that never runs backwards.
"""

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


class Window:
    """The window of one event loop."""

    def __init__(self, now: float) -> None:
        self.size: float = START
        self._forget(now)

    def _forget(self, now: float) -> None:
        self._limit: float | None = None
        self._is_quiet = self._is_long = False
        self._base = 0.0
        self._turns = self._entered = 0
        self._grew_at = now

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

    def room(self, inside: int) -> int:
        """How many may go in now, while so many are on their way; none in a turn that is measured without newcomers."""
        self._is_quiet = self._is_long and not self._turns % QUIET and not inside
        self._turns += 1
        return 0 if self._is_quiet else max(0, int(self.size) - inside)

    def learn(self, took: float, entered: int, inside: int, now: float, *, is_awaited: bool) -> None:
        """A turn took so long in which so many went in; so many are on their way, and others wait if ``is_awaited``."""
        self._entered += entered
        if self._is_quiet:
            self._base = min(took, self._base + RISE * took)
            return
        ours, target = took - self._base, max(TARGET, self._base)
        self._is_long = ours > target / GROWTH
        if self._is_long:
            self._grew_at = now
            if entered + inside > 0 and self._turns > SEVERAL and not self.is_limited:
                self._limit = self.size
        if ours > target and entered + inside > 0:
            self.size = max(LEAST, self.size * max(SHRINK, target / ours))
            self._entered = inside
        elif not self._is_long and (is_awaited or self.size < START):
            is_answered = self._entered - inside >= self.size
            if is_answered or now - self._grew_at >= UNANSWERED:
                self.size *= min(GROWTH, target / GROWTH / ours) if ours > 0 else GROWTH
                self._grew_at, self._entered = now, 0

"""How often a worker calls its ledger, so that all workers of a pool together ask no more than it can answer. Pure."""

from ..books.state import State

MOST_CALLS = 4000
"""Calls a second of all workers of a pool together. Heartbeats are a part of them, and are never held back."""
EASY, BUSY = 0.5, 0.75
"""Shares of these up to which no worker pauses for the others, and from which each has its part and no more."""
WINDOW = 0.1
"""The least seconds over which the calls of all workers are counted."""
FULL_FRESH = 0.02
"""Seconds for which a pool that could not grant all is taken to have nothing left: at most 50 calls a second then."""
CROWD_PAUSE = 0.005
"""Seconds from one call to the next for each handshake that the first one decided, if there were several."""
LONGEST_PAUSE = 0.4
"""The most of ``LEDGER_TIMEOUT`` that such a pause may take: a large herd makes ten calls a second."""
IDLE = 4
"""At a full pool a worker has no call under way for so many times what a call takes. Where Redis is slow because too
many ask, all of them ask less, and it has time for other work."""
SLACK = 10
"""An answer may take so many times what calls have lately taken: a slow Redis is not a lost one."""
LONGEST_CALL = 4
"""Times ``LEDGER_TIMEOUT`` that it may take at a full pool, before the ledger counts as away."""
SLOWEST = 4.0
"""Seconds that any call may take (:data:`~...conf.keys`)."""


class CallPace:
    """The pauses of one limiter, in seconds from the beginning of a call."""

    def __init__(self, state: State, ledger_timeout: float, heartbeat: float) -> None:
        self._state = state
        self._timeout = ledger_timeout
        self._longest_pause = LONGEST_PAUSE * ledger_timeout
        self._heartbeat = heartbeat
        self._counted: tuple[int, float] | None = None
        self._part = 0.0
        """How much of its turn a worker waits for, by the calls that all workers make: from 0 to 1."""

    def count(self, version: int, now: float) -> None:
        """Note the pool's version in the reply to a call made ``now``: it rises by one with each call of any worker."""
        if self._counted is None:
            self._counted = version, now
        before, then = self._counted
        if now - then >= WINDOW:
            load = max(0, version - before) / (now - then) / MOST_CALLS
            self._part = min(max((load - EASY) / (BUSY - EASY), 0.0), 1.0)
            self._counted = version, now

    @property
    def call(self) -> float:
        """To the next call, whatever it is for, unless it is a heartbeat.

        Handshakes wait for it, unless most calls are slower than they can wait.
        """
        longest = self._longest_pause if self._state.calls.lately < self._timeout else self._heartbeat
        pause = min(self._rest, longest) if self._state.scarce else 0.0
        if self._part:
            pause = max(pause, self._turn)
        return min(pause, self._heartbeat)

    @property
    def shortage(self) -> float:
        """To the next look for slots that have become free in a full pool."""
        return min(max(FULL_FRESH, self._turn, self._rest), self._heartbeat)

    @property
    def timeout(self) -> float:
        """Seconds to wait for an answer before the ledger counts as away.

        That is ``LEDGER_TIMEOUT``, for which handshakes wait at most. A worker that could admit few by itself waits
        longer: it would only lose the ledger, and ask more often than before. But where a slot that becomes free needs
        the ledger's word, and most calls are slower than handshakes can wait, the worker decides alone.
        """
        state, lately = self._state, self._state.calls.lately
        asks = state.needs_grants or state.has_line
        if not state.scarce or state.pool.when_ledger_down == "open" or (asks and lately >= self._timeout):
            return self._timeout
        return min(LONGEST_CALL * self._timeout, self.longest)

    @property
    def longest(self) -> float:
        """Seconds to wait for an answer before another call is made, at least :attr:`timeout`.

        Where Redis answers late, a call that is given up is work for it all the same, and so is the next one. It is
        given up at last, since an answer may be lost: soon where Redis was fast.
        """
        return max(self._timeout, min(SLACK * self._state.calls.lately, self._heartbeat, SLOWEST))

    def crowd(self, handshakes: int) -> float:
        """To the next call for handshakes, after one that has decided so many."""
        return min(CROWD_PAUSE * handshakes, self._longest_pause)

    @property
    def _turn(self) -> float:
        """Until the other workers have had their turn, where they make many calls."""
        return self._part * self._state.workers / MOST_CALLS

    @property
    def _rest(self) -> float:
        return IDLE * self._state.calls.lately

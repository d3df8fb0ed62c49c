"""How often a worker calls its ledger, so that all workers of a pool together ask no more than it can answer. Pure."""

from .state import State

MOST_CALLS = 4000
"""Calls a second of all workers of a pool together. Heartbeats are a part of them, and are never held back."""
FULL_FRESH = 0.02
"""Seconds for which a pool that could not grant all is taken to have nothing left: at most 50 calls a second then."""
CROWD_PAUSE = 0.005
"""Seconds from one call to the next for each handshake that the first one decided, if there were several."""
LONGEST_PAUSE = 0.4
"""The most of ``LEDGER_TIMEOUT`` that such a pause may take: a large herd makes ten calls a second."""
IDLE = 4
"""At a full pool a worker has no call under way for so many times what a call takes. Where Redis is slow because too
many ask, all of them ask less, and it has time for other work."""


class Pace:
    """The pauses of one limiter, in seconds from the beginning of a call."""

    def __init__(self, state: State, ledger_timeout: float, heartbeat: float) -> None:
        self._state = state
        self._longest_pause = LONGEST_PAUSE * ledger_timeout
        self._heartbeat = heartbeat

    @property
    def call(self) -> float:
        """To the next call, whatever it is for, unless it is a heartbeat."""
        rest = min(self._rest, self._longest_pause) if self._state.scarce else 0.0
        return min(max(self._state.workers / MOST_CALLS, rest), self._heartbeat)

    @property
    def shortage(self) -> float:
        """To the next look for slots that have become free in a full pool."""
        return min(max(FULL_FRESH, self._state.workers / MOST_CALLS, self._rest), self._heartbeat)

    def crowd(self, handshakes: int) -> float:
        """To the next call for handshakes, after one that has decided so many."""
        return min(CROWD_PAUSE * handshakes, self._longest_pause)

    @property
    def _rest(self) -> float:
        return IDLE * self._state.calls.lately

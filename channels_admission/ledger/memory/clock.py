"""The pool's own clock, and whether the pool settles after a loss of data."""

from dataclasses import dataclass

from ..base import SETTLING


@dataclass(slots=True)
class Clock:
    """Whole milliseconds, as Redis keeps them, which never run backwards; the clock tells when leases end."""

    time: int = 0
    began: int = 0
    """Its time at the first report."""
    real: int | None = None
    """The real time of the last report; None before the first one."""
    settled: int = 0
    """Its time from which on the counts are complete."""

    @property
    def is_fresh(self) -> bool:
        """Whether no report has been applied."""
        return self.real is None

    @property
    def seconds(self) -> float:
        """Seconds since the pool began."""
        return (self.time - self.began) / 1000

    @property
    def is_settling(self) -> bool:
        """Whether counts may be too low, since not all workers have been heard after a loss of data."""
        return self.time < self.settled

    @property
    def settles_in(self) -> float:
        """Seconds for which the pool settles."""
        return max(0, self.settled - self.time) / 1000

    def advance(self, now: int, most: int) -> None:
        """Follow the real time ``now``, by at most ``most``; both in milliseconds."""
        if self.real is None:
            self.time = self.began = self.settled = now
        else:
            self.time += min(max(now - self.real, 0), most)
        self.real = now

    def settle(self, heartbeat: int) -> None:
        """Settle until a worker with the slowest ``heartbeat``, in milliseconds, has been heard."""
        self.settled = max(self.settled, self.time + int(SETTLING * heartbeat))

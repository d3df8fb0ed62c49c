"""Overrides: the limits, pauses, dry runs and drains that operators have set for a pool."""

from dataclasses import dataclass
from datetime import UTC, datetime

LATEST = 253_402_300_799.0
"""The last second of the year 9999 in Unix time, which is the last that a date can tell."""


def utc(second: float) -> datetime:
    """The date of a second of Unix time; the nearest that there is, for one that a ledger cannot have meant."""
    return datetime.fromtimestamp(min(max(0.0, second), LATEST), UTC)


@dataclass(frozen=True, slots=True)
class Order:
    """What an operator has set, who, and when: Unix time by the ledger."""

    value: int
    by: str
    at: float
    over: float | None = None
    """For a limit: seconds in which connections beyond it are closed; None where they may stay."""


EVERYBODY = "*"
"""The target of a drain of all workers."""


@dataclass(frozen=True, slots=True)
class Drain:
    """A worker, a host or :data:`EVERYBODY` to be emptied in ``over`` seconds.

    A host is drained with the workers that start there later, until the drain is cancelled; of all workers those are
    that had registered before it. It ends when nobody drains any more, and so does that of a worker. No time of any
    clock is compared to tell who is meant: ``at`` is for people.
    """

    target: str
    over: float
    by: str
    at: float
    version: int | None = None
    """The pool's version when it was ordered; None before it is."""
    clock: int = 0
    """The time of the pool's clock then, milliseconds."""

    def is_of(self, worker: str, registered: int | None) -> bool:
        """Whether a worker is meant that registered at this version of the pool; None for one that has not yet."""
        if self.target == EVERYBODY:
            return registered is not None and self.version is not None and registered <= self.version
        return self.target in (worker, worker.partition(":")[0])


@dataclass(frozen=True, slots=True)
class Controls:
    """What operators have set for a pool; an order that is None leaves the settings in force.

    Of two the one with the higher version is the newer. Versions are milliseconds of the ledger's
    time, so that one set after a loss of data is newer than what the workers remember.
    """

    version: int = 0
    limit: Order | None = None
    paused: Order | None = None
    dry_run: Order | None = None
    drains: tuple[Drain, ...] = ()

    @property
    def is_set(self) -> bool:
        return bool(self.limit or self.paused or self.dry_run or self.drains)


NOTHING_SET = Controls()

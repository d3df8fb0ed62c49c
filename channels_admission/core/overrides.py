"""Overrides: limits, pauses, dry runs and drains that operators have set for a pool."""

from dataclasses import dataclass
from datetime import UTC, datetime

LATEST = 253_402_300_799.0
"""The last second of the year 9999 in Unix time, the latest that a ``datetime`` can represent."""
LONGEST_NAME = 40
"""Most characters kept of the name of an operator or a target."""


def utc(second: float) -> datetime:
    """The date of a second of Unix time, limited to what a ``datetime`` can represent."""
    return datetime.fromtimestamp(min(max(0.0, second), LATEST), UTC)


def timestamp(second: float) -> str:
    """The date and time of a second of Unix time, in UTC."""
    return f"{utc(second):%Y-%m-%d %H:%M:%S}"


@dataclass(frozen=True, slots=True)
class Order:
    """One override: its value, the operator, and when it was set, in Unix time by the ledger."""

    value: int
    by: str
    at: float
    over: float | None = None
    """For a limit: seconds in which connections above it are closed; None to keep them."""


EVERY_WORKER = "*"
"""The target of a drain of all workers."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Close the connections of a worker, a host or :data:`EVERY_WORKER` over ``over`` seconds.

    The drain of a host includes workers that start there later, until it is cancelled. The drain of all covers the
    workers that had registered before it, by the pool's version. It ends with the last of them, as the drain of a
    worker ends with that worker. ``at`` is only shown.
    """

    target: str
    over: float
    by: str
    at: float
    version: int | None = None
    """The pool's version when the drain was set; None before that."""
    clock: int = 0
    """The pool's clock when the drain was set, in milliseconds."""

    def is_of(self, worker: str, registered: int | None) -> bool:
        """Whether the drain covers a worker that registered at this version of the pool, None for not yet."""
        if self.target == EVERY_WORKER:
            return registered is not None and self.version is not None and registered <= self.version
        return self.target in (worker, worker.partition(":")[0])


@dataclass(frozen=True, slots=True)
class Controls:
    """All overrides of a pool; where one is None, the settings hold.

    The higher version is the newer. Versions are milliseconds of the ledger's time, so that overrides set after a loss
    of data are newer than those that the workers remember.
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


def signature(order: Order | Drain) -> str:
    """The operator and the time of an override, to end a sentence."""
    return f", set by {order.by or 'nobody named'} at {timestamp(order.at)} UTC"


def target_name(target: str) -> str:
    """The target of a drain in words."""
    return "all workers" if target == EVERY_WORKER else target


def printable(name: str) -> str:
    """A name cut to :data:`LONGEST_NAME`, with a question mark for every character that is not printable."""
    return "".join(character if character.isprintable() else "?" for character in name[:LONGEST_NAME])

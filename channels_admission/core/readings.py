"""What a reader of the ledger sees: pools, workers, their monitors, and the past by seconds and minutes."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .counters import Counters
from .levels import Level
from .overrides import EVERYBODY, NOTHING_SET, Controls, Drain


@dataclass(frozen=True, slots=True)
class Load:
    """One monitor of a worker: its reading, None where unknown, and the pressure that it makes, from 0 to 1.

    The lag's reading is the 99th percentile of the delays in its window; ``median`` and ``longest``
    say more of them. Other monitors have none.
    """

    name: str
    reading: float | None
    pressure: float
    median: float | None = None
    longest: float | None = None


@dataclass(frozen=True, slots=True)
class WorkerReading:
    """One registered worker as a reader of the ledger sees it; times in seconds."""

    worker: str
    held: int
    silence: float
    """Since its last report."""
    uptime: float
    server: str
    load: tuple[Load, ...] = ()
    classes: Mapping[str, int] = field(default_factory=dict)
    """Slots held, by the class of the connection."""
    draining: bool = False
    faults: Mapping[str, int] = field(default_factory=dict)
    """Unexpected exceptions in its heartbeat and what runs beside it since it started, by kind."""
    settings: str = ""
    """The fingerprint of its settings; nothing where it is not known."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A second or a minute of a pool's past, as the ledger remembers it."""

    at: int
    """Its number since 1970."""
    held: int | None
    """The most slots counted in it; None where no worker has reported."""
    limit: int | None
    """The limit at its end; None as well."""
    admitted: int
    refused: Mapping[str, int]
    """By reason; those for which there was no room share the name :data:`OTHER`."""

    @property
    def handshakes(self) -> int:
        """How many were decided in it, admitted or refused."""
        return self.admitted + sum(self.refused.values())


@dataclass(frozen=True, slots=True)
class Past:
    """What a ledger remembers of a pool at the second ``now`` since 1970, but moments in which nobody reported."""

    now: int
    seconds: tuple[Moment, ...] = ()
    minutes: tuple[Moment, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """A pool as a reader of the ledger sees it; workers that outlived their lease are left out."""

    limit: int | None
    """The limit by the settings in force; None when the ledger knows no such pool."""
    settling: bool
    counters: Counters
    workers: tuple[WorkerReading, ...]
    seconds: Mapping[int, int] = field(default_factory=dict)
    """Handshakes decided, by the second of Unix time, lately; seconds without any are left out."""
    now: float = 0.0
    """Unix time by the ledger."""
    controls: Controls = NOTHING_SET
    level: Level = Level.CALM
    """How near the pool is to its limit; falls five points later than it rises."""
    settings: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """The settings that workers lately had, by fingerprint; of more than one the strictest are in force."""

    @property
    def drains(self) -> tuple[Drain, ...]:
        """Those that somebody may be left to be of: a host is, since workers may start there later."""
        return tuple(drain for drain in self.controls.drains if self._lasts(drain))

    def _lasts(self, drain: Drain) -> bool:
        if drain.target == EVERYBODY:
            return bool(self.workers)
        return ":" not in drain.target or any(drain.target == each.worker for each in self.workers)

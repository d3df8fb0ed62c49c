"""What can be read from the ledger: pools, workers, their monitors, and the history by seconds and minutes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from .counters import Counters
from .levels import Level
from .overrides import EVERY_WORKER, NOTHING_SET, Controls, Drain


@dataclass(frozen=True, slots=True)
class Load:
    """One monitor of a worker: its reading, None if unknown, and its pressure from 0 to 1.

    The reading of the lag is the 99th percentile of the delays in its window; ``median`` and ``longest`` are those of
    the same delays, and None for other monitors.
    """

    name: str
    reading: float | None
    pressure: float
    median: float | None = None
    longest: float | None = None


class Usage(NamedTuple):
    """What a worker's process used while it had so many connections."""

    connections: int
    """Open ones, and waiting handshakes."""
    memory: int
    """Resident bytes."""
    files: int
    """Open files."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a worker's process uses, what its first connections and the most that it has had used, and what is allowed.

    Memory is in bytes; the ledger may round it to KiB, and that of the host to MiB.
    """

    now: Usage
    low: Usage
    """With the first few connections, or none."""
    high: Usage
    """With the most connections so far: the most that it used with about as many."""
    memory_limit: int
    """What its container or its machine allows, whichever is nearer to it."""
    memory_used: int
    """Of this limit, by this process and all others that it binds."""
    files_limit: int
    """0 where unknown or unlimited."""
    implementation: str = ""
    """The implementation of WebSockets in the server; empty where the server has one only, or it is unknown."""


class Work(NamedTuple):
    """What waits in a worker, or is under way."""

    jobs: int = 0
    """Jobs of sync code that wait for their thread."""
    busy: int = 0
    """Threads of sync code that run a job."""
    accepting: int = 0
    """Connections of the pool that have their slot, and whose consumer has not accepted them yet."""


NO_WORK = Work()


class Told(NamedTuple):
    """What a worker reports of its own state."""

    load: tuple[Load, ...] = ()
    footprint: Footprint | None = None
    work: Work = NO_WORK


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What workers of releases with another layout have, whose counts stand in keys of their own."""

    held: int = 0
    """Slots."""
    workers: int = 0
    """Workers that do not drain."""


@dataclass(frozen=True, slots=True)
class WorkerReading:
    """One registered worker; times in seconds."""

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
    """Unexpected exceptions in its own tasks since it started, by kind."""
    settings: str = ""
    """The fingerprint of its settings; empty if unknown."""
    counters: Counters = field(default_factory=dict)
    """Its events since it started."""
    release: str = ""
    """The version of the package that it runs; empty if unknown."""
    speed: float = 0.0
    """Connections per second through its entrance, measured while it had to spread them; 0 if unknown."""
    footprint: Footprint | None = None
    """None where the worker cannot read its memory."""
    work: Work = NO_WORK
    reserve: int = 0
    """Slots counted for its next handshakes, beside those held."""


@dataclass(frozen=True, slots=True)
class HistoryBucket:
    """A bucket of a pool's history: one second or one minute."""

    at: int
    """Its number since 1970."""
    held: int | None
    """The most slots held in it; None if no worker reported."""
    limit: int | None
    """The limit at its end; None if no worker reported."""
    admitted: int
    refused: Mapping[str, int]
    """By reason; beyond the most reasons of a bucket, :data:`OTHER` counts the rest."""

    @property
    def handshakes(self) -> int:
        """Decided handshakes, admitted or refused."""
        return self.admitted + sum(self.refused.values())


@dataclass(frozen=True, slots=True)
class Past:
    """The history of a pool at the second ``now`` since 1970, without buckets in which no worker reported."""

    now: int
    seconds: tuple[HistoryBucket, ...] = ()
    minutes: tuple[HistoryBucket, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """A pool; workers whose lease has run out are left out."""

    limit: int | None
    """The limit by the settings in force; None if the ledger does not know the pool."""
    settling: bool
    counters: Counters
    workers: tuple[WorkerReading, ...]
    since: float | None = None
    """Unix time since which the counters count; later after each loss of data. None if the ledger does not know."""
    version: int = 0
    """Of the pool; it rises with every report. Within one ``since``, a lower one has older counters."""
    seconds: Mapping[int, int] = field(default_factory=dict)
    """Recently decided handshakes, by the second of Unix time; seconds without any are left out."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Recent refusals by reason."""
    refused_at: int | None = None
    """The latest second of Unix time in which one of these was refused."""
    now: float = 0.0
    """Unix time by the ledger."""
    controls: Controls = NOTHING_SET
    level: Level = Level.CALM
    """How near the pool is to its limit; it falls five points below the threshold at which it rises."""
    settings: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Settings that workers had recently, by fingerprint; of several the strictest values are in force."""
    elsewhere: Elsewhere = Elsewhere()
    latest: Mapping[str, int] = field(default_factory=dict)
    """Unix time of the latest incident of each kind, by its counter."""
    gone: Mapping[str, int] = field(default_factory=dict)
    """The workers that were forgotten last without a goodbye, as ``host:pid``, each with the Unix time of it."""

    @property
    def drains(self) -> tuple[Drain, ...]:
        """The drains with workers left, and those of hosts, where workers may start later."""
        return tuple(drain for drain in self.controls.drains if self._lasts(drain))

    def _lasts(self, drain: Drain) -> bool:
        if drain.target == EVERY_WORKER:
            return bool(self.workers)
        return ":" not in drain.target or any(drain.target == each.worker for each in self.workers)

"""The values of a snapshot, frozen and plain."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from .. import __version__
from ..core.levels import Level
from ..core.overrides import NOTHING_SET, Controls
from ..core.readings import Elsewhere, Load
from ..ledger.base import LATELY

FORMAT = 1
"""The version of the JSON. It rises if a field changes its meaning or goes, not with a new field."""
MOST_NAMED = 5
"""Workers named for each value in which workers differ."""


class Health(StrEnum):
    OK = "ok"
    SETTLING = "settling"
    """It started empty or lost data, and waits for the workers' reports before it grants freely."""
    LATE = "late"
    """It answers later than ``LEDGER_TIMEOUT`` allows, and workers decide alone."""
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class LedgerCalls:
    """Calls of workers to the ledger: their number, how many failed, and the seconds that all took."""

    made: int = 0
    failed: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Times:
    """How long events took: their number, the seconds of all, and how many took at most so many seconds."""

    number: int = 0
    seconds: float = 0.0
    within: Mapping[str, int] = field(default_factory=lambda: {"inf": 0})
    """By the seconds as text, the least first; each counts the shorter ones too, and ``inf`` all."""


@dataclass(frozen=True, slots=True)
class WorkerSnapshot:
    """One worker in one pool; times in seconds."""

    id: str
    host: str
    pid: int
    server: str
    held: int
    silence: float
    uptime: float
    load: tuple[Load, ...] = ()
    draining: bool = False
    faults: Mapping[str, int] = field(default_factory=dict)
    """Unexpected exceptions in its heartbeat and background tasks since it started, by kind."""
    calls: LedgerCalls = field(default_factory=LedgerCalls)
    """Its calls to the ledger since it started."""
    failing: int = 0
    """Calls that have failed since the last one that succeeded; above 0 it decides alone."""
    shed: int = 0
    """Connections that it has closed because memory ran out."""
    layer_failed: int = 0
    """Connections that ended because the channel layer of their consumer failed, since the worker started."""
    accepting: int = 0
    """Connections that have their slot, and whose consumer has not accepted them yet."""
    jobs_waiting: int = 0
    """Jobs of sync code that wait for their thread, of all pools."""
    threads_busy: int = 0
    """Threads of sync code that run a job, of all pools."""
    settings: str = ""
    """The fingerprint of its settings; empty if unknown."""
    silent: bool = False
    """Whether its last report is older than is allowed: it is blocked, stopped, gone, or cannot reach the ledger."""
    release: str = ""
    """The version of the package that it runs; empty if unknown."""
    reserve: int = 0
    """Slots counted for its next handshakes, beside those held."""


@dataclass(frozen=True, slots=True)
class Side:
    """One value of a setting in which workers differ, and the workers that have it; None where it is unset."""

    value: float | None
    number: int
    """Number of workers; 0 when the last of them has gone but its lease still runs."""
    workers: tuple[str, ...]
    """The ids of the first few."""

    @classmethod
    def of(cls, value: float | None, workers: Sequence[str]) -> "Side":
        """The side of these workers, of which the first few are named."""
        return cls(value, len(workers), tuple(workers[:MOST_NAMED]))


@dataclass(frozen=True, slots=True)
class LostWorker:
    """A worker that the ledger forgot without a goodbye, and the Unix time of it."""

    host: str
    pid: int
    at: int

    @classmethod
    def of(cls, name: str, at: int) -> "LostWorker":
        """``name`` is ``host:pid``."""
        host, _, pid = name.rpartition(":")
        return cls(host, int(pid) if pid.isdecimal() else 0, at)


@dataclass(frozen=True, slots=True)
class Second:
    """The handshakes decided, admitted or refused, in one second of Unix time."""

    at: int
    handshakes: int


@dataclass(frozen=True, slots=True)
class Connects:
    """The handshakes of the last five minutes, counted by the second in which the ledger heard of them."""

    total: int = 0
    median: float = 0.0
    """Median handshakes in one second."""
    worst: tuple[Second, ...] = ()
    """The seconds with the most handshakes, the busiest first."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Refused ones by reason, the most frequent first."""
    refused_at: int | None = None
    """Unix time of the latest second with a refusal; None without any."""


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """One pool. ``share`` is held slots over the limit; it may exceed 1 after the limit was lowered."""

    name: str
    held: int
    limit: int
    free: int
    share: float
    warn_at: float
    level: Level
    state: str = field(init=False, default="")
    """``paused`` or ``draining`` while each new connection is refused for that, else the level.

    A dry run admits connections to a paused pool, and refuses those to a draining worker.
    """
    admitted: int
    refused: Mapping[str, int]
    """By reason, the most frequent first."""
    shed: int
    workers: tuple[WorkerSnapshot, ...]
    connects: Connects = field(default_factory=Connects)
    faults: Mapping[str, int] = field(default_factory=dict)
    """Unexpected exceptions of all workers that ever reported, by kind, the most frequent first."""
    delayed: int = 0
    """Handshakes that were admitted and had to wait at the entrance."""
    promised: int = 0
    """Tickets given to refused clients: places in the line."""
    redeemed: int = 0
    """Handshakes that were admitted with a ticket whose time had come."""
    missed: int = 0
    """Handshakes whose ticket came too late."""
    refusals_held: int = 0
    """Refusals that were held for a while before they were sent."""
    passed: int = 0
    """Refusals by single workers that were sent as HTTP 503, for the balancer to try another worker."""
    unaccepted: int = 0
    """Connections refused because their consumer had not accepted by ``ACCEPT_DEADLINE``."""
    outlived: int = 0
    """Handlers cancelled after their client left: not accepted by then, or still running after ``DISCONNECT_GRACE``."""
    healed: int = 0
    """Repairs of damaged counts."""
    lost: int = 0
    """Workers that the ledger forgot without a goodbye: their process had gone, or their lease ran out."""
    lost_workers: tuple[LostWorker, ...] = ()
    """The last few of them, the latest first."""
    latest: Mapping[str, int] = field(default_factory=dict)
    """Unix time of the latest report of each incident: ``shed``, ``channels_full``, ``layer_failed``, ``unaccepted``,
    ``healed``, ``lost``, ``events_dropped`` and ``faults``, and of the latest loss of data, ``data_lost``."""
    events_dropped: int = 0
    """Signals, mails and webhooks dropped because the queue was full."""
    channels_full: int = 0
    """Connections ended by a ``ChannelFull`` of their consumer."""
    layer_failed: int = 0
    """Connections ended because the channel layer of their consumer failed."""
    calls: LedgerCalls = field(default_factory=LedgerCalls)
    call_times: Times = field(default_factory=Times)
    """How long the workers' calls to the ledger took."""
    waits: Times = field(default_factory=Times)
    """How long the admitted handshakes waited, for the ledger and at the entrance."""
    classes: Mapping[str, int] = field(default_factory=dict)
    """Slots held by each class that has a share, and by exempt connections."""
    overdue: int = 0
    """Connections closed unauthenticated at their deadline."""
    none_authenticated: bool = False
    """Whether ``PENDING_DEADLINE`` has come for connections, and no connection has ever authenticated."""
    configured: int = 0
    """The limit in the settings; ``limit`` is the one in force."""
    paused: bool = False
    dry_run: bool = False
    would_refuse: Mapping[str, int] = field(default_factory=dict)
    """Connections admitted by a dry run that would have been refused, by reason."""
    drained: int = 0
    aged: int = 0
    evicted: int = 0
    """Connections closed for a newer one under the same quota."""
    reserve: int = 0
    """Slots that workers keep counted for their next handshakes; they are among the free."""
    controls: Controls = NOTHING_SET
    """Overrides: what operators have set, with name and time."""
    alert: Level = Level.CALM
    """The level for alerts: it falls five percentage points below where it rises."""
    differs: Mapping[str, tuple[Side, ...]] = field(default_factory=dict)
    """Settings in which workers differ, by their names in :mod:`.core.agreement`; the strictest value is in force.

    ``site`` is there only if workers of several sites count in the pool.
    """
    site: int | None = None
    """The fingerprint of the workers' site; None if it is unknown, or there are several."""
    settings: str | None = None
    """The fingerprint of the workers' settings; None likewise."""
    since: float | None = None
    """Unix time since which the counters count; later after each loss of data. None while they are not known."""
    speed: float | None = None
    """Connections per second that the workers have lately taken, all together, as measured while connections had to
    wait at their entrance; None if unknown."""
    elsewhere: Elsewhere = field(default_factory=Elsewhere)
    """What workers of releases with another layout have, whose counts are kept apart; ``held`` includes their slots."""

    now: float | None = None
    """Unix time at which the pool was read, by the ledger's clock, as are all times here; None if unknown."""

    def lately(self, taken: datetime) -> Mapping[str, float]:
        """The incidents of the last :data:`LATELY` seconds, each with the seconds since the latest one.

        ``taken`` is the time of the snapshot, by a clock that may differ from the ledger's.
        """
        now = taken.timestamp() if self.now is None else self.now
        ages = {event: max(0.0, now - at) for event, at in self.latest.items()}
        return {event: age for event, age in ages.items() if age < LATELY}

    @property
    def releases(self) -> Mapping[str, tuple[str, ...]]:
        """The workers by the version of the package that they run, the newest worker's version last."""
        found: dict[str, list[str]] = {}
        for worker in sorted(self.workers, key=lambda worker: -worker.uptime):
            found.setdefault(worker.release, []).append(worker.id)
        return {release: tuple(ids) for release, ids in found.items()}

    def __post_init__(self) -> None:
        state: str = self.level
        if self.paused and not self.dry_run:
            state = "paused"
        elif self.workers and all(worker.draining for worker in self.workers):
            state = "draining"
        object.__setattr__(self, "state", state)


@dataclass(frozen=True, slots=True)
class LedgerSnapshot:
    """The ledger's kind, address and health; ``error`` is None unless it is down."""

    kind: str
    address: str
    health: Health
    error: str | None = None
    took: float = 0.0
    """Seconds that reading it took."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of all pools at ``taken`` (UTC); no pools when the ledger is down."""

    taken: datetime
    enabled: bool
    ledger: LedgerSnapshot
    pools: tuple[PoolSnapshot, ...]
    release: str = __version__
    """The version of the package that has read it."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, ``taken`` in ISO 8601."""
        return {"format": FORMAT, **asdict(self), "taken": self.taken.isoformat(timespec="milliseconds")}

"""The words of the package as values: what a gate and a ledger say to each other, and what a handshake is told."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple


class Reason(StrEnum):
    """Why a handshake was refused. Counted by this name; the client is never told."""

    FULL = "full"
    """Every slot of the pool is held."""
    SETTLING = "settling"
    """The ledger has lost data, and lets the workers report before it grants freely."""
    RATE = "rate"
    """More come at once than the pool admits in a second."""
    CROWD = "crowd"
    """More handshakes wait for the ledger already than a worker lets wait."""
    LEDGER = "ledger"
    """The ledger is away, and this worker's own part of the pool is used up."""
    SHARE = "share"
    """The pool is as full as the class of the connection may make it."""
    PAUSED = "paused"
    """An operator has paused the pool."""
    DRAINING = "draining"
    """The worker closes the connections it has, and takes no new ones."""


ADMITTED = "admitted"
RELEASED = "released"
SHED = "shed"
DRAINED = "drained"
AGED = "aged"
EVICTED = "evicted"
OTHER = "other"
"""Slots taken and given back, and connections closed for want of memory, by a drain, at their maximum age, and for a
newer one under their quota, beside the reasons in a worker's counters; and the reasons that a :class:`Moment` has no
room to name."""
CALLS, ERRORS, CALLS_TOOK = "ledger.calls", "ledger.errors", "ledger.ms"
"""Exchanges with the ledger that a worker has made, those that failed, and the milliseconds that all took."""
HEALED = "ledger.healed"
"""Times that the ledger found its data damaged and began to count anew, as the workers heard it that it told."""
CHANNELS_FULL = "layer.full"
"""Connections whose consumer ended with ``ChannelFull``."""
OVERDUE = "overdue"
"""Connections closed since nobody had authenticated by their deadline."""
UNACCEPTED = "unaccepted"
"""Connections refused after all, since their consumer had not accepted them by its deadline."""
OUTLIVED = "outlived"
"""Connections whose slot was taken back from an application that had not accepted when its client left, or went on for
too long after that."""
QUOTA = "quota:"
"""Begins the reason of a refusal by a quota; the quota's name follows."""
ATTEMPTS = "attempts:"
"""Begins the reason of a refusal by the rate of a quota; the quota's name follows."""
DRY = "dry:"
"""Begins the counter of those whom a dry run would have refused, or closed at their deadline; the reason follows."""
FAULT = "fault:"
"""Begins the counter of unexpected exceptions in a worker's heartbeat and what runs beside it; their kind follows."""
NO_HANDSHAKES = frozenset(
    {
        RELEASED,
        SHED,
        DRAINED,
        AGED,
        EVICTED,
        OVERDUE,
        CALLS,
        ERRORS,
        CALLS_TOOK,
        HEALED,
        CHANNELS_FULL,
        UNACCEPTED,
        OUTLIVED,
    }
)
"""The counters that count something else than the decision of a handshake; those that begin with ``DRY`` or ``FAULT``
do as well."""

Counters = Mapping[str, int]
"""Events since a worker started: ``admitted``, ``released``, ``shed``, ``drained``, ``aged``, ``evicted``, its
exchanges with the ledger, an entry for each reason that occurred and each that a dry run would have had, and for each
kind of fault."""

Key = bytes
"""Whom a slot is counted under, as :data:`KEY_BYTES` bytes that tell nothing of it."""
COUNTED: Key = b""
"""Stands for a key that is known and under which no slot is counted, as in a quota without a maximum."""
KEY_BYTES = 15
"""One more would cost each connection 16: CPython keeps 33 bytes of its own beside them, and rounds up."""
Claimed = tuple[Key | None, ...]
"""For each quota, by its place, the key under which a slot is counted; None, or nothing at the end, where it is not."""


LATEST = 253_402_300_799.0
"""The last second of the year 9999 in Unix time, which is the last that a date can tell."""


def utc(second: float) -> datetime:
    """The date of a second of Unix time; the nearest that there is, for one that a ledger cannot have meant."""
    return datetime.fromtimestamp(min(max(0.0, second), LATEST), UTC)


def is_decision(counter: str) -> bool:
    """Whether a counter counts handshakes decided, each of which is in one such counter."""
    return counter not in NO_HANDSHAKES and not counter.startswith((DRY, FAULT))


def faults_in(counters: Counters) -> dict[str, int]:
    """The unexpected exceptions among ``counters``, by their kind."""
    return {name.removeprefix(FAULT): count for name, count in counters.items() if name.startswith(FAULT)}


class Level(StrEnum):
    """How near a pool is to its limit, from the lowest up."""

    CALM = "calm"
    WARNING = "warning"
    CRITICAL = "critical"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Edge:
    """A pool went from one level to another, with so many slots held of so many."""

    before: Level
    level: Level
    held: int
    limit: int


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


@dataclass(frozen=True, slots=True)
class Refusal:
    """A handshake's bad news: the reason, for our counters, and a hint for the client.

    ``reason`` is a :class:`Reason`, ``quota:NAME``, ``attempts:NAME`` or the name of a monitor; ``retry_after`` is in
    seconds.
    """

    reason: str
    retry_after: float

    def after(self, delay: float, least: float) -> "Refusal":
        """The same as told ``delay`` seconds later: the same moment, but at least ``least`` seconds away."""
        return Refusal(self.reason, max(least, self.retry_after - delay)) if delay else self


@dataclass(frozen=True, slots=True)
class Terms:
    """How fast a pool may fill, as a worker is configured."""

    rate: float | None = None
    """Admissions per second, all workers together; None for as fast as they come."""
    burst: int = 1
    """Admissions that may come at once."""
    ramp: float = 0.0
    """Seconds in which the rate grows to its full value when an empty pool fills."""
    retry_after: tuple[float, float] = (1.0, 60.0)
    """Bounds of the hint to a refused client, seconds."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Moments for refused clients to come again, in seconds of the pool's pace (see :mod:`.pace`)."""

    first: float
    step: float
    """From one to the next."""
    elapsed: float
    """Seconds of real time since the pace began."""


@dataclass(frozen=True, slots=True)
class Bound:
    """A quota as a ledger sees it: the most slots under one key, or, where ``most`` is None, a share of the limit."""

    name: str
    most: int | None
    share: float = 0.0
    rate: float | None = None
    """Attempts a second under one key; None for no limit."""
    burst: int = 0
    """Attempts that may come at once."""
    oldest: bool = False
    """Whether the oldest connection under a key gives way to a new one."""


@dataclass(frozen=True, slots=True)
class Class:
    """A class of connections, the share of the limit up to which it may fill the pool, and the slots it holds."""

    name: str
    share: float
    """Infinite for those who are always admitted."""
    held: int = 0


@dataclass(frozen=True, slots=True)
class Ask:
    """What one handshake asks for beside its slot, or a connection that has its slot and learns more of itself."""

    claims: Claimed = ()
    group: int = 0
    """The place of its class."""
    late: bool = False
    """Whether it has its slot already."""
    bounded: bool = True
    """Whether the share of its class matters: not to one that has its slot and comes into a better class."""
    tries: Claimed = ()
    """For each quota, by its place, the key under which this attempt counts; nothing where no quota has a rate."""


class Aged(NamedTuple):
    """The slots that a worker holds under one key."""

    quota: int
    """Its place."""
    key: Key
    ages: tuple[float, ...]
    """Seconds that each has been held, the oldest first."""


class Evicted(NamedTuple):
    """So many of the slots that a worker holds under a key are beyond its maximum, and older than the others."""

    key: Key
    number: int


class Tried(NamedTuple):
    """Attempts under one key."""

    quota: int
    """Its place."""
    key: Key
    number: int


@dataclass(frozen=True, slots=True)
class Fair:
    """What a worker says in a pool that is shared by quotas or classes."""

    classes: tuple[Class, ...]
    quotas: tuple[Bound, ...]
    heard: int
    """The last of its reports that it knows to be applied; 0 for none."""
    parts: int
    """While the ledger is settling, each key may have this part of its quota here; 0 for no more than it has."""
    claims: tuple[tuple[Key, int], ...] = ()
    """Slots held under those keys that have changed, and under those that are asked for, absolute."""
    asks: tuple[Ask, ...] = ()
    """What the waiting handshakes ask for, in the order of arrival."""
    sweep: str = ""
    """The dead worker whose claims this call may sweep up."""
    ages: tuple[Aged, ...] = ()
    """Of those claims whose quota lets the oldest connection give way; only those held."""
    tries: tuple[Tried, ...] = ()
    """Attempts that the worker has decided by itself since its last report."""


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
class Report:
    """What a worker says of itself in one exchange: whole state, never deltas."""

    worker: str
    """Identity, ``host:pid:nonce``."""
    seq: int
    """Rises with every report sent; the ledger applies each number once and in order."""
    held: int
    """Slots held, absolute."""
    wanted: int
    """Handshakes that wait for a slot."""
    limit: int
    """Slots in the pool, as this worker is configured."""
    version: int
    """The highest pool version this worker has seen; 0 before the first reply."""
    allowance: int
    """Slots it may hold while the ledger is settling after a loss of data."""
    age: float = 0.0
    """Seconds since the worker started."""
    born: int = 0
    """When its process started, in hundredths of a second after boot."""
    home: str = ""
    """Token of the host and process namespace it lives in."""
    server: str = ""
    """The ASGI server it runs under, where known."""
    counters: Counters = field(default_factory=dict)
    acknowledged: Counters = field(default_factory=dict)
    """The counters of its last report that the ledger is known to have applied."""
    gone: tuple[str, ...] = ()
    """Workers of the same home whose process no longer exists."""
    load: tuple[Load, ...] = ()
    terms: Terms = Terms()
    owed: int = 0
    """Moments it has given to refused clients beyond those that were offered to it."""
    controls: Controls = NOTHING_SET
    """The newest this worker has heard of, so that a ledger that has lost its data hears of them again."""
    draining: bool = False
    """Whether it takes no new connections."""
    warn_at: float = 0.7
    """Share of the limit from which the pool's level is a warning."""
    level: Level | None = None
    """The pool's level as this worker last heard it."""
    settings: str = ""
    """The settings that this worker has heard to be in force, where they are not its own: as text, see
    :mod:`.agreement`. A ledger that has lost its data hears of them again."""
    beat: bool = False
    """Whether this is the periodic report, which also asks for the neighbours."""
    goodbye: bool = False
    """The last report: with ``held`` at 0 the worker is forgotten at once."""
    retired: bool = False
    """Whether a later worker of this process, with other settings, has taken its place: its own bind nobody."""
    fair: Fair | None = None
    """Only in a pool that is shared by quotas or classes; ``wanted`` then counts its asks that are not late."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another worker of the same home."""

    worker: str
    born: int


@dataclass(frozen=True, slots=True)
class View:
    """What the ledger answers to a :class:`Report`."""

    granted: int
    """Slots given to the waiting handshakes, at most ``wanted``; the ledger now counts held + granted."""
    total: int
    """Slots that all workers together hold, these grants included."""
    limit: int
    workers: int
    """Workers whose lease runs and that are not draining, this one included."""
    version: int
    settling: bool
    """Whether the ledger has lost data lately and grants only within allowances."""
    lapsed: bool
    """Whether it had forgotten this worker, whose lease had run out."""
    shortfall: Reason | None = None
    """Why less was granted than wanted."""
    offer: Offer | None = None
    """Moments for as many clients as were wanted and not granted; None where no pace is known."""
    now: float = 0.0
    """Unix time by the ledger."""
    controls: Controls | None = None
    """What operators have set; None where it is no newer than what was reported."""
    level: Level = Level.CALM
    """How near the pool is to its limit; falls five points later than it rises."""
    edges: tuple[Edge, ...] = ()
    """Changes of the level for this worker to tell of, the oldest first; no other worker does."""
    neighbours: tuple[Neighbour, ...] = ()
    verdicts: tuple[str, ...] = ()
    """For each ask the reason why not, or nothing where it is granted."""
    waits: tuple[float, ...] = ()
    """Seconds until the next attempt may pass, for each ask that is refused for its attempts, in their order."""
    evicted: tuple[Evicted, ...] = ()
    """The worker's connections that are to end, as often as they are still counted."""
    retell: bool = False
    """Whether the ledger knows none of this worker's claims but those just reported."""
    sweep: str = ""
    """A dead worker whose claims are to be swept up, or nothing."""
    healed: bool = False
    """Whether this call found the ledger's data damaged, and began to count anew."""
    settings: str = ""
    """The settings in force, where they are not all the worker's own: as text, see :mod:`.agreement`."""


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

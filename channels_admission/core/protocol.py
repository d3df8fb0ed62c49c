"""What a limiter and a ledger tell each other: reports and views, and what handshakes ask for."""

from dataclasses import dataclass, field
from typing import NamedTuple

from .counters import Counters, Reason
from .levels import Edge, Level
from .overrides import NOTHING_SET, Controls
from .readings import Load
from .shares import Bound, Class

Key = bytes
"""Whom a slot is counted under, as :data:`KEY_BYTES` bytes that tell nothing of it."""
COUNTED: Key = b""
"""Stands for a key that is known and under which no slot is counted, as in a quota without a maximum."""
KEY_BYTES = 15
"""One more would cost each connection 16: CPython keeps 33 bytes of its own beside them, and rounds up."""
Claimed = tuple[Key | None, ...]
"""For each quota, by its place, the key under which a slot is counted; None, or nothing at the end, where it is not."""


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
    slow_start: float = 0.0
    """Seconds in which the rate grows to its full value when an empty pool fills."""
    retry_after: tuple[float, float] = (1.0, 60.0)
    """Bounds of the hint to a refused client, seconds."""


@dataclass(frozen=True, slots=True)
class Offer:
    """Moments for refused clients to come again, in seconds of the pool's pace (see :mod:`.core.rate`)."""

    first: float
    step: float
    """From one to the next."""
    elapsed: float
    """Seconds of real time since the pace began."""


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
    :mod:`.core.agreement`. A ledger that has lost its data hears of them again."""
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
    """The settings in force, where they are not all the worker's own: as text, see :mod:`.core.agreement`."""

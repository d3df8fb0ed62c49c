"""The messages between limiter and ledger: reports and replies, and the asks of handshakes."""

from dataclasses import dataclass, field
from typing import NamedTuple

from .counters import Counters, Reason
from .herd.tickets import Ticket
from .levels import Edge, Level
from .overrides import NOTHING_SET, Controls
from .quotas.shares import Bound, Class
from .readings import NO_WORK, Footprint, Load, Work

Key = bytes
"""What a slot is counted under: a keyed hash of :data:`KEY_BYTES` bytes."""
COUNTED: Key = b""
"""Stands for a known key under which no slot is counted, as in a quota without a maximum."""
KEY_BYTES = 15
"""One byte more would cost 16 per connection: CPython adds 33 bytes to each ``bytes`` object, and rounds up to 16."""
Claimed = tuple[Key | None, ...]
"""For each quota, in order, the key under which a slot is counted. None, or a missing last item, stands for none."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The verdict on a refused handshake: a reason for the counters, and the client's retry time in seconds.

    ``reason`` is a :class:`Reason`, ``quota:NAME``, ``attempts:NAME`` or the name of a monitor.
    """

    reason: str
    retry_after: float
    ticket: str = field(default="", repr=False)
    """The client's place in the line, or an empty text."""
    listens: bool = field(default=False, compare=False)
    """Whether the client has shown a ticket of this pool, in time or not: it heeds what it is told."""
    is_passed: bool = field(default=False, compare=False)
    """Whether it is sent as HTTP 503, for the balancer to try another worker."""


@dataclass(frozen=True, slots=True)
class Terms:
    """How fast a pool may fill, by a worker's settings."""

    rate: float | None = None
    """Admissions per second, all workers together; None for no limit."""
    burst: int = 1
    """Admissions that may come at once."""
    slow_start: float = 0.0
    """Seconds in which the rate rises to its full value when an empty pool fills."""
    retry_after: tuple[float, float] = (1.0, 60.0)
    """Shortest and longest retry time, in seconds."""


@dataclass(frozen=True, slots=True)
class RetryTimes:
    """Retry times for refused clients, in seconds of the pool's pace time (see :mod:`.core.herd.rate`)."""

    first: float
    step: float
    """From one retry time to the next."""
    elapsed: float
    """Seconds of real time since the pace began."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What a handshake asks for beside its slot, or an admitted connection (``late``) with new keys or class."""

    claims: Claimed = ()
    class_index: int = 0
    """The index of its class."""
    late: bool = False
    """Whether the connection has its slot already."""
    bounded: bool = True
    """Whether the share of its class applies; false for a late ask that moves to a larger share."""
    tries: Claimed = ()
    """For each quota, in order, the key under which this attempt counts; empty if no quota has a rate."""

    @property
    def is_plain(self) -> bool:
        """Whether it asks for a slot and its class alone: nothing is counted under a key of its own."""
        return not (any(self.claims) or any(self.tries))


class Aged(NamedTuple):
    """The slots that a worker holds under one key."""

    quota: int
    """The index of the quota."""
    key: Key
    ages: tuple[float, ...]
    """Seconds for which each has been held, the oldest first."""


class Evicted(NamedTuple):
    """How many of a worker's oldest connections under a key must close."""

    key: Key
    number: int


class Tried(NamedTuple):
    """Attempts under one key."""

    quota: int
    """The index of the quota."""
    key: Key
    number: int


class Shown(NamedTuple):
    """A ticket that a waiting handshake has shown. The limiter has found it to be whole, of this pool and in time."""

    handshake: int
    """Its index among the asks; where there are none, among the wanted."""
    ticket: Ticket


class Turn(NamedTuple):
    """The answer to a shown ticket whose handshake is refused, but not by a quota or a rate of attempts."""

    handshake: int
    """The index of its handshake."""
    wait: float | None
    """Seconds until the client should come again with it: what is left of its time, or a short wait. None for a ticket
    that was redeemed before: its handshake is refused as one without a ticket."""


@dataclass(frozen=True, slots=True)
class Fair:
    """The part of a report about quotas and classes."""

    classes: tuple[Class, ...]
    quotas: tuple[Bound, ...]
    heard: int
    """The last report that the worker knows to be applied; 0 for none."""
    parts: int
    """While the ledger settles, each key may have one ``parts``-th of its quota on this worker; 0 for no more slots."""
    claims: tuple[tuple[Key, int], ...] = ()
    """Slots held, absolute, under keys that have changed and keys that are asked for."""
    asks: tuple[Ask, ...] = ()
    """The asks of the waiting handshakes, in the order of arrival."""
    sweep: str = ""
    """A dead worker whose claims this call may remove."""
    ages: tuple[Aged, ...] = ()
    """Ages of the slots in ``claims`` whose quota evicts the oldest connection."""
    tries: tuple[Tried, ...] = ()
    """Attempts that the worker has decided alone since its last report."""


@dataclass(frozen=True, slots=True)
class Report:
    """A worker's state, sent to the ledger in one call: whole state, never deltas."""

    worker: str
    """Identity, ``host:pid:nonce``."""
    seq: int
    """Rises with every report; the ledger applies each number once, in order."""
    held: int
    """Slots held, absolute, with those of the worker's reserve."""
    wanted: int
    """Handshakes that wait for a slot."""
    limit: int
    """Slots in the pool, by this worker's settings."""
    version: int
    """The highest version of the pool that this worker has seen; 0 before the first reply."""
    allowance: int
    """Slots that the worker may hold while the ledger settles after a loss of data."""
    age: float = 0.0
    """Seconds since the worker started."""
    born: int = 0
    """When the worker's process started, in hundredths of a second after boot."""
    host: str = ""
    """Token of the worker's host and process namespace, or of its host and its directory of lock files."""
    server: str = ""
    """The ASGI server, where known."""
    release: str = ""
    """The version of the package that the worker runs."""
    counters: Counters = field(default_factory=dict)
    acknowledged: Counters = field(default_factory=dict)
    """The counters of the last report that the ledger is known to have applied."""
    gone: tuple[str, ...] = ()
    """Workers with the same ``host`` whose process has ended."""
    load: tuple[Load, ...] = ()
    footprint: Footprint | None = None
    work: Work = NO_WORK
    terms: Terms = Terms()
    unreserved: int = 0
    """Retry times given to refused clients beyond those that the ledger has reserved."""
    speed: float = 0.0
    """Connections per second through the worker's entrance, measured while it had to spread them; 0 if unknown. Finite,
    in whole thousandths."""
    controls: Controls = NOTHING_SET
    """The newest overrides that this worker knows, for a ledger that has lost its data."""
    draining: bool = False
    """Whether the worker admits no connections."""
    warn_at: float = 0.7
    """Share of the limit from which the pool's level is a warning."""
    level: Level | None = None
    """The pool's level in the last reply."""
    settings: str = ""
    """The settings in force by the last reply, where they differ from the worker's own, for a ledger that has lost its
    data: as text, see :mod:`.core.agreement`."""
    heartbeat: bool = False
    """Whether this is the heartbeat, the periodic report, which also asks for the neighbours."""
    goodbye: bool = False
    """Whether this is the last report: with ``held`` at 0 the ledger forgets the worker at once."""
    retired: bool = False
    """Whether a later worker of this process, with other settings, has replaced this one, so that its settings no
    longer count."""
    shown: tuple[Shown, ...] = ()
    """The tickets of the waiting handshakes."""
    reserve: int = 0
    """Slots of ``held`` that no connection holds: kept for the next handshakes, which then need not wait. Each has its
    token, where the pool has a rate."""
    ahead: int = 0
    """Slots that the worker wants for its reserve beyond these."""
    unused: int = 0
    """Tokens of the reserve that the worker gives back: no handshake has used them."""
    fair: Fair | None = None
    """Only in a pool with quotas or classes; ``wanted`` is then the number of asks that are not late."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Another worker with the same ``host``."""

    worker: str
    born: int


@dataclass(frozen=True, slots=True)
class Reply:
    """The ledger's reply to a :class:`Report`."""

    granted: int
    """Slots granted to the waiting handshakes, at most ``wanted``; the ledger now counts held + granted + ahead."""
    total: int
    """Slots that all workers hold together, these grants included."""
    limit: int
    workers: int
    """Workers with a running lease that do not drain, this one included."""
    version: int
    settling: bool
    """Whether the ledger has recently lost data, and grants only within allowances."""
    lapsed: bool
    """Whether the ledger had forgotten this worker because its lease had run out."""
    shortfall: Reason | None = None
    """Why less was granted than wanted."""
    retry_times: RetryTimes | None = None
    """Retry times for the refused handshakes; None if there are none."""
    now: float = 0.0
    """Unix time by the ledger."""
    controls: Controls | None = None
    """The overrides; None if they are no newer than the reported ones."""
    level: Level = Level.CALM
    """How near the pool is to its limit; it falls five points below the threshold at which it rises."""
    edges: tuple[Edge, ...] = ()
    """Changes of the level, the oldest first, that this worker alone must send as alerts."""
    neighbours: tuple[Neighbour, ...] = ()
    granted_shown: tuple[int, ...] = ()
    """In a pool without quotas and classes, the indices of those handshakes with tickets that are granted; the others
    that are granted are the first without one."""
    turns: tuple[Turn, ...] = ()
    has_line: bool = False
    """Whether slots that become free belong to clients in the line: the worker must not use them again itself."""
    verdicts: tuple[str, ...] = ()
    """For each ask the reason of its refusal; empty if granted."""
    waits: tuple[float, ...] = ()
    """Seconds until the next turn, for each ask that is refused by a rate of attempts, in order."""
    evicted: tuple[Evicted, ...] = ()
    """The worker's connections that must close, repeated until they are no longer counted."""
    retell: bool = False
    """Whether the ledger knows only those of this worker's claims that were just reported."""
    sweep: str = ""
    """A dead worker whose claims must be removed, or an empty text."""
    healed: bool = False
    """Whether this call found the ledger's data damaged, so that the ledger began to count anew."""
    settings: str = ""
    """The settings in force, where they differ from the worker's own: as text, see :mod:`.core.agreement`."""
    elsewhere: int = 0
    """Those of ``total`` that workers of releases with another layout hold, whose counts are kept apart."""
    ahead: int = 0
    """Slots granted for the reserve, at most the report's ``ahead``."""
    most_in_reserve: int = 0
    """The most slots that the worker may have in reserve now."""
    others_reserve: int = 0
    """Slots of ``total`` in the reserves of other workers."""

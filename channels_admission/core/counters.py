"""Names of a worker's counters: the reasons of refusals, and other events of its connections."""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum

BOUNDS = (0.001, 0.005, 0.025, 0.1, 0.25, 1.0, 5.0, math.inf)
"""Seconds. A duration counts at the first that it does not exceed; 0.25 is the default of ``LEDGER_TIMEOUT``."""


def counters_of(kind: str) -> tuple[str, ...]:
    """The name of the counter for each of the :data:`BOUNDS`."""
    return tuple(f"{kind}.le.{bound:g}" for bound in BOUNDS)


class Durations:
    """How long each of many events took. ``names`` are those of :func:`counters_of`, and ``total`` the milliseconds."""

    def __init__(self, names: Sequence[str], total: str) -> None:
        self._names = names
        self._total = total
        self.seconds = 0.0
        self.counters: dict[str, int] = {}
        """The counters for a report, without those that are 0."""

    def note(self, seconds: float) -> None:
        """Count one event."""
        name = self._names[bisect_left(BOUNDS, seconds)]
        self.counters[name] = self.counters.get(name, 0) + 1
        self.seconds += max(0.0, seconds)
        if whole := int(1000 * self.seconds):
            self.counters[self._total] = whole


class Reason(StrEnum):
    """Why a handshake was refused. It is counted by this name, and never sent to the client."""

    FULL = "full"
    """Every slot of the pool is held."""
    SETTLING = "settling"
    """The ledger has lost data, and waits for the reports of the workers before it grants freely."""
    RATE = "rate"
    """Connections come faster than ``CONNECT_RATE``."""
    CROWD = "crowd"
    """The worker's queue is full."""
    LEDGER = "ledger"
    """The ledger is away, and this worker's part of the pool is used up."""
    SHARE = "share"
    """The pool is filled up to the share of the connection's class."""
    PAUSED = "paused"
    """An operator has paused the pool."""
    ENTRANCE = "entrance"
    """The wait at the worker's entrance is longer than ``ENTRANCE_WAIT``."""
    DRAINING = "draining"
    """The worker drains, and admits no connections."""
    WORKER = "worker_full"
    """The worker holds ``MAX_PER_WORKER`` slots of the pool."""


ADMITTED = "admitted"
RELEASED = "released"
SHED = "shed"
DRAINED = "drained"
AGED = "aged"
EVICTED = "evicted"
OTHER = "other"
"""The first two count slots taken and released. The next four count connections closed: to free memory, by a drain, at
their maximum age, and for a newer connection under their quota. ``other`` stands for the reasons that a history bucket
has no room for."""
CALLS, ERRORS, CALLS_TOOK = "ledger.calls", "ledger.errors", "ledger.ms"
"""Calls of the ledger, failed calls, and the milliseconds that all calls took."""
CALL_TIMES = counters_of("ledger")
"""Calls by how long they took, failed ones too."""
WAITED, WAITS = "wait.ms", counters_of("wait")
"""The milliseconds that admitted handshakes waited for the verdict and the entrance, and how many waited how long."""
FAILING = "ledger.failing"
"""Not a sum: failed calls since the last one that succeeded. Above 0 the worker decides alone."""
HEALED = "ledger.healed"
"""Calls of this worker that found the ledger's data damaged, so that the ledger began to count anew."""
LOST = "workers.lost"
"""Workers that the ledger forgot without a goodbye, since their process had gone or their lease ran out."""
CHANNELS_FULL = "layer.full"
"""Connections whose consumer ended with ``ChannelFull``."""
LAYER_FAILED = "layer.failed"
"""Open connections whose consumer ended because its channel layer failed, as when its Redis is away."""
OVERDUE = "overdue"
"""Connections closed because their client had not authenticated by ``PENDING_DEADLINE``."""
AUTHENTICATED = "authenticated"
"""1 once a connection has authenticated, in a pool with ``PENDING_DEADLINE``: the sum is the number of such workers."""
EVENTS_DROPPED = "events.dropped"
"""Signals, mails and webhooks that were dropped because too many waited."""
DELAYED = "delayed"
"""Handshakes that were admitted and had to wait at the entrance."""
PROMISED = "promised"
"""Tickets given: places in the line, one for each refused client whose ticket is new."""
REDEEMED = "redeemed"
"""Handshakes admitted with a ticket whose time had come."""
MISSED = "missed"
"""Handshakes with a ticket that came too late; they were treated as those without one."""
PASSED = "passed"
"""Refusals for reasons of this worker alone that were sent as HTTP 503, for the balancer to try another worker."""
REFUSALS_HELD = "refusals.held"
"""Refusals that were held for a while before they were sent."""
UNACCEPTED = "unaccepted"
"""Connections refused because their consumer had not accepted them by ``ACCEPT_DEADLINE``."""
OUTLIVED = "outlived"
"""Connections whose client had left before the accept, or whose handler ran longer than ``DISCONNECT_GRACE`` after it;
their slot was taken back."""
QUOTA = "quota:"
"""Prefix of the reason of a refusal by a quota, followed by the quota's name."""
ATTEMPTS = "attempts:"
"""Prefix of the reason of a refusal by the rate of a quota, followed by the quota's name."""
DRY = "dry:"
"""Prefix of the counter of connections that a dry run would have refused, or closed at their deadline, followed by the
reason."""
FAULT = "fault:"
"""Prefix of the counter of unexpected exceptions in a worker's own tasks, followed by their kind."""
CLASSIFY_FAILED, KEY_FAILED, MONITOR_FAILED = "CLASSIFY", "QUOTAS.", "PRESSURE."
"""Kinds of exceptions in the site's own functions: of the class, of a key and of a monitor. The last two are followed
by the name of the quota, or of the monitor."""
INCIDENTS = frozenset({SHED, CHANNELS_FULL, LAYER_FAILED, UNACCEPTED, HEALED, LOST, EVENTS_DROPPED})
"""Counters of what is never wanted: beside each, a pool keeps the time of the latest one."""
AT = "at:"
"""Prefix of the latest Unix time of an incident by the ledger's clock, followed by its counter: no count. For all
exceptions together it is followed by :data:`FAULT`, and for losses of data by :data:`DATA_LOST`."""
DATA_LOST = "ledger.lost"
"""Losses of data that were found because workers knew of later reports. Only their latest time is kept."""
DATED = {
    **{SHED: "shed", CHANNELS_FULL: "channels_full", LAYER_FAILED: "layer_failed", UNACCEPTED: "unaccepted"},
    **{HEALED: "healed", LOST: "lost", EVENTS_DROPPED: "events_dropped", FAULT: "faults", DATA_LOST: "data_lost"},
}
"""Each of these with the name by which it is shown."""
GONE = "gone:"
"""Prefix of the Unix time at which the ledger forgot a worker without a goodbye, followed by its host and process."""
NO_HANDSHAKES = frozenset(
    {
        RELEASED,
        SHED,
        DRAINED,
        AGED,
        EVICTED,
        OVERDUE,
        AUTHENTICATED,
        CALLS,
        ERRORS,
        CALLS_TOOK,
        *CALL_TIMES,
        WAITED,
        *WAITS,
        FAILING,
        HEALED,
        LOST,
        CHANNELS_FULL,
        LAYER_FAILED,
        EVENTS_DROPPED,
        DELAYED,
        PROMISED,
        REDEEMED,
        MISSED,
        REFUSALS_HELD,
        PASSED,
        UNACCEPTED,
        OUTLIVED,
    }
)
"""Counters that do not count decisions of handshakes; nor does anything with a prefix in :data:`NO_DECISIONS`."""
NO_DECISIONS = (DRY, FAULT, AT, GONE)

SLOWER, FASTER = 0.5, 0.1
"""The weight of the last call in how long calls have lately taken, where it took longer and where it did not."""

_NO_MONITORS = frozenset({*Reason, *NO_HANDSHAKES, OTHER})

Counters = Mapping[str, int]
"""Events since a worker started, by the names of this module. Names that did not occur are missing."""


def is_decision(counter: str) -> bool:
    """Whether a counter counts decided handshakes; each handshake is in exactly one such counter."""
    return counter not in NO_HANDSHAKES and not counter.startswith(NO_DECISIONS)


def unwanted(refused: Counters) -> dict[str, int]:
    """The refusals that tell of a shortage, by reason.

    Others are wanted by an operator or a deployment, or are brought about by one client: those by its quota, and by its
    rate of attempts.
    """
    return {
        reason: count
        for reason, count in refused.items()
        if reason not in (Reason.PAUSED, Reason.DRAINING) and not reason.startswith((QUOTA, ATTEMPTS))
    }


def is_own(reason: str) -> bool:
    """Whether a handshake is refused for a reason that is this worker's alone: a drain, its limit or a monitor."""
    if reason in (Reason.DRAINING, Reason.WORKER):
        return True
    return reason not in _NO_MONITORS and not reason.startswith((QUOTA, ATTEMPTS))


def faults_in(counters: Counters) -> dict[str, int]:
    """Counts of unexpected exceptions by kind."""
    return {name.removeprefix(FAULT): count for name, count in counters.items() if name.startswith(FAULT)}


def counts_in(counters: Counters) -> dict[str, int]:
    """What counts, without the times that stand among a pool's counters."""
    return {name: count for name, count in counters.items() if not name.startswith((AT, GONE))}


def times_in(counters: Counters, prefix: str) -> dict[str, int]:
    """The times with the prefix :data:`AT` or :data:`GONE`, the latest first."""
    found = [(name.removeprefix(prefix), at) for name, at in counters.items() if name.startswith(prefix)]
    return dict(sorted(found, key=lambda item: (-item[1], item[0])))


def failed_functions(faults: Counters) -> dict[str, int]:
    """Of unexpected exceptions by kind, those in the site's own functions."""
    named = (KEY_FAILED, MONITOR_FAILED)
    return {kind: count for kind, count in faults.items() if kind == CLASSIFY_FAILED or kind.startswith(named)}


class Calls:
    """The calls of one limiter to its ledger."""

    def __init__(self) -> None:
        self.made = 0
        self.failed = 0
        self.failing = 0
        """Failed calls since the last one that succeeded."""
        self.times = Durations(CALL_TIMES, CALLS_TOOK)
        self.counters = self.times.counters
        """The counters for a report, without those that are 0."""
        self.lately = 0.0
        """How many seconds a call has lately taken: it follows slower calls at once, and faster ones after a while."""

    @contextmanager
    def timing(self, clock: Callable[[], float]) -> Iterator[None]:
        """Count the block as one call, failed if it raises; ``clock`` returns seconds."""
        self.made += 1
        self.counters[CALLS] = self.made
        started = clock()
        try:
            yield
        except Exception:
            self.failed += 1
            self.failing += 1
            self.counters[ERRORS], self.counters[FAILING] = self.failed, self.failing
            raise
        else:
            self.failing = 0
            self.counters.pop(FAILING, None)
        finally:
            seconds = clock() - started
            self.times.note(seconds)
            self.lately += (SLOWER if seconds > self.lately else FASTER) * (seconds - self.lately)

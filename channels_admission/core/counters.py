"""The names of what a worker counts: the reasons of refusals, and the other events of its connections."""

from collections.abc import Mapping
from enum import StrEnum


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
EVENTS_DROPPED = "events.dropped"
"""Events of which no receiver or recipient was told, since too many waited."""
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
        EVENTS_DROPPED,
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


def is_decision(counter: str) -> bool:
    """Whether a counter counts handshakes decided, each of which is in one such counter."""
    return counter not in NO_HANDSHAKES and not counter.startswith((DRY, FAULT))


def faults_in(counters: Counters) -> dict[str, int]:
    """The unexpected exceptions among ``counters``, by their kind."""
    return {name.removeprefix(FAULT): count for name, count in counters.items() if name.startswith(FAULT)}

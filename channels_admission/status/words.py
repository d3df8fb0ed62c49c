"""Words for people: names, time spans and overrides, each written once.

The texts are translated where they are shown: in the admin in its user's language, and in commands not at all, since
these switch translations off. The admin's script gets the same texts as JSON.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from ..core.counters import ATTEMPTS, OTHER, QUOTA, Reason
from ..core.levels import Level
from ..core.overrides import EVERY_WORKER, Drain, Order
from .values import Health, PoolSnapshot, WorkerSnapshot

LEVELS: Mapping[str, Any] = {
    Level.CALM: pgettext_lazy("level of a pool", "Calm"),
    Level.WARNING: pgettext_lazy("level of a pool", "Warning"),
    Level.CRITICAL: pgettext_lazy("level of a pool", "Critical"),
    Level.FULL: pgettext_lazy("level of a pool", "Full"),
}
NAMES: Mapping[str, Mapping[str, Any]] = {
    "level": LEVELS,
    "state": {
        **LEVELS,
        "paused": pgettext_lazy("state of a pool", "Paused"),
        "draining": pgettext_lazy("state of a pool", "Draining"),
    },
    "free": {
        # Translators: instead of the number of free slots.
        "paused": _("none while paused"),
        "draining": _("none while all workers drain"),
    },
    "reason": {
        Reason.FULL: _("pool full"),
        Reason.SETTLING: _("ledger settling"),
        Reason.RATE: _("too many at once"),
        Reason.CROWD: _("too many waiting"),
        Reason.ENTRANCE: _("entrance full"),
        Reason.LEDGER: _("ledger away"),
        Reason.SHARE: _("share of the class used up"),
        Reason.PAUSED: pgettext_lazy("reason", "paused"),
        Reason.DRAINING: _("worker draining"),
        Reason.WORKER: _("worker full"),
        "lag": _("event loop behind"),
        "memory": _("memory short"),
        "descriptors": _("descriptors short"),
        "cpu": _("CPU short"),
        "threads": _("sync code waits"),
        OTHER: pgettext_lazy("reasons", "other"),
    },
    "monitor": {
        "lag": _("lag"),
        "memory": _("memory"),
        "descriptors": _("open files"),
        "cpu": _("CPU"),
        "threads": _("sync code"),
    },
    "health": {
        Health.OK: pgettext_lazy("health of the ledger", "OK"),
        Health.SETTLING: pgettext_lazy("health of the ledger", "settling"),
        Health.LATE: pgettext_lazy("health of the ledger", "late"),
        Health.DOWN: pgettext_lazy("health of the ledger", "down"),
    },
}
"""Translated names of a snapshot's words; any other word is shown as it is."""

# Translators: a reason for refusals, {name} is the name of a quota.
QUOTA_REASON = _("over the quota {name}")
# Translators: a reason for refusals, {name} is the name of a quota with a rate of attempts to connect.
ATTEMPTS_REASON = _("above the attempt rate of {name}")
NAMED_REASONS: Mapping[str, Any] = {QUOTA: QUOTA_REASON, ATTEMPTS: ATTEMPTS_REASON}
"""Names of the reasons with a quota, by the reason's prefix."""

DURATIONS = (
    (86400, pgettext_lazy("days", "%s d")),
    (3600, pgettext_lazy("hours", "%s h")),
    (60, pgettext_lazy("minutes", "%s min")),
    (1, pgettext_lazy("seconds", "%s s")),
)
"""Units of time in seconds, from the longest, and the format of a whole number of each."""

# Translators: overrides set by operators. {value}, {configured} and {over} are numbers, {target} is a worker or a host.
ORDERS: Mapping[str, Any] = {
    "limit": _("Limit {value} instead of {configured}"),
    "enforced": _("Limit {value} instead of {configured}, enforced within {over} s"),
    "paused": pgettext_lazy("a pool", "Paused"),
    "dry": pgettext_lazy("a pool", "Dry run"),
    "wet": pgettext_lazy("a pool", "No dry run"),
    "drain": _("Drain of {target} within {over} s"),
    "all_workers": _("all workers"),
    # Translators: {by} is the name of a user, {at} a time.
    "by": _("by {by}, {at}"),
}


def named(word: str, kind: str) -> str:
    """The name of a level, reason, monitor or health; an unknown word stays as it is."""
    for begins, reason in NAMED_REASONS.items() if kind == "reason" else ():
        if word.startswith(begins):
            return str(reason).format(name=word.removeprefix(begins))
    return str(NAMES[kind].get(word, word))


def duration(seconds: float) -> list[str]:
    """A time span in its longest unit and, unless that is zero, the next one: ``2 h``, ``5 min``."""
    rest = int(seconds)
    for (size, written), (smaller, written_smaller) in pairwise(DURATIONS):
        if rest >= size:
            parts = [(rest // size, written), (rest % size // smaller, written_smaller)]
            return [str(text) % units for units, text in parts if units]
    return [str(DURATIONS[-1][1]) % rest]


def numbered(count: int, noun: str) -> str:
    """A number with its noun in English, such as ``1 worker`` and ``2,000 workers``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def alone(count: int, workers: int) -> str:
    """How many of so many workers decide without the ledger, such as ``1 of 3 workers decides alone``."""
    return f"{count:,} of {numbered(workers, 'worker')} {'decides' if count == 1 else 'decide'} alone"


def trouble(worker: WorkerSnapshot) -> tuple[float, ...]:
    """The key by which the worst worker is the first; ``admission.js`` has the same."""
    pressure = max((each.pressure for each in worker.load), default=0.0)
    return (not worker.silent, not worker.failing, -pressure, not worker.faults, not worker.draining)


def worst(worker: WorkerSnapshot) -> tuple[float, ...]:
    """The same, and among equals the one with the most connections."""
    return (*trouble(worker), -worker.held)


class Override(NamedTuple):
    """One override of a pool in words; a drain has a target."""

    key: str
    what: str
    order: Order | Drain
    target: str = ""


def overrides(pool: PoolSnapshot, number: Callable[[float], str]) -> Iterator[Override]:
    """Each override of a pool, the drains last; ``number`` formats a number."""
    controls = pool.controls
    if (order := controls.limit) is not None:
        values = {"value": number(order.value), "configured": number(pool.configured)}
        if order.over is not None:
            values["over"] = number(order.over)
        yield Override("limit", _fill("limit" if order.over is None else "enforced", **values), order)
    if (order := controls.paused) is not None:
        yield Override("paused", _fill("paused"), order)
    if (order := controls.dry_run) is not None:
        yield Override("dry-run", _fill("dry" if order.value else "wet"), order)
    for drain in controls.drains:
        target = _fill("all_workers") if drain.target == EVERY_WORKER else drain.target
        what = _fill("drain", target=target, over=number(drain.over))
        yield Override(f"drain {drain.target}", what, drain, drain.target)


def _fill(sentence: str, **values: str) -> str:
    return str(ORDERS[sentence]).format(**values)

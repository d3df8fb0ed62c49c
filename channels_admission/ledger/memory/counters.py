"""What the counters of a report add to those of a pool, within the bounds that Redis keeps."""

from collections import Counter
from collections.abc import Iterable

from ...core.counters import AT, FAULT, GONE, INCIDENTS, Counters, is_decision
from ..base import COUNTER_BYTES, COUNTERS_BYTES, COUNTERS_KEPT, GONE_KEPT
from ..buckets import numeral, reported


def decided(counters: Counters, before: Counters) -> dict[str, int]:
    """Handshakes decided since the counters ``before``, by their decision."""
    return {name: rise for name, rise in rises(counters, before).items() if is_decision(name)}


def rises(counters: Counters, before: Counters) -> dict[str, int]:
    """By how much each counter has risen; one that has fallen adds nothing, and counts from there."""
    now, then = _bounded(counters), _bounded(before)
    rises = {
        name: count - then.get(name, 0)
        for name, count in now.items()
        if len(name) + len(numeral(count)) < COUNTER_BYTES
    }
    return {name: rise for name, rise in rises.items() if rise > 0}


def uncounted(counters: Counters, risen: Counters, heard: Counters) -> dict[str, int]:
    """What of ``risen`` was not counted before a loss of data either, of which the worker has ``heard``."""
    heard = _bounded(heard)
    rests = {name: min(rise, counters[name] - heard.get(name, 0)) for name, rise in risen.items()}
    return {name: rest for name, rest in rests.items() if rest > 0}


def _bounded(counters: Counters) -> Counters:
    """The counters of a report; none if they take too many bytes."""
    is_long = len(counters) > COUNTERS_KEPT and len(reported(counters)) > COUNTERS_BYTES
    return {} if is_long else counters


def add(counters: Counter[str], rises: Counters, now: float, gone: Iterable[str] = ()) -> None:
    """Add what has risen, and note the time of incidents and of workers that are ``gone``; ``now`` in Unix time."""
    for name, rise in rises.items():
        if name in counters or len(counters) < COUNTERS_KEPT:
            counters[name] += rise
    for name in rises:
        if name in INCIDENTS or name.startswith(FAULT):
            counters[AT + (name if name in INCIDENTS else FAULT)] = int(now)
    for worker in gone:
        counters[GONE + ":".join(worker.split(":")[:2])] = int(now)
    known = sorted((name for name in counters if name.startswith(GONE)), key=lambda name: (-counters[name], name))
    for name in known[GONE_KEPT:]:
        del counters[name]

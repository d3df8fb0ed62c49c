"""A pool as it is read."""

from ...core.agreement import fingerprint, numbers_of
from ...core.counters import faults_in
from ...core.readings import Reading, WorkerReading
from ..base import LATELY
from ..buckets import lately, within
from .pool import Entry, Pool


def reading_of(pool: Pool, now: float, wall: float, lease: float) -> Reading:
    """``now`` by the ledger's clock, ``wall`` in Unix time. A worker that has been silent for its lease is left out; it
    is ``lease`` where its settings no longer count."""
    settings = {text: numbers_of(text) for text, ends in pool.settings.ends.items() if ends > pool.clock.time}
    leases = {text: numbers["lease"] / 1000 for text, numbers in settings.items()}
    alive = (each for each in pool.entries.values() if now - each.seen < leases.get(each.settings, lease))
    return Reading(
        limit=pool.limit,
        settling=pool.clock.is_settling,
        counters=dict(pool.counters),
        since=pool.since,
        version=pool.version,
        workers=tuple(_worker(each, now) for each in alive),
        **lately(within(LATELY, int(wall), pool.past.seconds.values())),
        now=wall,
        controls=pool.controls,
        level=pool.levels.level,
        settings={fingerprint(text): numbers for text, numbers in settings.items()},
    )


def _worker(entry: Entry, now: float) -> WorkerReading:
    return WorkerReading(
        worker=entry.report.worker,
        held=entry.held - entry.reserve,
        silence=now - entry.seen,
        uptime=entry.report.age + now - entry.seen,
        server=entry.report.server,
        load=entry.report.load,
        classes=entry.classes,
        draining=entry.report.draining,
        counters={name: count for name, count in entry.report.counters.items() if count},
        faults=faults_in(entry.report.counters),
        settings=fingerprint(entry.settings),
        speed=entry.report.speed,
        footprint=entry.report.footprint,
        release=entry.report.release,
        reserve=entry.reserve,
    )

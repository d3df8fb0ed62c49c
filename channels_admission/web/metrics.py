"""Whole pools as Prometheus metrics: as many series as pools, reasons and monitors, however many workers there are.

What begins with ``pool_`` is the whole pool's, and the same at every worker. Counters are the ledger's sums over all
workers that reported: they never fall while workers start and end. When the ledger loses data they start anew at 0,
with a later ``_created`` in OpenMetrics; until they are known again, they are left out.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter

import channels
import django
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from .. import __version__, conf
from ..core.counters import ATTEMPTS, EVICTED, OUTLIVED, OVERDUE, QUOTA, UNACCEPTED, Reason
from ..core.levels import Level
from ..status.values import Health, PoolSnapshot, Snapshot
from .families import Sample, counter, gauge, histogram
from .worker_metrics import WorkerCollector, monitors_that_refuse, worst

DRY_TOO = (OVERDUE, UNACCEPTED, OUTLIVED, EVICTED)
"""What a dry run counts beside refusals."""

VERSIONS = {
    "version": __version__,
    "python": platform.python_version(),
    "django": django.get_version(),
    "channels": channels.__version__,
}


def exposition(snapshot: Snapshot, accept: str, *, of_workers: bool = False) -> tuple[bytes, str]:
    """The metrics in the best format for the header ``Accept``, and their content type."""
    encode, content_type = choose_encoder(accept)
    registry = CollectorRegistry()
    if of_workers:
        registry.register(WorkerCollector(snapshot))
    else:
        registry.register(PoolCollector(snapshot, created="openmetrics" in content_type))
    return encode(registry), content_type


class PoolCollector(Collector):
    """The metrics of the pools in one snapshot. With the ledger down there is ``ledger_up 0`` and no numbers of pools.

    ``created``: whether counters say since when they count; in the older format that would be another gauge for each.
    """

    def __init__(self, snapshot: Snapshot, *, created: bool = False) -> None:
        self._snapshot = snapshot
        self._created = created

    def collect(self) -> Iterator[Metric]:
        yield from _site(self._snapshot)
        yield from _slots(self._snapshot.pools)
        yield from worst(self._snapshot.pools)
        known = [pool for pool in self._snapshot.pools if pool.since is not None]
        since = {pool.name: pool.since for pool in known if self._created}
        for family in _events(known):
            yield _dated(family, since)


def _site(snapshot: Snapshot) -> Iterator[Metric]:
    """What the answering process knows of itself and of the ledger."""
    health = snapshot.ledger.health
    yield gauge("build_info", "Versions in the process that answers.", tuple(VERSIONS), [(tuple(VERSIONS.values()), 1)])
    yield gauge("enabled", "Whether admission is switched on.", (), [((), snapshot.enabled)])
    yield gauge("ledger_up", "Whether the ledger can be read.", (), [((), health is not Health.DOWN)])
    text = "Whether the ledger started empty or lost its data a moment ago: numbers may be low."
    yield gauge("ledger_settling", text, (), [((), health is Health.SETTLING)])


def _slots(pools: Sequence[PoolSnapshot]) -> Iterator[Metric]:
    def each(name: str, text: str, numbers: Iterable[float]) -> Metric:
        return gauge(f"pool_{name}", text, ("pool",), zip(((pool.name,) for pool in pools), numbers, strict=True))

    yield each("held", "Slots held by all workers.", (pool.held for pool in pools))
    yield each("limit", "Slots in the pool.", (pool.limit for pool in pools))
    yield each("free", "Slots left.", (pool.free for pool in pools))
    text = "Free slots that workers keep counted for their next handshakes."
    yield each("reserve", text, (pool.reserve for pool in pools))
    yield each("limit_configured", "Slots in the pool by the settings.", (pool.configured for pool in pools))
    text = "Settings in which workers differ; the strictest values are in force."
    yield each("settings_differing", text, (len(pool.differs) for pool in pools))
    yield each("paused", "Whether an operator has paused admissions.", (pool.paused for pool in pools))
    yield each("dry_run", "Whether a dry run refuses no connection.", (pool.dry_run for pool in pools))
    text = "The level for alerts, numbered as the level: it falls five percentage points below where it rises."
    yield each("alert_level", text, (list(Level).index(pool.alert) for pool in pools))
    text = "The level of the pool: 0 calm, 1 warning, 2 critical, 3 full."
    yield each("level", text, (list(Level).index(pool.level) for pool in pools))
    yield each("workers", "Workers with a running lease.", (len(pool.workers) for pool in pools))
    silent = (sum(worker.silent for worker in pool.workers) for pool in pools)
    yield each("workers_silent", "Workers whose last report is older than is allowed.", silent)
    draining = (sum(worker.draining for worker in pool.workers) for pool in pools)
    yield each("workers_draining", "Workers that refuse new connections and close their own.", draining)
    accepting = (sum(worker.accepting for worker in pool.workers) for pool in pools)
    yield each("accepting", "Connections whose consumer has not accepted them yet.", accepting)
    jobs = (sum(worker.jobs_waiting for worker in pool.workers) for pool in pools)
    yield each("jobs_waiting", "Jobs of sync code that wait for the threads of the pool's workers.", jobs)
    busy = (sum(worker.threads_busy for worker in pool.workers) for pool in pools)
    yield each("threads_busy", "Threads of the pool's workers that run sync code.", busy)
    text = "Unix time of the latest report of an incident, or of the latest loss of the ledger's data, if there is one."
    latest = [((pool.name, event), at) for pool in pools for event, at in pool.latest.items()]
    yield gauge("pool_latest_timestamp_seconds", text, ("pool", "event"), latest)
    text = "Connections per second that the workers have lately taken, all together; absent where unknown."
    speeds = [((pool.name,), pool.speed) for pool in pools if pool.speed is not None]
    yield gauge("pool_connects_per_second", text, ("pool",), speeds)
    classes = [((pool.name, name), held) for pool in pools for name, held in pool.classes.items()]
    yield gauge("pool_class_held", "Slots held by the connections of a class.", ("pool", "class"), classes)


def _events(pools: Sequence[PoolSnapshot]) -> Iterator[Metric]:
    def each(name: str, text: str, numbers: Iterable[float]) -> Metric:
        return counter(f"pool_{name}", text, ("pool",), zip(((pool.name,) for pool in pools), numbers, strict=True))

    yield each("admitted", "Connections admitted.", (pool.admitted for pool in pools))
    labels = ("pool", "reason", "quota")
    yield counter("pool_refused", "Connections refused.", labels, _by_reason(pools, attrgetter("refused")))
    text = "Connections admitted by a dry run that would have been refused."
    yield counter("pool_would_refuse", text, labels, _by_reason(pools, attrgetter("would_refuse"), *DRY_TOO))
    yield each("shed", "Connections closed because memory ran out.", (pool.shed for pool in pools))
    yield each("channels_full", "Connections ended by a full channel.", (pool.channels_full for pool in pools))
    yield each(
        "layer_failed", "Connections ended because the channel layer failed.", (pool.layer_failed for pool in pools)
    )
    yield each("drained", "Connections closed by a drain.", (pool.drained for pool in pools))
    yield each("aged", "Connections closed at their maximum age.", (pool.aged for pool in pools))
    text = "Connections closed for a newer one under the same quota."
    yield each("evicted", text, (pool.evicted for pool in pools))
    text = "Connections closed unauthenticated at their deadline."
    yield each("overdue", text, (pool.overdue for pool in pools))
    text = "Handshakes that were admitted and had to wait at the entrance."
    yield each("delayed", text, (pool.delayed for pool in pools))
    text = "Tickets given to refused clients: places in the line."
    yield each("tickets_promised", text, (pool.promised for pool in pools))
    text = "Handshakes admitted with a ticket whose time had come."
    yield each("tickets_redeemed", text, (pool.redeemed for pool in pools))
    text = "Handshakes whose ticket came too late."
    yield each("tickets_missed", text, (pool.missed for pool in pools))
    text = "Refusals that were held for a while before they were sent."
    yield each("refusals_held", text, (pool.refusals_held for pool in pools))
    text = "Refusals by single workers, sent as HTTP 503 for the balancer to try another worker."
    yield each("passed", text, (pool.passed for pool in pools))
    text = "Connections refused at ACCEPT_DEADLINE, since their consumer had not accepted them."
    yield each("unaccepted", text, (pool.unaccepted for pool in pools))
    text = "Handlers cancelled after their client left: not accepted by then, or still running after DISCONNECT_GRACE."
    yield each("outlived", text, (pool.outlived for pool in pools))
    text = "Calls of the workers to the ledger that failed."
    yield each("ledger_errors", text, (pool.calls.failed for pool in pools))
    text = "Repairs of damaged counts in the ledger."
    yield each("ledger_healed", text, (pool.healed for pool in pools))
    text = "Workers that were gone, or silent for their lease, without a goodbye."
    yield each("workers_lost", text, (pool.lost for pool in pools))
    text = "Signals, mails and webhooks dropped because the queue was full."
    yield each("events_dropped", text, (pool.events_dropped for pool in pools))
    text = (
        "Unexpected exceptions by kind, in the workers' own tasks, and in functions of the site (CLASSIFY, "
        "QUOTAS.NAME, PRESSURE.NAME). The workers' logs have the tracebacks."
    )
    kinds = [((pool.name, kind), count) for pool in pools for kind, count in pool.faults.items()]
    yield counter("pool_unexpected_errors", text, ("pool", "kind"), kinds)
    text = "Calls of the workers to the ledger. One call may decide many handshakes."
    yield histogram("pool_ledger_call_seconds", text, ((pool.name, pool.call_times) for pool in pools))
    text = "Wait of admitted handshakes for their verdict, and at the entrance."
    yield histogram("pool_admission_wait_seconds", text, ((pool.name, pool.waits) for pool in pools))


def _dated(family: Metric, since: Mapping[str, float | None]) -> Metric:
    """The family with ``_created`` after the samples of each set of labels, for the pools in ``since``."""
    samples, family.samples = family.samples, []
    for labels, group in groupby(samples, lambda sample: {**sample.labels, "le": ""}):
        family.samples += group
        created = since.get(labels["pool"])
        if created is not None:
            del labels["le"]
            family.add_sample(f"{family.name}_created", labels, created)
    return family


def _by_reason(
    pools: Iterable[PoolSnapshot], counts: Callable[[PoolSnapshot], Mapping[str, int]], *more: str
) -> Iterator[Sample]:
    for pool in pools:
        for name, count in _from_zero(pool, counts(pool), *more).items():
            kind, _, quota = name.partition(":")
            labels = (kind, quota) if f"{kind}:" in (QUOTA, ATTEMPTS) else (name, "")
            yield (pool.name, *labels), count


def _from_zero(pool: PoolSnapshot, counts: Mapping[str, int], *more: str) -> Mapping[str, int]:
    """The counts with 0 for all other reasons that are known: a series that begins at 0 shows its first increase."""
    settings = conf.current()
    declared = settings.pools.get(pool.name)
    quotas = [
        prefix + quota.name
        for quota in (declared.quotas if declared else ())
        for prefix, value in ((QUOTA, quota.max), (ATTEMPTS, quota.rate))
        if value is not None
    ]
    return {**dict.fromkeys([*map(str, Reason), *monitors_that_refuse(), *quotas, *more], 0), **counts}

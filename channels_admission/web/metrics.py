"""A snapshot as Prometheus metrics. The only module that imports ``prometheus_client``.

Counters are the ledger's sums over all workers that reported: they are the same at every worker, and never fall while
workers start and end. When the ledger loses data they start anew at 0, with a later ``_created`` in OpenMetrics; until
they are known again, they are left out.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, SummaryMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from .. import conf
from ..core.counters import ATTEMPTS, EVICTED, OUTLIVED, OVERDUE, QUOTA, UNACCEPTED, Reason
from ..core.levels import Level
from ..status.values import Health, PoolSnapshot, Snapshot, WorkerSnapshot

PREFIX = "channels_admission_"

DRY_TOO = (OVERDUE, UNACCEPTED, OUTLIVED, EVICTED)
"""What a dry run counts beside refusals."""

Sample = tuple[Sequence[str], float]
"""Label values, and the number."""


def exposition(snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
    """The metrics in the best format for the header ``Accept``, and their content type."""
    encode, content_type = choose_encoder(accept)
    registry = CollectorRegistry()
    registry.register(SnapshotCollector(snapshot, created="openmetrics" in content_type))
    return encode(registry), content_type


class SnapshotCollector(Collector):
    """The metrics of one snapshot. With the ledger down there is ``ledger_up 0`` and no numbers of pools.

    ``created``: whether counters say since when they count; in the older format that would be another gauge for each.
    """

    def __init__(self, snapshot: Snapshot, *, created: bool = False) -> None:
        self._snapshot = snapshot
        self._created = created

    def collect(self) -> Iterator[Metric]:
        yield from _site(self._snapshot)
        yield from _slots(self._snapshot.pools)
        known = [pool for pool in self._snapshot.pools if pool.since is not None]
        since = {pool.name: pool.since for pool in known if self._created}
        for family in _events(known):
            yield _dated(family, since)
        yield from _workers(self._snapshot.pools)


def _site(snapshot: Snapshot) -> Iterator[Metric]:
    health = snapshot.ledger.health
    yield _gauge("enabled", "Whether admission is switched on.", (), [((), snapshot.enabled)])
    yield _gauge("ledger_up", "Whether the ledger can be read.", (), [((), health is not Health.DOWN)])
    text = "Whether the ledger started empty or lost its data a moment ago: numbers may be low."
    yield _gauge("ledger_settling", text, (), [((), health is Health.SETTLING)])


def _slots(pools: Sequence[PoolSnapshot]) -> Iterator[Metric]:
    def each(name: str, text: str, numbers: Iterable[float]) -> Metric:
        return _gauge(name, text, ("pool",), zip(((pool.name,) for pool in pools), numbers, strict=True))

    yield each("held", "Slots held by all workers.", (pool.held for pool in pools))
    yield each("limit", "Slots in the pool.", (pool.limit for pool in pools))
    yield each("free", "Slots left.", (pool.free for pool in pools))
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
    text = "Connections per second that the workers have lately taken, all together; absent where unknown."
    speeds = [((pool.name,), pool.speed) for pool in pools if pool.speed is not None]
    yield _gauge("connect_speed", text, ("pool",), speeds)
    classes = [((pool.name, name), held) for pool in pools for name, held in pool.classes.items()]
    yield _gauge("class_held", "Slots held by the connections of a class.", ("pool", "class"), classes)


def _events(pools: Sequence[PoolSnapshot]) -> Iterator[Metric]:
    def each(name: str, text: str, numbers: Iterable[float]) -> Metric:
        return _counter(name, text, ("pool",), zip(((pool.name,) for pool in pools), numbers, strict=True))

    yield each("admitted", "Connections admitted.", (pool.admitted for pool in pools))
    labels = ("pool", "reason", "quota")
    yield _counter("refused", "Connections refused.", labels, _refusals(pools))
    would = [(pool, _from_zero(pool, pool.would_refuse, *DRY_TOO)) for pool in pools]
    text = "Connections admitted by a dry run that would have been refused."
    yield _counter("would_refuse", text, labels, (sample for pool, each in would for sample in _by_reason(pool, each)))
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
    text = "Signals, mails and webhooks dropped because the queue was full."
    yield each("events_dropped", text, (pool.events_dropped for pool in pools))
    text = (
        "Unexpected exceptions by kind, in the workers' own tasks, and in functions of the site (CLASSIFY, "
        "QUOTAS.NAME, PRESSURE.NAME). The workers' logs have the tracebacks."
    )
    kinds = [((pool.name, kind), count) for pool in pools for kind, count in pool.faults.items()]
    yield _counter("unexpected_errors", text, ("pool", "kind"), kinds)
    yield _calls(pools)


def _dated(family: Metric, since: Mapping[str, float | None]) -> Metric:
    """The family with ``_created`` after the samples of each set of labels, for the pools in ``since``."""
    samples, family.samples = family.samples, []
    for sample, after in zip_longest(samples, samples[1:]):
        family.samples.append(sample)
        created = since.get(sample.labels["pool"])
        if created is not None and (after is None or after.labels != sample.labels):
            family.add_sample(f"{family.name}_created", sample.labels, created)
    return family


def _calls(pools: Iterable[PoolSnapshot]) -> Metric:
    text = "Calls of the workers to the ledger, in seconds. One call may decide many handshakes."
    family = SummaryMetricFamily(f"{PREFIX}ledger_call_seconds", text, labels=["pool"])
    for pool in pools:
        family.add_metric([pool.name], pool.calls.made, pool.calls.seconds)
    return family


def _refusals(pools: Iterable[PoolSnapshot]) -> Iterator[Sample]:
    for pool in pools:
        yield from _by_reason(pool, _from_zero(pool, pool.refused))


def _from_zero(pool: PoolSnapshot, counts: Mapping[str, int], *more: str) -> Mapping[str, int]:
    """The counts with 0 for all other reasons that are known: a series that begins at 0 shows its first increase."""
    settings = conf.current()
    monitors = [watch.name for watch in settings.pressure.values() if watch.thresholds is not None]
    declared = settings.pools.get(pool.name)
    quotas = [
        prefix + quota.name
        for quota in (declared.quotas if declared else ())
        for prefix, value in ((QUOTA, quota.max), (ATTEMPTS, quota.rate))
        if value is not None
    ]
    return {**dict.fromkeys([*map(str, Reason), *monitors, *quotas, *more], 0), **counts}


def _by_reason(pool: PoolSnapshot, counters: Mapping[str, int]) -> Iterator[Sample]:
    for counter, count in counters.items():
        kind, _, quota = counter.partition(":")
        labels = (kind, quota) if f"{kind}:" in (QUOTA, ATTEMPTS) else (counter, "")
        yield (pool.name, *labels), count


def _workers(pools: Iterable[PoolSnapshot]) -> Iterator[Metric]:
    pairs = [(pool.name, worker) for pool in pools for worker in pool.workers]
    held = [((pool, worker.id), worker.held) for pool, worker in pairs]
    yield _gauge("worker_held", "Slots held by a worker.", ("pool", "worker"), held)
    workers = _latest(worker for _, worker in pairs).values()
    silence = [((worker.id,), worker.last_beat) for worker in workers]
    yield _gauge("worker_silence_seconds", "Seconds since the last report of a worker.", ("worker",), silence)
    loads = [((worker.id, load.name), load) for worker in workers for load in worker.load]
    text = "The reading of a monitor: seconds for the lag and the threads, else a share; absent where unknown."
    readings = [(labels, load.reading) for labels, load in loads if load.reading is not None]
    yield _gauge("worker_reading", text, ("worker", "monitor"), readings)
    lags = [(worker, load) for worker in workers for load in worker.load]
    medians = [((worker.id,), load.median) for worker, load in lags if load.median is not None]
    text = "The median delay of the worker's event loop in the last two seconds."
    yield _gauge("worker_lag_median_seconds", text, ("worker",), medians)
    longest = [((worker.id,), load.longest) for worker, load in lags if load.longest is not None]
    text = "The longest delay of the worker's event loop in the last two seconds; the reading has the 99th percentile."
    yield _gauge("worker_lag_longest_seconds", text, ("worker",), longest)
    pressures = [(labels, load.pressure) for labels, load in loads]
    yield _gauge("worker_pressure", "The share of handshakes that a monitor refuses.", ("worker", "monitor"), pressures)


def _latest(workers: Iterable[WorkerSnapshot]) -> Mapping[str, WorkerSnapshot]:
    """Each worker once, from the pool that it reported to last."""
    latest: dict[str, WorkerSnapshot] = {}
    for worker in workers:
        known = latest.get(worker.id)
        if known is None or worker.last_beat < known.last_beat:
            latest[worker.id] = worker
    return latest


def _gauge(name: str, text: str, labels: Sequence[str], samples: Iterable[Sample]) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family


def _counter(name: str, text: str, labels: Sequence[str], samples: Iterable[Sample]) -> Metric:
    family = CounterMetricFamily(PREFIX + name, text, labels=labels)
    for values, number in samples:
        family.add_metric(values, number)
    return family

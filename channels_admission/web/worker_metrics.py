"""What workers report of themselves, as Prometheus metrics: of each worker, and of the worst one of each pool.

Of each there are as many series as workers. The labels have no process id, so that a restart makes no new series.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from .. import conf
from ..core.readings import Load
from ..status.values import PoolSnapshot, Snapshot, WorkerSnapshot
from .families import Sample, gauge

LABELS = ("host", "worker")
READINGS = {
    "lag": ("lag_seconds", "Delay of the event loop, the 99th percentile of two seconds"),
    "threads": ("thread_wait_seconds", "Wait of a job of sync code for its thread"),
    "memory": ("memory_ratio", "Memory in use, as a share of what there is"),
    "descriptors": ("descriptors_ratio", "Open files, as a share of the most"),
    "cpu": ("cpu_ratio", "Use of the CPU, as a share of one core or of a smaller quota"),
}
"""The built-in monitors: the metric of each, and what it reads."""

Spot = tuple[str, ...]
"""The values of :data:`LABELS`."""


def numbered(workers: Iterable[WorkerSnapshot]) -> Mapping[str, Spot]:
    """The host of each worker by its id, and its number there: the oldest process has 0."""
    spots: dict[str, Spot] = {}
    hosts: dict[str, int] = {}
    for worker in sorted(workers, key=lambda worker: (-worker.uptime, worker.pid, worker.id)):
        number = hosts.setdefault(worker.host, 0)
        spots[worker.id] = (worker.host, str(number))
        hosts[worker.host] += 1
    return spots


def latest(workers: Iterable[WorkerSnapshot]) -> Mapping[str, WorkerSnapshot]:
    """Each worker once, from the pool that it reported to last."""
    found: dict[str, WorkerSnapshot] = {}
    for worker in workers:
        known = found.get(worker.id)
        if known is None or worker.silence < known.silence:
            found[worker.id] = worker
    return found


class WorkerCollector(Collector):
    """The metrics of the workers in one snapshot."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._pools = snapshot.pools

    def collect(self) -> Iterator[Metric]:
        pairs = [(pool.name, worker) for pool in self._pools for worker in pool.workers]
        workers = latest(worker for _, worker in pairs).values()
        spots = numbered(workers)
        held = [((pool, *spots[worker.id]), worker.held) for pool, worker in pairs]
        yield gauge("worker_held", "Slots held by a worker.", ("pool", *LABELS), held)
        accepting = [((pool, *spots[worker.id]), worker.accepting) for pool, worker in pairs]
        text = "Connections of a worker whose consumer has not accepted them yet."
        yield gauge("worker_accepting", text, ("pool", *LABELS), accepting)
        jobs = [(spots[worker.id], worker.jobs_waiting) for worker in workers]
        yield gauge("worker_jobs_waiting", "Jobs of sync code that wait for the thread of a worker.", LABELS, jobs)
        busy = [(spots[worker.id], worker.threads_busy) for worker in workers]
        yield gauge("worker_threads_busy", "Threads of a worker that run sync code.", LABELS, busy)
        silence = [(spots[worker.id], worker.silence) for worker in workers]
        yield gauge("worker_silence_seconds", "Time since the last report of a worker.", LABELS, silence)
        uptime = [(spots[worker.id], worker.uptime) for worker in workers]
        yield gauge("worker_uptime_seconds", "Time since the first report of a worker.", LABELS, uptime)
        yield from _loads([(spots[worker.id], load) for worker in workers for load in worker.load])


def _loads(loads: list[tuple[Spot, Load]]) -> Iterator[Metric]:
    """The readings, each in its unit; a reading that is unknown is left out."""

    def readings(name: str) -> list[Sample]:
        return [(spot, load.reading) for spot, load in loads if load.name == name and load.reading is not None]

    for name, (metric, text) in READINGS.items():
        yield gauge(f"worker_{metric}", f"{text}; of a worker.", LABELS, readings(name))
    medians = [(spot, load.median) for spot, load in loads if load.median is not None]
    yield gauge("worker_lag_median_seconds", "Median delay of a worker's event loop.", LABELS, medians)
    longest = [(spot, load.longest) for spot, load in loads if load.longest is not None]
    yield gauge("worker_lag_longest_seconds", "Longest delay of a worker's event loop.", LABELS, longest)
    by_monitor = (*LABELS, "monitor")
    own = [
        ((*spot, load.name), load.reading)
        for spot, load in loads
        if load.name not in READINGS and load.reading is not None
    ]
    yield gauge("worker_monitor_reading", "Reading of a monitor of the site's own, in its unit.", by_monitor, own)
    pressures = [((*spot, load.name), load.pressure) for spot, load in loads]
    yield gauge("worker_pressure_ratio", "Share of handshakes that a worker's monitor refuses.", by_monitor, pressures)


# The worst of each pool


def worst(pools: Sequence[PoolSnapshot]) -> Iterator[Metric]:
    """The worst of each pool's workers, and how many of them a monitor closes."""

    def most(name: str, text: str, values: Callable[[PoolSnapshot], Iterable[float | None]]) -> Metric:
        found = [(pool.name, [value for value in values(pool) if value is not None]) for pool in pools]
        return gauge(f"pool_worst_{name}", text, ("pool",), [((pool,), max(each)) for pool, each in found if each])

    yield most("held", "Most slots held by one worker.", lambda pool: (each.held for each in pool.workers))
    text = "Longest time since the last report of a worker."
    yield most("silence_seconds", text, lambda pool: (each.silence for each in pool.workers))
    for name, (metric, text) in READINGS.items():
        values = partial(_values, name, "reading")
        yield most(metric, f"{text}; of the worst worker.", values)
    text = "Median delay of the event loop of the worst worker."
    yield most("lag_median_seconds", text, partial(_values, "lag", "median"))
    text = "Longest delay of an event loop."
    yield most("lag_longest_seconds", text, partial(_values, "lag", "longest"))
    yield from _by_monitor(pools)


def _values(monitor: str, field: str, pool: PoolSnapshot) -> Iterator[float | None]:
    return (getattr(load, field) for worker in pool.workers for load in worker.load if load.name == monitor)


def _by_monitor(pools: Sequence[PoolSnapshot]) -> Iterator[Metric]:
    labels = ("pool", "monitor")
    closed = {(pool.name, name): 0 for pool in pools for name in monitors_that_refuse()}
    pressures = dict.fromkeys(closed, 0.0)
    readings: dict[tuple[str, str], float] = {}
    for at, load in (((pool.name, load.name), load) for pool in pools for each in pool.workers for load in each.load):
        closed[at] = closed.get(at, 0) + (load.pressure >= 1)
        pressures[at] = max(load.pressure, pressures.get(at, 0.0))
        if load.name not in READINGS and load.reading is not None:
            readings[at] = max(load.reading, readings.get(at, load.reading))
    text = "Workers that refuse every handshake because of a monitor."
    yield gauge("pool_workers_saturated", text, labels, closed.items())
    text = "Share of handshakes that a monitor refuses; of the worst worker."
    yield gauge("pool_worst_pressure_ratio", text, labels, pressures.items())
    text = "Highest reading of a monitor of the site's own, in its unit."
    yield gauge("pool_worst_monitor_reading", text, labels, readings.items())


def monitors_that_refuse() -> list[str]:
    """The names of the monitors with thresholds in the settings."""
    return [watch.name for watch in conf.current().pressure.values() if watch.thresholds is not None]

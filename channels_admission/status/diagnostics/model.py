"""The inputs of a diagnosis: the ledger's snapshot joined with what the host shows of each process."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from ...core.overrides import utc
from ...core.readings import Load
from ..growth import Growth
from ..values import PoolSnapshot, Snapshot, WorkerSnapshot
from .host import HostInfo, ProcessInfo


@dataclass(frozen=True, slots=True)
class Process:
    """A worker's process: its counts, what the kernel shows of it, and the highest readings of its event loops."""

    host: str
    pid: int
    server: str
    held: int
    """Slots held in all pools."""
    silence: float
    """Seconds since the last report; of several event loops, the longest."""
    connections: int
    """The least number of connections that hold these slots: one may hold a slot in each of several pools."""
    sockets: int | None
    """Established TCP connections; None where unknown."""
    ports: Mapping[int, int]
    """Sockets by port."""
    open_files: int | None
    allowed_files: int | None
    resident: int | None
    """Bytes of memory."""
    load: tuple[Load, ...]
    faults: Mapping[str, int] = field(default_factory=dict)
    """Unexpected exceptions in its heartbeats, by kind."""
    state: str = ""
    """``stopped``, ``absent``, ``running``, ``sleeping`` and others; empty where unknown."""
    uptime: float = 0.0
    """Seconds since it started."""
    calls: int = 0
    """Calls to the ledger since then, in all pools."""
    failed: int = 0
    """Those that failed."""
    failing: int = 0
    """Those that failed since one has succeeded, in the pool with the most; above 0 it decides alone."""
    shed: int = 0
    """Connections that it has closed because memory ran out."""
    accepting: int = 0
    """Connections of all pools whose consumer has not accepted them yet."""
    jobs_waiting: int = 0
    """Jobs of sync code that wait for its thread."""
    threads_busy: int = 0
    """Threads of sync code that run a job."""
    layer_failed: int = 0
    """Connections that ended because the channel layer of their consumer failed."""

    def reading(self, monitor: str) -> float | None:
        return self.monitor(monitor).reading

    def monitor(self, name: str) -> Load:
        """The load of a monitor, with no reading if the worker does not report it."""
        return next((each for each in self.load if each.name == name), Load(name, None, 0.0))


@dataclass(frozen=True, slots=True)
class Inputs:
    """Everything that a finder may read."""

    snapshot: Snapshot
    host: HostInfo
    processes: tuple[Process, ...]
    growths: tuple[Growth, ...] = ()

    def origin(self, pool: PoolSnapshot) -> str:
        """Where a pool's limit is set: in the settings, those of the workers if they differ, or by an operator."""
        if order := pool.controls.limit:
            when = f"{utc(order.at):%d %b %H:%M:%S} UTC"
            return f"ws_limit or the admin, set by {order.by or 'nobody named'} at {when}"
        setting = self.host.origins[pool.name].setting
        return f"the strictest {setting} of the workers" if "limit" in pool.differs else setting


def inputs_of(snapshot: Snapshot, host: HostInfo, growths: tuple[Growth, ...] = ()) -> Inputs:
    return Inputs(snapshot, host, _processes(snapshot, host), growths)


def _processes(snapshot: Snapshot, host: HostInfo) -> tuple[Process, ...]:
    workers: dict[tuple[str, int], list[WorkerSnapshot]] = {}
    for pool in snapshot.pools:
        for worker in pool.workers:
            workers.setdefault((worker.host, worker.pid), []).append(worker)
    return tuple(
        _process(theirs, host.processes.get(place, ProcessInfo())) for place, theirs in sorted(workers.items())
    )


def _process(workers: list[WorkerSnapshot], info: ProcessInfo) -> Process:
    most: dict[str, int] = {}
    silence: dict[str, float] = {}
    for worker in workers:
        most[worker.id] = max(worker.held, most.get(worker.id, 0))
        silence[worker.id] = min(worker.silence, silence.get(worker.id, worker.silence))
    return Process(
        host=workers[0].host,
        pid=workers[0].pid,
        server=workers[0].server,
        held=sum(worker.held for worker in workers),
        silence=max(silence.values()),
        connections=sum(most.values()),
        sockets=None if info.sockets is None else sum(info.sockets.values()),
        ports=info.sockets or {},
        open_files=info.open_files,
        allowed_files=info.allowed_files,
        resident=info.memory,
        faults=_sum(worker.faults for worker in workers),
        state=info.state,
        uptime=max(worker.uptime for worker in workers),
        calls=sum(worker.calls.made for worker in workers),
        failed=sum(worker.calls.failed for worker in workers),
        failing=max(worker.failing for worker in workers),
        shed=sum(worker.shed for worker in workers),
        layer_failed=sum(worker.layer_failed for worker in workers),
        accepting=sum(worker.accepting for worker in workers),
        jobs_waiting=max(worker.jobs_waiting for worker in workers),
        threads_busy=max(worker.threads_busy for worker in workers),
        load=tuple(_fresh(load, info) for load in _worst(load for worker in workers for load in worker.load)),
    )


def _sum(counters: Iterable[Mapping[str, int]]) -> Mapping[str, int]:
    total: Counter[str] = Counter()
    for each in counters:
        total.update(each)
    return dict(total.most_common())


def _fresh(load: Load, info: ProcessInfo) -> Load:
    """The load, with the open files counted now if they are more than was last reported."""
    if load.name != "descriptors" or not info.open_files or not info.allowed_files:
        return load
    return replace(load, reading=max(info.open_files / info.allowed_files, load.reading or 0))


def _worst(loads: Iterable[Load]) -> Iterator[Load]:
    """One load for each monitor: its highest reading, pressure and delays."""
    by_name: dict[str, list[Load]] = {}
    for load in loads:
        by_name.setdefault(load.name, []).append(load)
    for name, same in by_name.items():
        yield Load(
            name,
            _most(load.reading for load in same),
            max(load.pressure for load in same),
            _most(load.median for load in same),
            _most(load.longest for load in same),
        )


def _most(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)

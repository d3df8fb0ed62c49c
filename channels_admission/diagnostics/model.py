"""A case to diagnose: the ledger's snapshot and this machine's facts, brought together for each process."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from ..core.overrides import utc
from ..core.readings import Load
from ..status.snapshot import PoolSnapshot, Snapshot, WorkerSnapshot
from .host import Facts, ProcessFacts


@dataclass(frozen=True, slots=True)
class Process:
    """A worker's process: what we count in it, what the kernel sees, and the worst reading of its event loops."""

    host: str
    pid: int
    server: str
    held: int
    """Slots of all pools."""
    silence: float
    """Seconds since the last beat, of the event loop whose last one was the longest ago."""
    connections: int
    """Connections that hold them, at the least: one may hold a slot in each of several pools."""
    sockets: int | None
    """Established, as the kernel sees them; None where that is unknown."""
    ports: Mapping[int, int]
    """The same for each port."""
    open_files: int | None
    allowed_files: int | None
    resident: int | None
    """Bytes of memory."""
    load: tuple[Load, ...]
    faults: Mapping[str, int] = field(default_factory=dict)
    """Unexpected exceptions in its heartbeats, by kind."""

    def reading(self, monitor: str) -> float | None:
        return self.monitor(monitor).reading

    def monitor(self, name: str) -> Load:
        """The load of this monitor; unknown where it is not among them."""
        return next((each for each in self.load if each.name == name), Load(name, None, 0.0))


@dataclass(frozen=True, slots=True)
class Case:
    """All that is known."""

    snapshot: Snapshot
    facts: Facts
    processes: tuple[Process, ...]

    def origin(self, pool: PoolSnapshot) -> str:
        """Where a pool's limit comes from: the settings, or the operator who set it, and when."""
        if order := pool.controls.limit:
            when = f"{utc(order.at):%d %b %H:%M:%S} UTC"
            return f"ws_limit or the admin, set by {order.by or 'nobody named'} at {when}"
        return self.facts.origins[pool.name].setting


def open_case(snapshot: Snapshot, facts: Facts) -> Case:
    return Case(snapshot, facts, _processes(snapshot, facts))


def _processes(snapshot: Snapshot, facts: Facts) -> tuple[Process, ...]:
    workers: dict[tuple[str, int], list[WorkerSnapshot]] = {}
    for pool in snapshot.pools:
        for worker in pool.workers:
            workers.setdefault((worker.host, worker.pid), []).append(worker)
    return tuple(
        _process(theirs, facts.processes.get(place, ProcessFacts())) for place, theirs in sorted(workers.items())
    )


def _process(workers: list[WorkerSnapshot], facts: ProcessFacts) -> Process:
    most: dict[str, int] = {}
    silence: dict[str, float] = {}
    for worker in workers:
        most[worker.id] = max(worker.held, most.get(worker.id, 0))
        silence[worker.id] = min(worker.last_beat, silence.get(worker.id, worker.last_beat))
    return Process(
        host=workers[0].host,
        pid=workers[0].pid,
        server=workers[0].server,
        held=sum(worker.held for worker in workers),
        silence=max(silence.values()),
        connections=sum(most.values()),
        sockets=None if facts.sockets is None else sum(facts.sockets.values()),
        ports=facts.sockets or {},
        open_files=facts.open_files,
        allowed_files=facts.allowed_files,
        resident=facts.memory,
        faults=_sum(worker.faults for worker in workers),
        load=tuple(_fresh(load, facts) for load in _worst(load for worker in workers for load in worker.load)),
    )


def _sum(counters: Iterable[Mapping[str, int]]) -> Mapping[str, int]:
    total: Counter[str] = Counter()
    for each in counters:
        total.update(each)
    return dict(total.most_common())


def _fresh(load: Load, facts: ProcessFacts) -> Load:
    """The load with what is seen of it now, where that is more than was last reported."""
    if load.name != "descriptors" or not facts.open_files or not facts.allowed_files:
        return load
    return replace(load, reading=max(facts.open_files / facts.allowed_files, load.reading or 0))


def _worst(loads: Iterable[Load]) -> Iterator[Load]:
    """One load for each monitor, of the highest reading, pressure and delays."""
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

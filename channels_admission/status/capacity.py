"""How many connections the workers can hold: what each connection takes, what is allowed, and the limits that fit.

Pure but for :func:`collect`. Memory is in bytes.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..conf import Settings, sizing
from ..core.readings import Footprint, Usage, WorkerReading
from ..ledger import connected, open_ledger

ENOUGH = 100
"""Connections beyond the first few, of all workers together, from which their cost is taken to be measured."""
SAFE = 0.85
"""The greatest share of memory and open files that is planned for, also where no monitor refuses."""
MEASURED, OPENED = "measured", "opened"


@dataclass(frozen=True, slots=True)
class WorkerFootprint:
    """A worker that has told its footprint."""

    host: str
    pid: int
    server: str
    """As :data:`~..conf.sizing.FIGURES` names it."""
    silence: float
    """Seconds since its last report."""
    footprint: Footprint


@dataclass(frozen=True, slots=True)
class Cost:
    """What one connection takes of a worker."""

    memory: int
    files: float
    source: str
    """``measured`` on the site's connections, ``opened`` by a measurement, or the server whose figure it is."""
    connections: int = 0
    """Those that were measured."""


@dataclass(frozen=True, slots=True)
class WorkerCapacity:
    """A worker's process, and the connections that it can hold."""

    host: str
    pid: int
    server: str
    now: Usage
    base: int
    """Memory without any connection, by the cost of one."""
    by_memory: int
    """Connections for which its memory suffices before the monitor refuses."""
    by_files: int | None
    """The same of its open files; None without a limit."""
    files_limit: int

    @property
    def fits(self) -> int:
        return self.by_memory if self.by_files is None else min(self.by_memory, self.by_files)


@dataclass(frozen=True, slots=True)
class Proposal:
    """Limits that fit what the workers of one project may use."""

    max_per_worker: int
    """What each worker can hold, the weakest included."""
    max_connections: int
    """What all can hold while one of several restarts."""
    bound_by: str
    """``memory`` or ``files``."""
    files: int
    """The limit of open files with which a worker can use its memory."""


@dataclass(frozen=True, slots=True)
class Capacity:
    cost: Cost
    workers: tuple[WorkerCapacity, ...]
    proposal: Proposal


async def collect(settings: Settings, within: float) -> tuple[WorkerFootprint, ...]:
    """The workers that have told their footprint, each once. Raises what the ledger raises."""
    async with connected(open_ledger(settings), within) as ledger:
        readings = await ledger.read(tuple(settings.pools))
    workers = {worker.worker: worker for reading in readings for worker in reading.workers}
    return tuple(_told(workers[name], footprint) for name in sorted(workers) if (footprint := workers[name].footprint))


def _told(worker: WorkerReading, footprint: Footprint) -> WorkerFootprint:
    host, pid, _ = worker.worker.split(":")
    server = sizing.named(worker.server, footprint.implementation)
    return WorkerFootprint(host, int(pid), server, worker.silence, footprint)


def measured(workers: Iterable[WorkerFootprint]) -> Cost | None:
    """The cost of the connections beyond the first few of each worker; None if they are too few."""
    return _cost(((each.footprint.low, each.footprint.high) for each in workers), MEASURED, ENOUGH)


def opened(before: Iterable[WorkerFootprint], after: Iterable[WorkerFootprint]) -> Cost | None:
    """The cost of the connections that came between two readings of the same workers; None without any."""
    first = {(each.host, each.pid): each.footprint.now for each in before}
    pairs = [(first.get((each.host, each.pid)), each.footprint.now) for each in after]
    return _cost([(then, now) for then, now in pairs if then is not None], OPENED, 1)


def figure(workers: Iterable[WorkerFootprint]) -> Cost:
    """The greatest of the figures of the workers' servers, after messages."""
    server = max({worker.server for worker in workers}, key=lambda name: sizing.figure(name).spoken)
    return Cost(sizing.figure(server).spoken << 10, 1.0, server or "unknown server")


def capacity(workers: Sequence[WorkerFootprint], settings: Settings, cost: Cost | None = None) -> Capacity:
    """What these workers can hold at a cost, by default the measured one, or else the figure of their server.

    The workers of one host share its limit of memory evenly, after what other processes use of it.
    """
    cost = cost or measured(workers) or figure(workers)
    found = tuple(
        _worker(each, [near for near in workers if near.host == each.host], settings, cost) for each in workers
    )
    return Capacity(cost, found, _proposal(found, settings, cost))


def base_of(worker: WorkerFootprint, cost: Cost) -> int:
    """Memory of a worker without any connection."""
    low = worker.footprint.low
    return max(0, low.memory - cost.memory * low.connections)


def _cost(pairs: Iterable[tuple[Usage, Usage]], source: str, enough: int) -> Cost | None:
    """The growth from the first to the second usage by connection, of all workers that have gained some."""
    gained = [(low, high) for low, high in pairs if high.connections > low.connections]
    count = sum(high.connections - low.connections for low, high in gained)
    if count < enough:
        return None
    memory = sum(high.memory - low.memory for low, high in gained)
    files = sum(high.files - low.files for low, high in gained)
    return Cost(max(1, round(memory / count)), round(max(1.0, files / count), 2), source, count)


def _worker(told: WorkerFootprint, host: Sequence[WorkerFootprint], settings: Settings, cost: Cost) -> WorkerCapacity:
    """A worker among all of its host."""
    low = told.footprint.low
    base = base_of(told, cost)
    files = low.files - low.connections + _files_beside(settings)
    allowed = told.footprint.files_limit * _usable(settings, "descriptors")
    return WorkerCapacity(
        told.host, told.pid, told.server, told.footprint.now, base,
        by_memory=max(0, math.floor((_memory(host, settings) - base) / cost.memory)),
        by_files=max(0, math.floor((allowed - files) / cost.files)) if allowed else None,
        files_limit=told.footprint.files_limit,
    )  # fmt: skip


def _memory(host: Sequence[WorkerFootprint], settings: Settings) -> float:
    """Memory for one worker of a host, before its monitor refuses."""
    share = _usable(settings, "memory")
    footprints = [each.footprint for each in host]
    others = max(each.memory_used for each in footprints) - sum(each.now.memory for each in footprints)
    allowed = (min(each.memory_limit for each in footprints) * share - max(0, others)) / len(host)
    return min(allowed, settings.memory_limit * share) if settings.memory_limit else allowed


def _usable(settings: Settings, monitor: str) -> float:
    """The share of a resource that is used before this monitor refuses, at most :data:`SAFE`."""
    return min(SAFE, sizing.usable(settings, monitor))


def _files_beside(settings: Settings) -> int:
    """Open files for refused clients, pages and databases."""
    return sizing.SPARE + max(map(sizing.held_back, settings.pools.values()))


def _proposal(workers: tuple[WorkerCapacity, ...], settings: Settings, cost: Cost) -> Proposal:
    weakest = min(workers, key=lambda worker: worker.fits)
    by_memory = min(worker.by_memory for worker in workers)
    files = by_memory * cost.files + sizing.OPEN + _files_beside(settings)
    return Proposal(
        max_per_worker=weakest.fits,
        max_connections=weakest.fits * max(1, len(workers) - 1),
        bound_by="memory" if weakest.fits == weakest.by_memory else "files",
        files=sizing.rounded(files / _usable(settings, "descriptors")),
    )

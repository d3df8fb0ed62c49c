"""The state of all pools and workers as one frozen value, which every view, command and metric renders."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from statistics import median
from typing import Any

from .. import conf
from ..conf import PoolSettings, Settings
from ..conf.shares import classes
from ..core import levels
from ..core.agreement import GREATEST, differences, strictest
from ..core.counters import (
    ADMITTED,
    AGED,
    CALLS,
    CALLS_TOOK,
    CHANNELS_FULL,
    DELAYED,
    DRAINED,
    DRY,
    ERRORS,
    EVENTS_DROPPED,
    EVICTED,
    HEALED,
    MISSED,
    OUTLIVED,
    OVERDUE,
    PROMISED,
    REDEEMED,
    SHED,
    UNACCEPTED,
    faults_in,
    is_decision,
)
from ..core.levels import Level
from ..core.overrides import NOTHING_SET, Controls
from ..core.readings import Load, Reading, WorkerReading
from ..exceptions import LedgerError, LedgerUnavailable
from ..ledger import open_ledger
from ..ledger.base import LATELY

READ_TIMEOUT = 1.0
"""Seconds that reading the ledger may take; no handshake waits for it."""
SILENT_BEATS, SILENT_SECONDS = 2, 1
"""Heartbeats plus seconds of silence that a worker is allowed: one report may be lost or late."""
WORST_SHOWN = 3
SIDES_NAMED = 5
"""Workers named for each value of a setting in which workers differ."""


class Health(StrEnum):
    OK = "ok"
    SETTLING = "settling"
    """It started empty or lost data, and waits for the workers' reports before it grants freely."""
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class WorkerSnapshot:
    """One worker in one pool; times in seconds."""

    id: str
    host: str
    pid: int
    server: str
    held: int
    last_beat: float
    uptime: float
    load: tuple[Load, ...] = ()
    draining: bool = False
    faults: Mapping[str, int] = field(default_factory=dict)
    """Unexpected exceptions in its heartbeat and background tasks since it started, by kind."""
    silent: bool = False
    """Whether its last report is older than is allowed: it is blocked, stopped, gone, or cannot reach the ledger."""


@dataclass(frozen=True, slots=True)
class Side:
    """One value of a setting in which workers differ, and the workers that have it; None where it is unset."""

    value: float | None
    number: int
    """Number of workers; 0 when the last of them has gone but its lease still runs."""
    workers: tuple[str, ...]
    """The ids of the first few."""


@dataclass(frozen=True, slots=True)
class Second:
    """The handshakes decided, admitted or refused, in one second of Unix time."""

    at: int
    handshakes: int


@dataclass(frozen=True, slots=True)
class Connects:
    """The handshakes of the last five minutes, counted by the second in which the ledger heard of them."""

    total: int = 0
    median: float = 0.0
    """Median handshakes in one second."""
    worst: tuple[Second, ...] = ()
    """The seconds with the most handshakes, the busiest first."""
    refused: Mapping[str, int] = field(default_factory=dict)
    """Refused ones by reason, the most frequent first."""
    refused_at: int | None = None
    """Unix time of the latest second with a refusal; None without any."""


@dataclass(frozen=True, slots=True)
class LedgerCalls:
    """The workers' calls to the ledger so far: their number, how many failed, and the seconds that all took."""

    made: int = 0
    failed: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class PoolSnapshot:
    """One pool. ``share`` is held slots over the limit; it may exceed 1 after the limit was lowered."""

    name: str
    held: int
    limit: int
    free: int
    share: float
    warn_at: float
    level: Level
    admitted: int
    refused: Mapping[str, int]
    """By reason, the most frequent first."""
    shed: int
    workers: tuple[WorkerSnapshot, ...]
    connects: Connects = field(default_factory=Connects)
    faults: Mapping[str, int] = field(default_factory=dict)
    """Unexpected exceptions of all workers that ever reported, by kind, the most frequent first."""
    delayed: int = 0
    """Handshakes that were admitted and had to wait at the entrance."""
    promised: int = 0
    """Tickets given to refused clients: places in the line."""
    redeemed: int = 0
    """Handshakes that were admitted with a ticket whose time had come."""
    missed: int = 0
    """Handshakes whose ticket came too late."""
    unaccepted: int = 0
    """Connections refused because their consumer had not accepted by ``ACCEPT_DEADLINE``."""
    outlived: int = 0
    """Handlers cancelled after their client left: not accepted by then, or still running after ``DISCONNECT_GRACE``."""
    healed: int = 0
    """Repairs of damaged counts."""
    events_dropped: int = 0
    """Signals, mails and webhooks dropped because the queue was full."""
    channels_full: int = 0
    """Connections ended by a ``ChannelFull`` of their consumer."""
    calls: LedgerCalls = field(default_factory=LedgerCalls)
    classes: Mapping[str, int] = field(default_factory=dict)
    """Slots held by each class that has a share, and by exempt connections."""
    overdue: int = 0
    """Connections closed unauthenticated at their deadline."""
    configured: int = 0
    """The limit in the settings; ``limit`` is the one in force."""
    paused: bool = False
    dry_run: bool = False
    would_refuse: Mapping[str, int] = field(default_factory=dict)
    """Connections admitted by a dry run that would have been refused, by reason."""
    drained: int = 0
    aged: int = 0
    evicted: int = 0
    """Connections closed for a newer one under the same quota."""
    controls: Controls = NOTHING_SET
    """Overrides: what operators have set, with name and time."""
    alert: Level = Level.CALM
    """The level for alerts: it falls five percentage points below where it rises."""
    differs: Mapping[str, tuple[Side, ...]] = field(default_factory=dict)
    """Settings in which workers differ, by their names in :mod:`.core.agreement`; the strictest value is in force."""
    speed: float | None = None
    """Connections per second that the workers have lately taken, all together, as measured while connections had to
    wait at their entrance; None if unknown."""


@dataclass(frozen=True, slots=True)
class LedgerSnapshot:
    """The ledger's kind, address and health; ``error`` is None unless it is down."""

    kind: str
    address: str
    health: Health
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of all pools at ``taken`` (UTC); no pools when the ledger is down."""

    taken: datetime
    enabled: bool
    ledger: LedgerSnapshot
    pools: tuple[PoolSnapshot, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, ``taken`` in ISO 8601."""
        return {**asdict(self), "taken": self.taken.isoformat(timespec="milliseconds")}


async def collect(settings: Settings | None = None, within: float = READ_TIMEOUT) -> Snapshot:
    """Read the ledger over a connection of its own, within ``within`` seconds.

    A ledger that is down is part of the value and raises nothing.
    """
    settings = settings or conf.current()
    ledger = open_ledger(settings)
    names = tuple(settings.pools)
    readings: tuple[Reading, ...] = ()
    health, problem = Health.OK, None
    try:
        async with asyncio.timeout(within):
            readings = await ledger.read(names)
    except (LedgerError, TimeoutError) as error:
        health = Health.DOWN
        problem = str(error) or str(LedgerUnavailable(f"no answer within {within:g} s"))
    finally:
        await ledger.aclose()
    if any(reading.settling for reading in readings):
        health = Health.SETTLING
    return Snapshot(
        taken=datetime.now(UTC),
        enabled=settings.enabled,
        ledger=LedgerSnapshot(ledger.kind, ledger.address, health, problem),
        pools=tuple(
            _pool(settings.pools[name], reading, settings.heartbeat)
            for name, reading in zip(names, readings, strict=False)
        ),
    )


def _pool(pool: PoolSettings, reading: Reading, heartbeat: float) -> PoolSnapshot:
    held = sum(worker.held for worker in reading.workers)
    controls, counters = reading.controls, reading.counters
    configured = pool.max_connections if reading.limit is None else reading.limit
    limit = controls.limit.value if controls.limit else configured
    in_force = strictest(reading.settings.values())
    warn_at = in_force.get("warn_at", pool.warn_at)
    allowed = silence_allowed(in_force.get("heartbeat", 1000 * heartbeat) / 1000)
    return PoolSnapshot(
        name=pool.name,
        held=held,
        limit=limit,
        free=max(0, limit - held),
        share=held / limit if limit else 1.0,
        warn_at=warn_at,
        level=levels.level(held, limit, warn_at),
        admitted=counters.get(ADMITTED, 0),
        shed=counters.get(SHED, 0),
        delayed=counters.get(DELAYED, 0),
        promised=counters.get(PROMISED, 0),
        redeemed=counters.get(REDEEMED, 0),
        missed=counters.get(MISSED, 0),
        unaccepted=counters.get(UNACCEPTED, 0),
        outlived=counters.get(OUTLIVED, 0),
        healed=counters.get(HEALED, 0),
        events_dropped=counters.get(EVENTS_DROPPED, 0),
        faults=_most_first(faults_in(counters)),
        channels_full=counters.get(CHANNELS_FULL, 0),
        drained=counters.get(DRAINED, 0),
        aged=counters.get(AGED, 0),
        evicted=counters.get(EVICTED, 0),
        refused=_most_first({name: n for name, n in counters.items() if is_decision(name) and name != ADMITTED}),
        would_refuse=_most_first({name.removeprefix(DRY): n for name, n in counters.items() if name.startswith(DRY)}),
        workers=tuple(
            sorted(
                (_worker(each, allowed) for each in reading.workers),
                key=lambda worker: (worker.host, worker.pid, worker.id),
            )
        ),
        connects=_connects(reading),
        calls=LedgerCalls(counters.get(CALLS, 0), counters.get(ERRORS, 0), counters.get(CALLS_TOOK, 0) / 1000),
        classes=_classes(pool, reading),
        overdue=counters.get(OVERDUE, 0),
        configured=configured,
        paused=controls.paused is not None,
        dry_run=bool(controls.dry_run.value) if controls.dry_run else pool.dry_run,
        controls=replace(controls, drains=reading.drains),
        alert=reading.level,
        speed=round(sum(worker.speed for worker in reading.workers), 1) or None,
        differs={name: _sides(reading, name) for name in differences(reading.settings.values())},
    )


def _sides(reading: Reading, name: str) -> tuple[Side, ...]:
    """The values of a setting, the strictest first."""
    sides: dict[float | None, list[str]] = {numbers.get(name): [] for numbers in reading.settings.values()}
    for worker in reading.workers:
        if worker.settings in reading.settings:
            sides[reading.settings[worker.settings].get(name)].append(worker.worker)
    values = sorted((value for value in sides if value is not None), reverse=name in GREATEST)
    ordered = (*values, None) if None in sides else values
    return tuple(Side(value, len(sides[value]), tuple(sorted(sides[value])[:SIDES_NAMED])) for value in ordered)


def _most_first(counts: Mapping[str, int]) -> Mapping[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _classes(pool: PoolSettings, reading: Reading) -> Mapping[str, int]:
    held = Counter({each.name: 0 for each in classes(pool) if each.name} if pool.classify else {})
    for worker in reading.workers:
        held.update(worker.classes)
    return dict(held)


def _connects(reading: Reading) -> Connects:
    seconds = reading.seconds
    worst = sorted(seconds.items(), key=lambda item: (-item[1], -item[0]))[:WORST_SHOWN]
    return Connects(
        total=sum(seconds.values()),
        median=median([*seconds.values(), *[0] * (LATELY - len(seconds))]),
        worst=tuple(Second(at, handshakes) for at, handshakes in worst),
        refused=_most_first(reading.refused),
        refused_at=reading.refused_at,
    )


def silence_allowed(heartbeat: float) -> float:
    """Seconds without a report after which a worker counts as silent."""
    return SILENT_BEATS * heartbeat + SILENT_SECONDS


def _worker(reading: WorkerReading, allowed: float) -> WorkerSnapshot:
    host, pid, _ = reading.worker.split(":")
    return WorkerSnapshot(
        id=reading.worker,
        host=host,
        pid=int(pid),
        server=reading.server,
        held=reading.held,
        last_beat=round(reading.silence, 3),
        uptime=round(reading.uptime, 3),
        load=reading.load,
        draining=reading.draining,
        faults=_most_first(reading.faults),
        silent=reading.silence > allowed,
    )

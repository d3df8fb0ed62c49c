"""The state of all pools and workers as one frozen value, which every view, command and metric renders."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import accumulate
from statistics import median
from typing import TypeVar

from .. import conf
from ..conf import PoolSettings, Settings
from ..conf.shares import classes
from ..core import levels
from ..core.agreement import GREATEST, SITE, differences, sites, strictest
from ..core.counters import (
    ADMITTED,
    AGED,
    AUTHENTICATED,
    BOUNDS,
    CALL_TIMES,
    CALLS,
    CALLS_TOOK,
    CHANNELS_FULL,
    DATED,
    DELAYED,
    DRAINED,
    DRY,
    ERRORS,
    EVENTS_DROPPED,
    EVICTED,
    FAILING,
    HEALED,
    LAYER_FAILED,
    LOST,
    MISSED,
    OUTLIVED,
    OVERDUE,
    PASSED,
    PROMISED,
    REDEEMED,
    REFUSALS_HELD,
    SHED,
    UNACCEPTED,
    WAITED,
    WAITS,
    Counters,
    faults_in,
    is_decision,
)
from ..core.readings import Reading, WorkerReading
from ..exceptions import LedgerError
from ..ledger import connected, open_ledger
from ..ledger.base import LATELY
from ..ledger.newest import Place, Seen, newest
from .values import (
    Connects,
    Health,
    LedgerCalls,
    LedgerSnapshot,
    LostWorker,
    PoolSnapshot,
    Second,
    Side,
    Snapshot,
    Times,
    WorkerSnapshot,
)

Value = TypeVar("Value")

READ_TIMEOUT = 1.0
"""Seconds that reading the ledger may take; no handshake waits for it."""
SILENT_HEARTBEATS, SILENT_SECONDS = 2, 1
"""Heartbeats plus seconds of silence that a worker is allowed: one report may be lost or late."""
PER_WORKER = 0.002
"""Seconds that reading may take for each worker, beyond ``LEDGER_TIMEOUT``."""
WORST_SHOWN = 3


async def collect(settings: Settings | None = None, within: float = READ_TIMEOUT) -> Snapshot:
    """Read the ledger over a connection of its own, within ``within`` seconds, of which connecting is a part.

    A ledger that is down is part of the value and raises nothing.
    """
    settings = settings or conf.current()
    ledger = open_ledger(settings)
    names = tuple(settings.pools)
    readings: tuple[Reading, ...] = ()
    places = [(ledger.address, settings.prefix, name) for name in names]
    before = [newest.seen(place) for place in places]
    began = time.monotonic()
    health, problem = Health.OK, None
    try:
        async with connected(ledger, within):
            began = time.monotonic()
            readings = await ledger.read(names)
            took = time.monotonic() - began
    except LedgerError as error:
        health, problem, took = Health.DOWN, str(error), time.monotonic() - began
    readings = tuple(_counted(*each, settings.lease) for each in zip(places, readings, before, strict=False))
    pools = tuple(
        _pool(settings.pools[name], reading, settings.heartbeat) for name, reading in zip(names, readings, strict=False)
    )
    if health is Health.OK:
        health = _health(readings, pools, took, settings.ledger_timeout)
    return Snapshot(
        taken=datetime.now(UTC),
        enabled=settings.enabled,
        ledger=LedgerSnapshot(ledger.kind, ledger.address, health, problem, round(took, 3)),
        pools=pools,
    )


def _health(readings: Iterable[Reading], pools: Iterable[PoolSnapshot], took: float, allowed: float) -> Health:
    """The health of a ledger that was read in ``took`` seconds."""
    if any(reading.settling for reading in readings):
        return Health.SETTLING
    workers = [worker for pool in pools for worker in pool.workers]
    # The ledger has the reports of these workers, and they have not its replies.
    is_late = any(worker.failing and not worker.silent for worker in workers)
    return Health.LATE if is_late or is_slow(took, allowed, len(workers)) else Health.OK


def is_slow(took: float, allowed: float, workers: int) -> bool:
    """Whether a reading that ``took`` seconds is longer than a call may take, ``allowed`` being ``LEDGER_TIMEOUT``."""
    return took > allowed + PER_WORKER * workers


def _counted(place: Place, reading: Reading, before: Seen, lease: float) -> Reading:
    """The reading without its counters, if this process has seen later ones: they would seem to have started anew."""
    is_older = newest.is_older(place, reading.since, reading.version, time.monotonic(), lease, before)
    return replace(reading, counters={}, since=None) if is_older else reading


def _pool(pool: PoolSettings, reading: Reading, heartbeat: float) -> PoolSnapshot:
    held = sum(worker.held for worker in reading.workers) + reading.elsewhere.held
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
        refusals_held=counters.get(REFUSALS_HELD, 0),
        passed=counters.get(PASSED, 0),
        unaccepted=counters.get(UNACCEPTED, 0),
        outlived=counters.get(OUTLIVED, 0),
        healed=counters.get(HEALED, 0),
        lost=counters.get(LOST, 0),
        lost_workers=tuple(LostWorker.of(name, at) for name, at in reading.gone.items()),
        latest={DATED[name]: at for name, at in reading.latest.items() if name in DATED},
        events_dropped=counters.get(EVENTS_DROPPED, 0),
        faults=_most_first(faults_in(counters)),
        channels_full=counters.get(CHANNELS_FULL, 0),
        layer_failed=counters.get(LAYER_FAILED, 0),
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
        calls=_calls(counters),
        call_times=_times(counters, CALL_TIMES, CALLS_TOOK),
        waits=_times(counters, WAITS, WAITED),
        classes=_classes(pool, reading),
        overdue=counters.get(OVERDUE, 0),
        none_authenticated=_none_authenticated(reading),
        configured=configured,
        paused=controls.paused is not None,
        dry_run=bool(controls.dry_run.value) if controls.dry_run else pool.dry_run,
        controls=replace(controls, drains=reading.drains),
        alert=reading.level,
        since=reading.since,
        speed=round(sum(worker.speed for worker in reading.workers), 1) or None,
        differs=_differs(reading),
        site=_only(sites(reading.settings.values())),
        settings=_only(tuple(reading.settings)),
        elsewhere=reading.elsewhere,
        reserve=sum(worker.reserve for worker in reading.workers),
        now=reading.now,
    )


def _none_authenticated(reading: Reading) -> bool:
    """Workers remember it through a loss of the pool's counters."""
    all_counters = (reading.counters, *(worker.counters for worker in reading.workers))
    is_due = any(reading.counters.get(name) for name in (OVERDUE, f"{DRY}{OVERDUE}"))
    return is_due and not any(counters.get(AUTHENTICATED) for counters in all_counters)


def _only(values: tuple[Value, ...]) -> Value | None:
    return values[0] if len(values) == 1 else None


def _differs(reading: Reading) -> dict[str, tuple[Side, ...]]:
    """The settings in which workers differ; an unknown site is no difference."""
    found = {name: _sides(reading, name) for name in differences(reading.settings.values())}
    if SITE in found:
        known = sites(reading.settings.values())
        found[SITE] = tuple(side for side in found[SITE] if side.value in known)
    return {name: sides for name, sides in found.items() if len(sides) > 1}


def _calls(counters: Counters) -> LedgerCalls:
    return LedgerCalls(counters.get(CALLS, 0), counters.get(ERRORS, 0), counters.get(CALLS_TOOK, 0) / 1000)


def _times(counters: Counters, names: Sequence[str], total: str) -> Times:
    sums = list(accumulate(counters.get(name, 0) for name in names))
    within = {f"{bound:g}": number for bound, number in zip(BOUNDS, sums, strict=True)}
    return Times(sums[-1], counters.get(total, 0) / 1000, within)


def _sides(reading: Reading, name: str) -> tuple[Side, ...]:
    """The values of a setting, the strictest first."""
    sides: dict[float | None, list[str]] = {numbers.get(name): [] for numbers in reading.settings.values()}
    for worker in reading.workers:
        if worker.settings in reading.settings:
            sides[reading.settings[worker.settings].get(name)].append(worker.worker)
    values = sorted((value for value in sides if value is not None), reverse=name in GREATEST)
    ordered = (*values, None) if None in sides else values
    return tuple(Side.of(value, sorted(sides[value])) for value in ordered)


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
    return SILENT_HEARTBEATS * heartbeat + SILENT_SECONDS


def _worker(reading: WorkerReading, allowed: float) -> WorkerSnapshot:
    host, pid, _ = reading.worker.split(":")
    return WorkerSnapshot(
        id=reading.worker,
        host=host,
        pid=int(pid),
        server=reading.server,
        held=reading.held,
        silence=round(reading.silence, 3),
        uptime=round(reading.uptime, 3),
        load=reading.load,
        draining=reading.draining,
        faults=_most_first(reading.faults),
        calls=_calls(reading.counters),
        failing=reading.counters.get(FAILING, 0),
        shed=reading.counters.get(SHED, 0),
        layer_failed=reading.counters.get(LAYER_FAILED, 0),
        accepting=reading.work.accepting,
        jobs_waiting=reading.work.jobs,
        threads_busy=reading.work.busy,
        settings=reading.settings,
        silent=reading.silence > allowed,
        release=reading.release,
        reserve=reading.reserve,
    )

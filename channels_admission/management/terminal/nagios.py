"""``ws_status --check``: one line by the Monitoring Plugins guidelines, for Nagios, Icinga and others.

The worst pool decides. The performance data has an entry ``'pool NAME'=held;warning;critical;0;limit`` per pool.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from ...ledger.memory import MemoryLedger
from ...status.snapshot import Health, PoolSnapshot, Snapshot
from .status import plain, problem

CRITICAL_AT = 90.0
"""Default per cent of the limit from which a pool is critical."""


class State(IntEnum):
    """The result of a check, and its exit code. UNKNOWN has the highest number but is not the worst."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class Percentages:
    """Per cent of the limit; ``warning`` defaults to each pool's ``WARN_AT``."""

    warning: float | None = None
    critical: float = CRITICAL_AT

    def of(self, pool: PoolSnapshot) -> tuple[float, float]:
        """Slots from which the pool is in warning, and from which it is critical."""
        warning = 100 * pool.warn_at if self.warning is None else self.warning
        return (round(pool.limit * min(warning, self.critical) / 100, 3), round(pool.limit * self.critical / 100, 3))


@dataclass(frozen=True, slots=True)
class Result:
    """The worst state, and the text of the line."""

    state: State
    text: str

    @property
    def line(self) -> str:
        return f"ADMISSION {self.state.name} - {self.text}"


def unknown(text: str) -> Result:
    """The state is unknown, for the reason in ``text``."""
    return Result(State.UNKNOWN, plain(text).replace("|", "/"))


def check(snapshot: Snapshot, thresholds: Percentages) -> Result:
    """Compare the pools with the thresholds."""
    if snapshot.ledger.health is Health.DOWN:
        return unknown(problem(snapshot.ledger))
    if not snapshot.enabled:
        return unknown("admission is switched off, and nothing is counted")
    if snapshot.ledger.kind == MemoryLedger.kind:
        return unknown("the memory ledger keeps the counts inside each worker")
    states = {pool.name: _state(pool, thresholds) for pool in snapshot.pools}
    worst = max(states.values())
    alike = [pool for pool in snapshot.pools if states[pool.name] is worst]
    fullest = max(alike, key=lambda pool: pool.share)
    shown = alike if worst is not State.OK else [fullest]
    data = " ".join(_data(pool, thresholds) for pool in snapshot.pools)
    return Result(worst, f"{_described(shown)} | {data}")


def _state(pool: PoolSnapshot, thresholds: Percentages) -> State:
    warning, critical = thresholds.of(pool)
    if pool.held >= critical:
        return State.CRITICAL
    return State.WARNING if pool.held >= warning or _is_closed(pool) else State.OK


def _is_closed(pool: PoolSnapshot) -> bool:
    """Whether every new connection is refused, even with free slots."""
    return _drains(pool) or (pool.paused and not pool.dry_run)


def _drains(pool: PoolSnapshot) -> bool:
    """Whether all workers drain."""
    return bool(pool.workers) and all(worker.draining for worker in pool.workers)


def _described(pools: Iterable[PoolSnapshot]) -> str:
    return ", ".join(
        f"pool {pool.name}: {pool.held} of {pool.limit} slots held ({int(100 * pool.share)} %){_orders(pool)}"
        for pool in pools
    )


def _orders(pool: PoolSnapshot) -> str:
    """What makes a pool refuse or admit every connection."""
    words = {"paused": pool.paused, "all workers draining": _drains(pool), "dry run": pool.dry_run}
    return "".join(f", {word}" for word, holds in words.items() if holds)


def _data(pool: PoolSnapshot, thresholds: Percentages) -> str:
    warning, critical = thresholds.of(pool)
    return f"'pool {pool.name}'={pool.held};{warning:g};{critical:g};0;{pool.limit}"

"""``ws_status --check``: one line for Nagios, Icinga and their like, by the Monitoring Plugins guidelines.

The worst pool decides. Performance data has each pool, ``'pool NAME'=held;warning;critical;0;limit``.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from ..ledger.memory import MemoryLedger
from ..status.snapshot import Health, PoolSnapshot, Snapshot
from .status import plain, problem

CRITICAL_AT = 90.0
"""Per cent of the limit from which a pool is critical, unless told otherwise."""


class State(IntEnum):
    """What a check finds; its number is the exit code, and UNKNOWN is the worst by no means."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Per cent of the limit; without ``warning`` each pool's own ``WARN_AT``."""

    warning: float | None = None
    critical: float = CRITICAL_AT

    def of(self, pool: PoolSnapshot) -> tuple[float, float]:
        """Slots from which the pool is a warning, and from which it is critical."""
        warning = 100 * pool.warn_at if self.warning is None else self.warning
        return (round(pool.limit * min(warning, self.critical) / 100, 3), round(pool.limit * self.critical / 100, 3))


@dataclass(frozen=True, slots=True)
class Finding:
    """The state of all that was checked, and the line that tells it."""

    state: State
    text: str

    @property
    def line(self) -> str:
        return f"ADMISSION {self.state.name} - {self.text}"


def unknown(text: str) -> Finding:
    """Nothing can be said, for the reason given."""
    return Finding(State.UNKNOWN, plain(text).replace("|", "/"))


def check(snapshot: Snapshot, thresholds: Thresholds) -> Finding:
    """The pools of the snapshot against the thresholds."""
    if snapshot.ledger.health is Health.DOWN:
        return unknown(problem(snapshot.ledger))
    if not snapshot.enabled:
        return unknown("admission is switched off, and nothing is counted")
    if snapshot.ledger.kind == MemoryLedger.kind:
        return unknown("the counts are in the memory of the workers, and cannot be seen from here")
    states = {pool.name: _state(pool, thresholds) for pool in snapshot.pools}
    worst = max(states.values())
    told = [pool for pool in snapshot.pools if states[pool.name] is worst]
    fullest = max(told, key=lambda pool: pool.share)
    shown = told if worst is not State.OK else [fullest]
    data = " ".join(_data(pool, thresholds) for pool in snapshot.pools)
    return Finding(worst, f"{_told(shown)} | {data}")


def _state(pool: PoolSnapshot, thresholds: Thresholds) -> State:
    warning, critical = thresholds.of(pool)
    if pool.held >= critical:
        return State.CRITICAL
    return State.WARNING if pool.held >= warning or _is_closed(pool) else State.OK


def _is_closed(pool: PoolSnapshot) -> bool:
    """Whether nobody is let in whatever there is room for."""
    return _drains(pool) or (pool.paused and not pool.dry_run)


def _drains(pool: PoolSnapshot) -> bool:
    """Whether every worker there is drains."""
    return bool(pool.workers) and all(worker.draining for worker in pool.workers)


def _told(pools: Iterable[PoolSnapshot]) -> str:
    return ", ".join(
        f"pool {pool.name}: {pool.held} of {pool.limit} slots held ({int(100 * pool.share)} %){_orders(pool)}"
        for pool in pools
    )


def _orders(pool: PoolSnapshot) -> str:
    """What makes a pool let nobody in, or everybody, in words."""
    told = {"paused": pool.paused, "all workers draining": _drains(pool), "dry run": pool.dry_run}
    return "".join(f", {words}" for words, holds in told.items() if holds)


def _data(pool: PoolSnapshot, thresholds: Thresholds) -> str:
    warning, critical = thresholds.of(pool)
    return f"'pool {pool.name}'={pool.held};{warning:g};{critical:g};0;{pool.limit}"

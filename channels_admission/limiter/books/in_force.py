"""What is in force for one worker's pool: its settings, those of other workers, and what operators have set. Pure."""

from dataclasses import replace

from ...conf import PoolSettings
from ...core.agreement import numbers_of
from ...core.counters import Reason
from ...core.overrides import NOTHING_SET


class InForce:
    """The settings and overrides by which a worker decides, as far as it has heard."""

    def __init__(self, pool: PoolSettings) -> None:
        self.pool = pool
        self.terms = self.own_terms = pool.terms
        self.settings = ""
        """The settings in force, where they are not this worker's own, as text."""
        self._limit = pool.max_connections
        self._apply()
        self.leaving = False
        """Whether balancers should send it no new connections: from ``DRAIN_DELAY`` before a drain on."""
        self.draining = False
        """Whether it takes no new connections any more."""
        self.controls = NOTHING_SET
        """What operators have set."""

    @property
    def limit(self) -> int:
        """Slots in the pool: what an operator has set, as far as this worker has heard, or else the settings."""
        return self.controls.limit.value if self.controls.limit else self._limit

    @property
    def dry_run(self) -> bool:
        """Whether no client is refused, by an override or else by the settings."""
        return bool(self.controls.dry_run.value) if self.controls.dry_run else self.pool.dry_run

    @property
    def closed(self) -> Reason | None:
        """Why no connection is admitted even if there is room."""
        if self.draining:
            return Reason.DRAINING
        return Reason.PAUSED if self.controls.paused else None

    def adopt(self, settings: str) -> None:
        """Decide by the settings in force, where other workers have others; again by the own ones where none has."""
        in_force = numbers_of(settings)
        self.settings = settings
        self._limit = int(in_force.get("limit", self.pool.max_connections))
        rate, burst = in_force.get("rate"), in_force.get("burst", 1)
        self.terms = replace(self.own_terms, rate=rate, burst=int(burst)) if rate else self.own_terms
        self._apply()

    def _apply(self) -> None:
        self.needs_grants = bool(self.terms.rate or self.pool.shares)
        """Whether each admission needs a grant of the ledger, and not only a slot that is counted."""
        self.starts_slowly = bool(self.terms.rate) and self.terms.slow_start > 0
        """Whether an empty pool is entered slowly."""

"""What a memory ledger keeps of one pool."""

from collections import Counter
from dataclasses import dataclass, field, replace

from ...core.counters import AT, DATA_LOST, Reason
from ...core.herd.rate import Pace
from ...core.overrides import NOTHING_SET, Controls, Drain
from ...core.protocol import Neighbour, Report, Terms
from ...core.quotas.attempts import Buckets
from ..base import LEASES_PER_CALL, REAPED_PER_CALL
from ..history import Rings
from .agreement import Agreement
from .claims import Own, PoolClaims
from .clock import Clock
from .levels import Levels
from .tickets import Redeemed


@dataclass(slots=True)
class Entry:
    report: Report
    held: int
    reserve: int
    """Slots of ``held`` that no connection holds."""
    expires: int
    """When its lease ends, in milliseconds of the pool's clock."""
    seen: float
    settings: str
    """The worker's own, as text."""
    own: Own
    """Its claims."""
    classes: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class StoredPool:
    entries: dict[str, Entry] = field(default_factory=dict)
    """The workers, in the order in which their leases are looked at."""
    counters: Counter[str] = field(default_factory=Counter)
    since: float | None = None
    """Unix time since which they count; None before the first report."""
    claims: PoolClaims = field(default_factory=PoolClaims)
    attempts: Buckets = field(default_factory=Buckets)
    version: int = 0
    clock: Clock = field(default_factory=Clock)
    pace: Pace = field(default_factory=lambda: Pace(0.0, Terms()))
    redeemed: Redeemed = field(default_factory=Redeemed)
    past: Rings = field(default_factory=Rings)
    controls: Controls = NOTHING_SET
    levels: Levels = field(default_factory=Levels)
    settings: Agreement = field(default_factory=Agreement)
    limit: int | None = None
    """By the settings in force."""

    @property
    def reserve(self) -> int:
        """Slots that are counted and that no connection holds."""
        return sum(each.reserve for each in self.entries.values())

    def stamp(self, drain: Drain) -> Drain:
        """A drain with the version and the clock at which it is ordered, if that is now."""
        return drain if drain.version is not None else replace(drain, version=self.version, clock=self.clock.time)

    def count_anew(self, now: float) -> None:
        """Begin all counters at 0, after a loss of data."""
        self.counters.clear()
        self.counters[AT + DATA_LOST] = int(now)
        self.since = max(now, (self.since or 0.0) + 0.001)

    def shut(self, total: int, limit: int, own: int, allowance: int) -> Reason | None:
        """Why a worker that has ``own`` slots of its ``allowance`` would refuse a handshake for want of one now."""
        if self.controls.paused:
            return Reason.PAUSED
        if total >= limit:
            return Reason.FULL
        return Reason.SETTLING if self.clock.is_settling and own >= allowance else None

    def reap(self, report: Report) -> list[str]:
        """Forget the workers whose lease has run out, and those of this host whose process is gone; tell which."""
        gone = {name for name in (*self._dead(), *report.gone) if name in self.entries and name != report.worker}
        for name in sorted(gone):
            self.forget(name)
        return sorted(gone)

    def _dead(self) -> list[str]:
        """Look at the leases of the first workers, which are the last from now on: those whose lease has run out."""
        names, dead = list(self.entries), list[str]()
        for place, name in enumerate(names[: LEASES_PER_CALL + REAPED_PER_CALL]):
            if len(dead) == REAPED_PER_CALL or (place >= LEASES_PER_CALL and not dead):
                break
            entry = self.entries[name] = self.entries.pop(name)
            if entry.expires <= self.clock.time:
                dead.append(name)
        return dead

    def forget(self, worker: str) -> None:
        entry = self.entries.pop(worker, None)
        if entry is not None:
            self.claims.bury(worker, entry.own)

    def neighbours(self, report: Report) -> tuple[Neighbour, ...]:
        return tuple(
            Neighbour(name, entry.report.born)
            for name, entry in self.entries.items()
            if name != report.worker and entry.report.host == report.host
        )

"""Read the ledger from a synchronous view, and remember the last snapshot that succeeded."""

from dataclasses import dataclass

from asgiref.sync import async_to_sync

from .. import conf
from ..conf import Settings
from .snapshot import collect
from .values import Health, Snapshot


@dataclass(frozen=True, slots=True)
class Look:
    """The snapshot taken now, and the newest one with numbers: the same object unless the ledger is down."""

    now: Snapshot
    numbers: Snapshot | None
    """None when the ledger is down and this process has never read it with these settings."""

    @property
    def is_stale(self) -> bool:
        return self.numbers is not self.now

    @property
    def age(self) -> float | None:
        """Seconds since the numbers were taken."""
        return None if self.numbers is None else (self.now.taken - self.numbers.taken).total_seconds()


_remembered: tuple[Settings, Snapshot] | None = None


def look() -> Look:
    """Collect a snapshot, in at most :data:`~.status.snapshot.READ_TIMEOUT` seconds."""
    global _remembered
    settings = conf.current()
    now = async_to_sync(collect)(settings)
    if now.ledger.health is not Health.DOWN:
        _remembered = settings, now
        return Look(now, now)
    if _remembered is not None and _remembered[0] is settings:
        return Look(now, _remembered[1])
    return Look(now, None)

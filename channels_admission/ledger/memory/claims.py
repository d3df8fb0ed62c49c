"""Slots held by key: the pool's together and each worker's own, and those of workers that are forgotten."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from ...core.protocol import Key
from ...core.quotas.holders import Holders
from ..base import SWEPT_PER_CALL


@dataclass(slots=True)
class Own:
    """The claims of one worker."""

    epoch: int
    since: int
    """The report that began them."""
    counts: dict[Key, int] = field(default_factory=dict)


@dataclass(slots=True)
class PoolClaims:
    """A worker's claims count while they are of the pool's epoch. Where claims were lost, a new one begins, and all
    workers tell their claims again."""

    epoch: int = 0
    sums: Counter[Key] = field(default_factory=Counter)
    dead: dict[str, dict[Key, int]] = field(default_factory=dict)
    """The claims of forgotten workers that are still to be given back."""
    holders: Holders = field(default_factory=Holders)

    @property
    def heir(self) -> str:
        """The dead worker whose claims are given back next: the last that died."""
        return next(reversed(self.dead), "")

    def start_over(self) -> None:
        """Begin a new epoch."""
        self.epoch += 1
        self.sums, self.dead, self.holders = Counter(), {}, Holders()

    def is_current(self, own: Own | None) -> bool:
        return own is not None and own.epoch == self.epoch

    def count(self, own: Own, claims: Iterable[tuple[Key, int]]) -> None:
        """Let a worker's claims be those that it says, and the sums follow; under an empty key nothing is kept."""
        _count(self.sums, own.counts, claims)

    def bury(self, worker: str, own: Own) -> None:
        """Forget a worker. Its claims stay counted until they are given back."""
        if own.counts:
            self.dead[worker] = own.counts if self.is_current(own) else {}
            self.holders.bury(worker)
        else:
            self.holders.forget(worker)

    def sweep(self, worker: str) -> tuple[Key, ...]:
        """Give back claims of a dead worker whose turn it is; the keys under which fewer are counted now."""
        if not worker or worker != self.heir:
            return ()
        own = self.dead[worker]
        keys = tuple(own)[:SWEPT_PER_CALL]
        _count(self.sums, own, [(key, 0) for key in keys])
        self.holders.give_back(worker, keys)
        if not own:
            del self.dead[worker]
            self.holders.forget(worker)
        return keys


def _count(sums: Counter[Key], own: dict[Key, int], claims: Iterable[tuple[Key, int]]) -> None:
    for key, count in list(claims):
        sums[key] += count - own.get(key, 0)
        own[key] = count
        for counts in (sums, own):
            if not counts[key]:
                del counts[key]

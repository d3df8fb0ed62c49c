"""What a memory ledger keeps of one pool."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from ...core import agreement, levels
from ...core.agreement import numbers_of, strictest
from ...core.attempts import Buckets
from ...core.counters import Reason
from ...core.holders import Holders
from ...core.levels import Edge, Level
from ...core.overrides import EVERYBODY, NOTHING_SET, Controls, Drain
from ...core.protocol import Key, Neighbour, Report
from ...core.rate import Pace
from ..base import EDGES_KEPT, REAPED_PER_CALL, SWEPT_PER_CALL
from ..history import Rings
from .tickets import Redeemed


@dataclass(slots=True)
class Entry:
    report: Report
    held: int
    expires: int
    """When its lease ends, milliseconds of the pool's clock."""
    seen: float
    since: int
    """The report that began its claims."""
    claims: dict[Key, int] = field(default_factory=dict)
    classes: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Pool:
    entries: dict[str, Entry] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    claims: Counter[Key] = field(default_factory=Counter)
    dead: dict[str, dict[Key, int]] = field(default_factory=dict)
    """The claims of forgotten workers that are still to be given back."""
    attempts: Buckets = field(default_factory=Buckets)
    holders: Holders = field(default_factory=Holders)
    version: int = 0
    milliseconds: int = 0
    """The pool's clock, in whole milliseconds as Redis keeps it."""
    began: int = 0
    """Its time at the first report."""
    real: int = 0
    pace: Pace | None = None
    redeemed: Redeemed = field(default_factory=Redeemed)
    past: Rings = field(default_factory=Rings)
    controls: Controls = NOTHING_SET
    level: Level = Level.CALM
    edges: list["Telling"] = field(default_factory=list)
    settings: dict[str, int] = field(default_factory=dict)
    """Those that workers have lately had, as text, and until when by the pool's clock."""
    limit: int | None = None
    """By the settings in force."""

    def stamp(self, drain: Drain) -> Drain:
        """A drain with the version and the clock at which it is ordered, if that is now."""
        return drain if drain.version is not None else replace(drain, version=self.version, clock=self.milliseconds)

    @property
    def clock(self) -> float:
        """Seconds since the pool began."""
        return (self.milliseconds - self.began) / 1000

    @property
    def heir(self) -> str:
        """The dead worker whose claims are given back next: the last that died."""
        return next(reversed(self.dead), "")

    @property
    def in_force(self) -> dict[str, float]:
        """The strictest of the settings; none before the first report."""
        return strictest(map(numbers_of, self.settings))

    def merge(self) -> None:
        """Let the two settings that end first become one, the strictest of both."""
        first, second = sorted(self.settings, key=self.settings.__getitem__)[:2]
        ends = max(self.settings.pop(first), self.settings.pop(second))
        merged = strictest(map(numbers_of, (first, second)))
        self.settings[agreement.text(merged)] = ends

    def shut(self, total: int, limit: int) -> Reason | None:
        """Why a handshake would be refused now."""
        if self.controls.paused:
            return Reason.PAUSED
        return Reason.FULL if total >= limit else None

    def tell_edges(self, report: Report, total: int, limit: int) -> tuple[Edge, ...]:
        """What this report's worker is to tell of: what it brought about, and what nobody else can tell any more."""
        told = [each for each in self.edges if each.worker == report.worker and report.version >= each.version]
        self.edges = [each for each in self.edges if each not in told]
        before, self.level = self.level, levels.alert(total, limit, report.warn_at, self.level)
        if self.level is not before:
            self.edges.append(Telling(0, Edge(before, self.level, total, limit), None))
        del self.edges[:-EDGES_KEPT]
        ours = [each for each in self.edges if each.worker == report.worker or each.worker not in self.entries]
        teller = report.worker if report.worker in self.entries else None
        for each in ours:
            each.version, each.worker = self.version, teller
        return tuple(each.edge for each in ours) if teller else ()

    def is_over(self, drain: Drain, heard_by_all: int) -> bool:
        """Whether nobody is left to obey a drain, with nobody draining."""
        if heard_by_all < drain.clock <= self.milliseconds:
            return False
        return drain.target == EVERYBODY or (":" in drain.target and drain.target not in self.entries)

    def reap(self, report: Report) -> None:
        dead = [name for name, entry in self.entries.items() if entry.expires <= self.milliseconds]
        known_gone = [name for name in report.gone if name in self.entries]
        for name in sorted(dead[:REAPED_PER_CALL] + known_gone):
            if name != report.worker:
                self.forget(name)

    def forget(self, worker: str) -> None:
        entry = self.entries.pop(worker, None)
        if entry is not None and entry.claims:
            self.dead[worker] = entry.claims
            self.holders.bury(worker)
        elif entry is not None:
            self.holders.forget(worker)

    def sweep(self, worker: str) -> tuple[Key, ...]:
        """Give back claims of a dead worker whose turn it is; the keys under which fewer are counted now."""
        if not worker or worker != self.heir:
            return ()
        own = self.dead[worker]
        keys = tuple(own)[:SWEPT_PER_CALL]
        count(self.claims, own, [(key, 0) for key in keys])
        self.holders.give_back(worker, keys)
        if not own:
            del self.dead[worker]
            self.holders.forget(worker)
        return keys

    def neighbours(self, report: Report) -> tuple[Neighbour, ...]:
        return tuple(
            Neighbour(name, entry.report.born)
            for name, entry in self.entries.items()
            if name != report.worker and entry.report.home == report.home
        )

    def end_orders(self, total: int, limit: int, lease: int) -> None:
        """Let go of what is done: see the contract. ``lease`` is in milliseconds."""
        controls, heard_by_all = self.controls, self.milliseconds - lease
        if controls.limit and controls.limit.over is not None and total <= limit:
            controls = replace(controls, limit=replace(controls.limit, over=None))
        if not any(entry.report.draining for entry in self.entries.values()):
            left = (each for each in controls.drains if not self.is_over(each, heard_by_all))
            controls = replace(controls, drains=tuple(left))
        if controls != self.controls:
            self.controls = replace(controls, version=controls.version + 1)

    def advance(self, now: int, most: int) -> None:
        """Let the pool's clock follow a real one, at most ``most`` at a time; all in milliseconds."""
        if not self.real:
            self.milliseconds = self.real = self.began = now
        self.milliseconds += min(max(now - self.real, 0), most)
        self.real = now


@dataclass(slots=True)
class Grant:
    """What one report is given."""

    slots: int
    refused: int
    """Handshakes that get a retry time of the schedule, and those with tickets that keep their place."""
    shortfall: Reason | None
    shown: tuple[int, ...] = ()
    """The handshakes with tickets that are granted."""
    unserved: frozenset[int] = frozenset()
    """Those that are refused, for a reason that time mends."""
    classes: dict[str, int] = field(default_factory=dict)
    verdicts: tuple[str, ...] = ()
    waits: tuple[float, ...] = ()


@dataclass(slots=True)
class Telling:
    """An edge that is to be told, by whom, and the version of the answer that said so."""

    version: int
    edge: Edge
    worker: str | None


def count(sums: Counter[Key], own: dict[Key, int], claims: Iterable[tuple[Key, int]]) -> None:
    """Let a worker's claims be those that it says, and the sums follow; of nobody no key is left."""
    for key, count in list(claims):
        sums[key] += count - own.get(key, 0)
        own[key] = count
        for counts in (sums, own):
            if not counts[key]:
                del counts[key]

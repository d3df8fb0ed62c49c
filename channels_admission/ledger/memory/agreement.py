"""The settings that the workers of a pool have lately had, and the strictest of them, which are in force."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from ...core import agreement
from ...core.agreement import LONGEST, MOST_SETTINGS, Numbers, differences, numbers_of, strictest
from ...core.protocol import Report
from ...core.quotas.shares import Bound
from ..base import SETTLING


@dataclass(frozen=True, slots=True)
class Said:
    """What a report says of settings, as text."""

    own: str
    in_force: str
    """Those of the last reply, where they differed."""
    is_last: bool
    """Whether the worker's own settings no longer count soon."""
    grace: float
    """Heartbeats for which they count then."""


@dataclass(slots=True)
class Agreement:
    """All settings as text; a settings text counts until a lease after the last report of a worker that has them."""

    ends: dict[str, int] = field(default_factory=dict)
    """Until when each counts, in milliseconds of the pool's clock."""
    slowest: int = 0
    """The slowest heartbeat of all workers, in milliseconds."""
    is_slower: bool = False
    """Whether the last report was the first one of a worker with a slower heartbeat than the others."""

    def fastest(self, own: str) -> int:
        """The shortest heartbeat of all workers, in milliseconds."""
        return min(int(_numbers(text)["heartbeat"]) for text in (own, *self.ends))

    @property
    def in_force(self) -> dict[str, float]:
        """The strictest of the settings; none before the first report."""
        return strictest(map(numbers_of, self.ends))

    def differing(self, own: str) -> str:
        """The settings in force, where they are not a worker's ``own``."""
        if [*self.ends] == [own]:
            return ""
        in_force = self.in_force
        return agreement.text(in_force) if differences((_numbers(own), in_force)) else ""

    def agree(self, said: Said, now: int, *, is_lost: bool) -> None:
        """Let the settings of a report count at this time of the pool's clock. A pool that has lost its data also
        counts those that the worker remembers."""
        own, heartbeat = _numbers(said.own), _heartbeat(said.own)
        if [*self.ends] == [said.own] and not said.in_force:
            self._renew(said, now, heartbeat)
            return
        was, others = self._others(said.own, now, is_lost=is_lost)
        if is_lost and _is_whole(said.in_force):
            in_force = _numbers(said.in_force)
            ends = now + round(min(SETTLING * in_force["heartbeat"], in_force["lease"]))
            others[said.in_force] = max(ends, others.get(said.in_force, 0))
        slowest = max(map(_heartbeat, others), default=0)
        self.is_slower = bool(others) and heartbeat > slowest and was <= now
        self.slowest = max(slowest, heartbeat)
        ends = min(was, now + round(said.grace * self.slowest)) if said.is_last else now + int(own["lease"])
        self.ends = others if others and ends <= now else {**others, said.own: ends}
        while len(self.ends) > MOST_SETTINGS:
            self._merge()

    def _renew(self, said: Said, now: int, heartbeat: int) -> None:
        """All workers have the same settings, which are renewed four times in a heartbeat at the most, as in Redis."""
        was, ends = self.ends[said.own], now + int(_numbers(said.own)["lease"])
        if said.is_last:
            ends = min(was, now + round(said.grace * heartbeat))
        elif abs(ends - was) < heartbeat / 4:
            ends = was
        self.ends, self.slowest, self.is_slower = {said.own: ends}, heartbeat, False

    def _others(self, own: str, now: int, *, is_lost: bool) -> tuple[int, dict[str, int]]:
        """Until when a worker's ``own`` settings counted, and the settings of others that still count."""
        ends = {
            text: now + round(SETTLING * _heartbeat(text)) if is_lost else min(ends, now + int(_numbers(text)["lease"]))
            for text, ends in self.ends.items()
        }
        was = ends.pop(own, now)
        return was, {text: ends for text, ends in ends.items() if ends > now}

    def _merge(self) -> None:
        """Let the two settings that end first become one, the strictest of both."""
        first, second = sorted(self.ends, key=self.ends.__getitem__)[:2]
        ends = max(self.ends.pop(first), self.ends.pop(second))
        self.ends[agreement.text(strictest(map(numbers_of, (first, second))))] = ends


@lru_cache(64)
def _numbers(text: str) -> Numbers:
    return numbers_of(text)


def _heartbeat(text: str) -> int:
    return int(_numbers(text)["heartbeat"])


def _is_whole(text: str) -> bool:
    """Whether a text that a worker remembers has what all settings have."""
    return 0 < len(text) <= LONGEST and {"limit", "warn_at", "lease", "heartbeat"} <= set(_numbers(text))


def narrowed(report: Report, in_force: Mapping[str, float]) -> Report:
    """The report with the settings in force instead of its own."""
    rate = in_force.get("rate")
    terms = replace(report.terms, rate=rate, burst=int(in_force["burst"])) if rate else report.terms
    fair = report.fair
    if fair is not None:
        shares = (min(each.share, in_force.get(f"share:{each.name}", each.share)) for each in fair.classes)
        classes = tuple(replace(each, share=share) for each, share in zip(fair.classes, shares, strict=True))
        fair = replace(fair, classes=classes, quotas=tuple(_strict(bound, in_force) for bound in fair.quotas))
    return replace(report, limit=int(in_force["limit"]), warn_at=in_force["warn_at"], terms=terms, fair=fair)


def _strict(bound: Bound, in_force: Mapping[str, float]) -> Bound:
    """A quota with the strictest maximum of all workers, as a number and as a share."""
    rate = in_force.get(f"attempts:{bound.name}")
    if bound.rate and rate:
        bound = replace(bound, rate=rate, burst=int(in_force[f"at_once:{bound.name}"]))
    numbers = [number for number in (bound.most, in_force.get(f"quota:{bound.name}")) if number is not None]
    shares = [share for share in (bound.share, in_force.get(f"quota%:{bound.name}")) if share]
    return replace(bound, most=int(min(numbers)) if numbers else None, share=min(shares, default=0.0))

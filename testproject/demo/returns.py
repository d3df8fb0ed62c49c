"""How a herd came back: the clients of each rule by themselves, and how long others waited meanwhile. Seconds."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .rules import Rule


def until(share: float, back: Sequence[float], clients: int) -> float | None:
    """When that share of the clients was in, of whom those who are came at ``back``, in order; None if it never was."""
    needed = math.ceil(share * clients)
    return back[needed - 1] if len(back) >= needed else None


def ideal_by_rate(groups: Mapping[str, int], rate: float, burst: int = 0) -> float:
    """When 99 % could be in, if all came back; ``burst`` of them enter at once."""
    return max(0.0, 0.99 * sum(groups.values()) - burst) / rate


def ideal_by_slots(groups: Mapping[str, int], slots: int, stay: float) -> float:
    """The same in a pool whose clients leave after ``stay``."""
    return stay * (math.ceil(0.99 * sum(groups.values()) / slots) - 1)


def echo_figures(waits: Sequence[float]) -> dict[str, float]:
    """How long those who are connected waited for answers."""
    waits = sorted(waits)
    return {"echo_p50": waits[len(waits) // 2], "echo_p99": waits[int(0.99 * len(waits))], "echo_max": waits[-1]}


@dataclass(slots=True)
class Count:
    """The attempts of the clients of one rule since a cut."""

    rule: Rule
    attempts: list[float] = field(default_factory=list)
    """When each attempt began, from the cut on."""
    endings: Counter[int | None] = field(default_factory=Counter)
    """Attempts that failed, by close code or HTTP status."""


@dataclass(frozen=True, slots=True)
class Return:
    """The return of a herd's clients of one rule after a cut."""

    rule: Rule
    clients: int
    back: list[float]
    """When each of those who are back was in, from the cut on, in order."""
    attempts: list[float]
    endings: Counter[int | None]
    answered: float | None
    """When the first attempt was answered, from the cut on: until then the servers bury the old connections."""

    def until(self, share: float) -> float | None:
        """When that share of the clients was in; None if it never was."""
        return until(share, self.back, self.clients)

    @property
    def per_client(self) -> float:
        return len(self.attempts) / self.clients

    @property
    def wasted(self) -> int:
        """Attempts that brought nobody back."""
        return len(self.attempts) - len(self.back)

    def per_second(self) -> list[int]:
        """Attempts in each whole second after the cut, in order."""
        seconds = Counter(int(at) for at in self.attempts)
        return [seconds[second] for second in range(max(seconds, default=-1) + 1)]

    def as_dict(self) -> dict[str, Any]:
        """The values that ``ws_herd --json`` prints."""
        per_second = self.per_second()
        return {
            "rule": self.rule.name,
            "clients": self.clients,
            "back": len(self.back),
            "seconds_to_answer": self.answered,
            "seconds_to_50": self.until(0.5),
            "seconds_to_99": self.until(0.99),
            "seconds_to_100": self.until(1.0),
            "attempts": len(self.attempts),
            "attempts_per_client": self.per_client,
            "wasted_attempts": self.wasted,
            "peak_attempts_per_second": max(per_second, default=0),
            "peak_after_first_second": max(per_second[1:], default=0),
            "failures": {str(code): number for code, number in self.endings.most_common()},
        }

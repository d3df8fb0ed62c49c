"""The return of a herd, simulated: all clients of a pool lose their connections in one instant.

The clients follow the rules of ``demo.rules``; the server side is the package's own
:mod:`channels_admission.core.herd.rate` and
:mod:`channels_admission.limiter.line.retries`, asked once a tick, as a limiter asks its ledger. Networks and servers
take no time here. Seconds throughout.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from channels_admission.core.counters import Reason
from channels_admission.core.herd.rate import Pace, Situation
from channels_admission.core.protocol import Terms
from channels_admission.limiter.line.retries import RetrySchedule

from demo.rules import POLICY, Rule

SEED = 1013
TICK = 0.01
"""From one call to the ledger to the next."""
PAGE = 100
"""Ticks in a page of the calendar."""
MOST_FAILURES = 40
"""From here on no rule waits any longer."""
LIMIT = 3600.0
"""A herd that has not returned by then has not returned."""
BURST_TIME = 0.5
"""The bucket holds so many seconds' admissions, as by default."""

Ids = NDArray[np.int32]
Ticks = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Return:
    """How a herd came back."""

    rule: Rule
    rate: float
    back: NDArray[np.float64]
    """When each client was in, in order."""
    attempts: NDArray[np.int64]
    """All attempts, by tick."""

    @property
    def ideal(self) -> float:
        """When 99 % could be in."""
        return 0.99 * len(self.back) / self.rate

    def until(self, share: float) -> float:
        """When that share of the herd was in."""
        return float(self.back[int(np.ceil(share * len(self.back))) - 1])

    @property
    def per_client(self) -> float:
        return float(self.attempts.sum() / len(self.back))

    def per_second(self) -> NDArray[np.int64]:
        """Attempts in each whole second."""
        per = round(1 / TICK)
        padded = np.pad(self.attempts, (0, -len(self.attempts) % per))
        return padded.reshape(-1, per).sum(axis=1)


class Calendar:
    """Who comes in which tick. Ids are kept by page until it is opened, and by tick from then on."""

    def __init__(self) -> None:
        self._pages: dict[int, list[tuple[Ticks, Ids]]] = defaultdict(list)
        self._open: dict[int, list[Ids]] = defaultdict(list)
        self._page = -1

    def add(self, due: Ticks, ids: Ids) -> None:
        """Let each of ``ids`` come in its tick, none of which has passed."""
        for page, ticks, some in _grouped(due // PAGE, due, ids):
            if page == self._page:
                self._enter(ticks, some)
            else:
                self._pages[page].append((ticks, some))

    def _enter(self, due: Ticks, ids: Ids) -> None:
        for tick, _, some in _grouped(due, due, ids):
            self._open[tick].append(some)

    def walk(self) -> Iterator[tuple[int, Ids]]:
        """The ticks in order, each with those who come in it."""
        while self._pages:
            self._page = min(self._pages)
            for ticks, ids in self._pages.pop(self._page):
                self._enter(ticks, ids)
            for tick in range(self._page * PAGE, (self._page + 1) * PAGE):
                if tick in self._open:
                    yield tick, np.concatenate(self._open.pop(tick))


def _grouped(keys: Ticks, due: Ticks, ids: Ids) -> Iterator[tuple[int, Ticks, Ids]]:
    """The ids and their ticks, in one group for each key."""
    order = np.argsort(keys, kind="stable")
    keys, due, ids = keys[order], due[order], ids[order]
    starts = np.flatnonzero(np.diff(keys, prepend=keys[:1] - 1))
    for start, end in zip(starts, [*starts[1:], len(keys)], strict=True):
        yield int(keys[start]), due[start:end], ids[start:end]


@dataclass(frozen=True, slots=True)
class Books:
    """What the schedule must know of a limiter that is the pool's only one."""

    terms: Terms
    workers: int = 1
    entrance_speed: float = 0.0
    counters: Counter[str] = field(default_factory=Counter)


class Door:
    """The server side: one ledger and one limiter, each call of a tick answered as the package would."""

    def __init__(self, rate: float) -> None:
        self._terms = Terms(rate=rate, burst=max(1, round(BURST_TIME * rate)))
        self._pace = Pace(0.0, self._terms)
        self._schedule = RetrySchedule(Books(self._terms))

    def admit(self, coming: int, now: float) -> int:
        """How many of those who come are let in."""
        return self._pace.admit(coming, now, self._terms, empty=False)

    def hints(self, refused: int, now: float) -> NDArray[np.float64]:
        """When each of the others should come again, from now, rounded up to tenths as a refusal tells it."""
        retry_times = self._pace.retry_times(now, self._terms, refused, self._schedule.unreserved, Situation())
        self._schedule.unreserved = 0
        if retry_times:
            self._schedule.renew(retry_times, refused, now)
        told = np.fromiter((self._schedule.retry_after(Reason.RATE, now) for _ in range(refused)), float, refused)
        return np.ceil(10 * told) / 10


def simulate(rule: Rule, clients: int, rate: float, seed: int = SEED) -> Return:
    """Let ``clients`` that were all cut at 0 come back by ``rule`` to a pool that admits ``rate`` a second."""
    random.seed(seed)
    rng = np.random.default_rng(seed)
    bounds = np.array([rule.bounds(max(1, number)) for number in range(MOST_FAILURES + 1)])
    failures = np.zeros(clients, np.int16)
    back = np.full(clients, np.inf)
    attempts = np.zeros(round(LIMIT / TICK), np.int64)
    door, calendar = Door(rate), Calendar()
    everybody = rng.permutation(clients).astype(np.int32)
    calendar.add((rng.uniform(*rule.first, clients) / TICK).astype(np.int64), everybody)
    for tick, coming in calendar.walk():
        if tick >= len(attempts):
            break
        now = tick * TICK
        attempts[tick] = len(coming)
        granted = door.admit(len(coming), now)
        back[coming[:granted]] = now
        refused = coming[granted:]
        if not len(refused):
            continue
        failures[refused] = 1 if rule.resets_on_open else np.minimum(failures[refused] + 1, MOST_FAILURES)
        if rule.follows_hint:
            waits = np.maximum(POLICY.floor, door.hints(len(refused), now))
        else:
            shortest, longest = bounds[failures[refused]].T
            waits = rng.uniform(shortest, longest)
        calendar.add(tick + np.maximum(1, np.ceil(waits / TICK)).astype(np.int64), refused)
        rng.shuffle(refused)
    return Return(rule, rate, np.sort(back), np.trim_zeros(attempts, "b"))

"""``ws_status --watch``: repeat the status, with sparklines of what came before.

On a terminal it uses the whole screen and restores it at the end; elsewhere it prints one frame
after another. Ctrl-C ends it with exit code 0.
"""

import asyncio
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import dropwhile, pairwise

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ...status.diagnostics.finding import clock
from ...status.history import History, Series
from ...status.values import Health, PoolSnapshot, Snapshot
from .layout import ends
from .status import overview, problem, status, style_of
from .workers import WORST, Listing

EVERY = 2.0
"""Default seconds from one reading to the next."""
KEPT = 500
"""Samples kept per pool: more than a terminal is wide."""
FEWER = (10, 5, 3, 1)
"""Workers shown of each pool where more do not fit the screen."""
MINUTE = 60
"""Seconds between readings from which the history is taken by the minute."""
ENDS = {signal.SIGINT: 0, signal.SIGTERM: 128 + signal.SIGTERM}
"""Exit codes by the signal that ends it."""

BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.:-=+*#"


@dataclass(frozen=True, slots=True)
class Sparkline:
    """``values`` from 0 to ``top``. Only a value of ``top`` or more is a whole bar; None is a gap."""

    values: Sequence[float | None]
    top: float
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        bars = ASCII_BARS if options.ascii_only else BARS
        latest = self.values[-options.max_width :]
        yield Text("".join(" " if value is None else bars[self._height(value)] for value in latest), self.style)

    def _height(self, value: float) -> int:
        if value >= self.top > 0:
            return len(BARS) - 1
        return max(0, min(int(value / self.top * len(BARS)), len(BARS) - 2)) if self.top > 0 else 0


Look = Callable[[], Awaitable[Snapshot]]
Recall = Callable[[str], Awaitable[History]]


@dataclass(frozen=True, slots=True)
class Counts:
    """A pool's counts at one time."""

    at: float
    held: int
    refused: int


@dataclass(slots=True)
class Trend:
    """The latest samples of a pool; None where the ledger was down."""

    samples: deque[Counts | None] = field(default_factory=lambda: deque(maxlen=KEPT))

    def held(self) -> list[float | None]:
        return [None if sample is None else sample.held for sample in self.samples]

    def refused(self) -> list[float | None]:
        """Refusals per second since the sample before; None where unknown, as after a loss of data."""
        return [_rate(before, after) for before, after in pairwise([None, *self.samples])]


def _samples(series: Series, every: float, refused: int) -> Iterator[Counts | None]:
    """The samples that the history stands for, one every ``every`` seconds or every point, whichever is longer.

    ``refused`` is the number of refusals so far.
    """
    size = max(1, round(every / series.step))
    counts = [sum(each) for each in zip(*series.refused.values(), strict=True)] or [0] * len(series.held)
    for end in range(len(series.held) % size + size, len(series.held) + 1, size):
        held = [each for each in series.held[end - size : end] if each is not None]
        at = series.start + end * series.step
        yield Counts(at, max(held), refused - sum(counts[end:])) if held else None


def _rate(before: Counts | None, after: Counts | None) -> float | None:
    if before is None or after is None or after.refused < before.refused or after.at <= before.at:
        return None
    return (after.refused - before.refused) / (after.at - before.at)


def _most(values: Iterable[float | None]) -> float:
    return max((value for value in values if value is not None), default=0)


class Frames:
    """The samples so far, and the frames made of them."""

    def __init__(self, every: float = EVERY, listing: Listing = WORST) -> None:
        self._every, self._listing = every, listing
        self._trends: dict[str, Trend] = {}
        self._numbers: Snapshot | None = None

    def knows(self, pool: str) -> bool:
        """Whether the pool has a trend."""
        return pool in self._trends

    def recall(self, pool: PoolSnapshot, past: History) -> None:
        """Begin the pool's trend with its history from the ledger."""
        series = past.minutes if self._every >= MINUTE else past.seconds
        samples = _samples(series, self._every, sum(pool.refused.values()))
        self._trends[pool.name] = Trend(deque(dropwhile(lambda sample: sample is None, samples), KEPT))

    def frame(self, now: Snapshot) -> RenderableType:
        """Add a snapshot to the trends, and render all."""
        return next(self.forms(now))

    def forms(self, now: Snapshot) -> Iterator[RenderableType]:
        """Add a snapshot to the trends, and render all; then with ever fewer workers, and a line for each pool."""
        self._note(now)
        heading = ends(Text(f"Every {self._every:g} s, Ctrl-C to end", "dim"), Text(clock(now.taken.timestamp())))
        if self._numbers is None:
            yield Group(heading, "", Text(problem(now.ledger), "bold red"))
            return
        shown = replace(self._numbers, ledger=now.ledger)
        trends = {pool.name: self._shown(pool) for pool in shown.pools}
        yield Group(heading, *self._outage(now), "", status(shown, trends, self._listing))
        for top in FEWER:
            yield Group(heading, *self._outage(now), "", status(shown, trends, replace(self._listing, top=top)))
        if len(shown.pools) > 1:
            yield Group(heading, *self._outage(now), "", overview(shown))

    def _note(self, now: Snapshot) -> None:
        if now.ledger.health is Health.DOWN:
            for trend in self._trends.values():
                trend.samples.append(None)
            return
        self._numbers = now
        for pool in now.pools:
            sample = Counts(now.taken.timestamp(), pool.held, sum(pool.refused.values()))
            self._trends.setdefault(pool.name, Trend()).samples.append(sample)

    def _outage(self, now: Snapshot) -> Iterator[RenderableType]:
        if self._numbers is not None and self._numbers is not now:
            yield Text(problem(now.ledger), "bold red")
            yield Text(f"The numbers below are from {clock(self._numbers.taken.timestamp())}.", "bold")

    def _shown(self, pool: PoolSnapshot) -> RenderableType:
        trend = self._trends[pool.name]
        held, refused = trend.held(), trend.refused()
        most = _most(refused)
        lines = Table.grid(expand=True, padding=(0, 2, 0, 0))
        lines.add_column(width=9)
        lines.add_column(ratio=1)
        lines.add_column(justify="right", no_wrap=True)
        lines.add_row("held", Sparkline(held, pool.limit, style_of(pool)), f"most {_most(held):,}")
        lines.add_row("refused/s", Sparkline(refused, most, "yellow"), f"most {most:,.1f}")
        return lines


async def watch(console: Console, look: Look, recall: Recall, every: float = EVERY, listing: Listing = WORST) -> int:
    """Show a snapshot from ``look`` every ``every`` seconds until a signal arrives; return the exit code.

    ``recall`` returns a pool's history, with which its sparklines begin.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    told: list[signal.Signals] = []

    def end(number: signal.Signals) -> None:
        told.append(number)
        if task is not None:
            task.cancel()

    for number in ENDS:
        loop.add_signal_handler(number, end, number)
    try:
        await _show(console, look, recall, Frames(every, listing), every)
    except asyncio.CancelledError:
        if not told:
            raise
    finally:
        for number in ENDS:
            loop.remove_signal_handler(number)
    return ENDS[told[0]]


def fitting(console: Console, forms: Iterable[RenderableType]) -> RenderableType:
    """The first of the forms that fits the screen, else the last."""
    form: RenderableType = ""
    for form in forms:
        if len(console.render_lines(form, pad=False)) <= console.height:
            break
    return form


async def _show(console: Console, look: Look, recall: Recall, frames: Frames, every: float) -> None:
    async def forms() -> Iterator[RenderableType]:
        now = await look()
        for pool in now.pools:
            if not frames.knows(pool.name):
                frames.recall(pool, await recall(pool.name))
        return frames.forms(now)

    if not console.is_terminal or console.is_dumb_terminal:
        while True:
            console.print(next(await forms()), "")
            console.file.flush()
            await asyncio.sleep(every)
    with Live(console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
        while True:
            live.update(fitting(console, await forms()), refresh=True)
            await asyncio.sleep(every)

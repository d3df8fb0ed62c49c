"""The workers of a pool as a table: all of a few, else the worst, and a line for each host."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ...core.readings import Load
from ...status.values import WorkerSnapshot
from ...status.words import numbered, trouble, worst
from .layout import duration, listing, plain

FEW = 20
"""Most workers of a pool that are all shown, unless a number is asked for."""
TOP = 10
"""Workers shown of more than that."""
HOSTS = 20
"""Most hosts shown."""
HEADS = {"lag": "lag", "memory": "mem", "descriptors": "files", "cpu": "cpu"}
"""The monitors with a column, each with its head."""

Key = tuple[float | str, ...]


def _is_in_trouble(worker: WorkerSnapshot) -> bool:
    return worker.silent or bool(worker.failing) or _is_pressed(worker)


def _most(reading: Callable[[WorkerSnapshot], float | None]) -> Callable[[WorkerSnapshot], Key]:
    """The greatest reading first, unknown ones last."""

    def key(worker: WorkerSnapshot) -> Key:
        value = reading(worker)
        return (value is None, -(value or 0))

    return key


def _reading(worker: WorkerSnapshot, monitor: str) -> float | None:
    return next((each.reading for each in worker.load if each.name == monitor), None)


def more(left: int, option: str, told: str = "") -> Text:
    """How many workers are not shown, and the option that has them."""
    return Text(f"{numbered(left, 'more worker')}{told} ({option})", "dim")


SORTS: dict[str, Callable[[WorkerSnapshot], Key]] = {
    "worst": worst,
    "held": _most(lambda worker: worker.held),
    "seen": _most(lambda worker: worker.silence),
    "up": _most(lambda worker: -worker.uptime),
    **{head: _most(partial(_reading, monitor=monitor)) for monitor, head in HEADS.items()},
    "host": lambda worker: (),
}
"""Orders of the workers; where they are equal, by host and process."""


@dataclass(frozen=True, slots=True)
class Listing:
    """Which workers of each pool are shown, and in which order."""

    top: int | None = None
    """Most workers; 0 for all, and None for all of a few."""
    sort: str = "worst"

    def shown(self, workers: Sequence[WorkerSnapshot]) -> list[WorkerSnapshot]:
        ordered = sorted(workers, key=lambda worker: (SORTS[self.sort](worker), worker.host, worker.pid, worker.id))
        default = len(ordered) if len(ordered) <= FEW else TOP
        return ordered[: default if self.top is None else self.top or len(ordered)]


WORST = Listing()
"""The order unless another is asked for."""


def listed(workers: Sequence[WorkerSnapshot], listing: Listing) -> Iterator[RenderableType]:
    """The workers; where some are left out, their number and a line for each host."""
    shown = listing.shown(workers)
    yield _workers(shown)
    yield from (_alone(worker) for worker in shown if worker.failing)
    yield from map(_pressed, filter(_is_pressed, shown))
    yield from (_behind(worker) for worker in shown if worker.jobs_waiting or worker.accepting)
    yield from (_faulty(worker) for worker in shown if worker.faults)
    if left := len(workers) - len(shown):
        bad = sum(map(_is_in_trouble, workers)) - sum(map(_is_in_trouble, shown))
        troubled = f", silent, deciding alone or refusing: {bad:,}" if bad else ""
        yield more(left, "--top 0", troubled)
        yield from ("", _hosts(workers))


def _hosts(workers: Sequence[WorkerSnapshot]) -> RenderableType:
    """A line for each host, the worst first: sums, and the highest reading of each monitor."""
    ordered = sorted(workers, key=lambda worker: worker.host)
    hosts = [(host, list(theirs)) for host, theirs in groupby(ordered, key=lambda worker: worker.host)]
    hosts.sort(key=lambda each: (min(map(trouble, each[1])), -sum(worker.held for worker in each[1]), each[0]))
    table = _table("workers", "held", "silent", "refusing", *HEADS.values())
    for host, theirs in hosts[:HOSTS]:
        silent, refusing = sum(worker.silent for worker in theirs), sum(map(_is_pressed, theirs))
        counts = (f"{len(theirs):,}", f"{sum(worker.held for worker in theirs):,}", f"{silent:,}", f"{refusing:,}")
        table.add_row(Text(plain(host)), *counts, *_highest(theirs))
    if len(hosts) > HOSTS:
        table.add_row(Text(numbered(len(hosts) - HOSTS, "more host"), "dim"))
    return table


def _highest(workers: Sequence[WorkerSnapshot]) -> Iterator[Text]:
    for name in HEADS:
        loads = [each for worker in workers for each in worker.load if each.name == name]
        readings = [each.reading for each in loads if each.reading is not None]
        pressure = max((each.pressure for each in loads), default=0.0)
        yield _cell(Load(name, max(readings, default=None), pressure))


def _table(*columns: str) -> Table:
    table = listing("host")
    for name in columns:
        if name == "server":
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    return table


def _workers(workers: Sequence[WorkerSnapshot]) -> RenderableType:
    table = _table("pid", "server", "held", "seen", "up", *HEADS.values())
    for worker in workers:
        table.add_row(
            Text(plain(worker.host)),
            str(worker.pid),
            Text(plain(worker.server) or "-"),
            f"{worker.held:,}",
            Text(duration(worker.silence), "bold red" if worker.silent else ""),
            duration(worker.uptime),
            *_loads(worker),
        )
    return table


def _loads(worker: WorkerSnapshot) -> Iterator[Text]:
    load = {each.name: each for each in worker.load}
    for name in HEADS:
        yield _cell(load.get(name, Load(name, None, 0.0)))


def _cell(load: Load) -> Text:
    """A reading in the colour of its pressure; a question mark if unknown."""
    style = "bold red" if load.pressure >= 1 else "bold yellow" if load.pressure else ""
    if load.reading is None:
        return Text("?", style)
    return Text(f"{1000 * load.reading:.0f} ms" if load.name == "lag" else f"{100 * load.reading:.0f} %", style)


def _is_pressed(worker: WorkerSnapshot) -> bool:
    return any(each.pressure for each in worker.load)


def _alone(worker: WorkerSnapshot) -> Text:
    """A worker that the ledger does not answer."""
    told = f"its last {worker.failing:,} calls" if worker.failing > 1 else "its last call"
    return Text(f"{plain(worker.host)} {worker.pid} decides alone: {told} to the ledger failed", "bold yellow")


def _pressed(worker: WorkerSnapshot) -> Text:
    """The monitors that refuse on a worker, and the share of handshakes that each refuses."""
    parts = [f"{100 * each.pressure:.0f} % for {plain(each.name)}" for each in worker.load if each.pressure]
    return Text(f"{plain(worker.host)} {worker.pid} refuses {', '.join(parts)}", "bold yellow")


def _behind(worker: WorkerSnapshot) -> Text:
    """What waits in a worker: jobs of sync code, and connections for their consumer."""
    jobs = f"{numbered(worker.jobs_waiting, 'job')} of sync code (threads busy: {worker.threads_busy:,})"
    accepts = f"{numbered(worker.accepting, 'connection')} to be accepted"
    parts = [text for count, text in ((worker.jobs_waiting, jobs), (worker.accepting, accepts)) if count]
    return Text(f"{plain(worker.host)} {worker.pid} waiting: {', '.join(parts)}", "dim")


def _faulty(worker: WorkerSnapshot) -> Text:
    """The unexpected errors of a worker and of the site's functions in it; its log has the tracebacks."""
    kinds = ", ".join(f"{count:,} {plain(kind)}" for kind, count in worker.faults.items())
    return Text(f"{plain(worker.host)} {worker.pid} has had unexpected errors: {kinds}", "bold yellow")

"""The capacity of the workers as rich renderables, with the reasons for the limits, and the fields of its JSON."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from ...conf import PoolSettings
from ...status.capacity import ENOUGH, MEASURED, OPENED, Capacity, Cost, WorkerCapacity
from ...status.growth import HORIZON, Growth
from .layout import duration, listing, plain
from .workers import FEW, more

SCHEMA = """\
--json prints one object. Fields may be added; if a field changes its meaning
or goes, the format rises:

  format     1
  cost       of one connection
    memory   bytes
    files    open files
    source   "measured" on connections of the site, "opened" on those of --open,
             or the server by whose figure it is
    connections  those that were measured
  workers    a list
    host, pid, server
    now      a list: open connections, bytes of memory, and open files
    base     bytes of memory without any connection
    by_memory, by_files  connections for which it has memory, and open files;
             null without a limit
    files_limit  0 without one
  proposal
    max_connections  what all workers hold while one of several restarts
    max_per_worker   what each of them can hold
    bound_by  "memory" or "files"
    files     open files with which a worker can use its memory (ulimit -n)
  growth     a list, one entry per pool
    pool
    held, limit  null where unknown
    hours     observed, the last six at most
    per_hour  slots; null while the history is too short
    reached_in  seconds until the limit if the pool grows on like this; null if
             it does not, or only after more than four times the hours observed

The exit code is 0; 1 if nothing can be measured, or the connections could not
be opened; and 2 if the ledger cannot be read.
"""
IMPLEMENTATION = 17
"""Characters of the longest implementation of WebSockets, which stands below its server then."""
NOT_COUNTED = "CPU time and what a consumer stores later are not counted. Raise a limit in steps, and watch the lag."


def render(capacity: Capacity, growths: Sequence[Growth], pools: Sequence[PoolSettings]) -> RenderableType:
    return Group(
        Text("Capacity", "bold"),
        Text(_cost(capacity.cost)),
        "",
        *_workers(capacity.workers),
        "",
        Text("Proposal", "bold"),
        *map(Text, _proposal(capacity, pools)),
        Text(NOT_COUNTED, "dim"),
        "",
        Text("Growth", "bold"),
        *(Text(_growth(each)) for each in growths),
    )


def _cost(cost: Cost) -> str:
    if cost.source in (MEASURED, OPENED):
        whose = "of the site" if cost.source == MEASURED else "opened for this"
        source = f"measured on {cost.connections:,} connections {whose}"
    else:
        source = (
            f"the figure for {plain(cost.source)}, since the workers have had fewer than {ENOUGH} connections beyond "
            "their first few. --open measures with connections of its own"
        )
    files = "1 open file" if cost.files == 1 else f"{cost.files:g} open files"
    return f"A connection takes {cost.memory / 1024:,.0f} KiB and {files}: {source}."


def _workers(workers: Sequence[WorkerCapacity]) -> Iterator[RenderableType]:
    """All of a few workers, else those that can hold the least."""
    table = listing("host")
    table.add_column("pid", justify="right", overflow="fold")
    table.add_column("server", max_width=IMPLEMENTATION, overflow="fold")
    for name in ("open", "MiB", "idle MiB", "by memory", "by files", "files"):
        table.add_column(name, justify="right", overflow="fold")
    for worker in workers if len(workers) <= FEW else sorted(workers, key=lambda worker: worker.fits)[:FEW]:
        table.add_row(
            Text(plain(worker.host)), str(worker.pid), Text(plain(worker.server) or "-"),
            f"{worker.now.connections:,}", f"{worker.now.memory / 2**20:,.0f}", f"{worker.base / 2**20:,.0f}",
            f"{worker.by_memory:,}", "-" if worker.by_files is None else f"{worker.by_files:,}",
            f"{worker.now.files:,}/{worker.files_limit or '-'}",
        )  # fmt: skip
    yield table
    if len(workers) > FEW:
        yield more(len(workers) - FEW, "--json")


def _proposal(capacity: Capacity, pools: Sequence[PoolSettings]) -> Iterator[str]:
    proposal = capacity.proposal
    limits = sum(pool.max_connections for pool in pools)
    together = ", all pools together" if len(pools) > 1 else ""
    why = ": one worker less can hold it, as when one restarts" if len(capacity.workers) > 1 else ""
    bound = "open files" if proposal.bound_by == "files" else "memory"
    yield f"MAX_CONNECTIONS {proposal.max_connections:,}{together}{why}; {limits:,} in the settings"
    yield f"MAX_PER_WORKER {proposal.max_per_worker:,}: what the weakest worker can hold, by its {bound}"
    yield f"ulimit -n {proposal.files}: the open files with which a worker can use its memory"


def _growth(growth: Growth) -> str:
    name = f"Pool {plain(growth.pool)}"
    if growth.per_hour is None:
        return f"{name}: its history is too short or not known."
    told = (
        f"{name}: {growth.held:,} of {growth.limit:,} slots, {growth.per_hour:+,g} an hour over {growth.hours:.1f} h."
    )
    if growth.reached_in is None:
        return f"{told} It is not full within {HORIZON} times as long."
    return f"{told} It is full in {duration(growth.reached_in)} if it grows on like this."

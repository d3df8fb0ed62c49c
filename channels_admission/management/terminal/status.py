"""A snapshot as rich renderables: complete at 80 columns, readable without colour.

Text from the ledger is never read as markup and never printed with control characters.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.text import Text

from ...conf import NAME
from ...core.agreement import SITE, shown_differences
from ...core.levels import Level
from ...core.overrides import signature, utc
from ...ledger.memory import MemoryLedger
from ...status import words
from ...status.values import Health, LedgerSnapshot, PoolSnapshot, Snapshot
from ...status.words import named, numbered
from .layout import ends, fingerprints, listing, plain
from .workers import WORST, Listing, listed

STYLES: dict[str, str] = {Level.CALM: "bold green", Level.WARNING: "bold yellow"}
REFUSING = "bold red"
"""The style of all other states of a pool."""
HEALTHS = {
    Health.OK: ("OK", "green"),
    Health.SETTLING: ("Settling", "bold yellow"),
    Health.LATE: ("Late", "bold yellow"),
    Health.DOWN: ("Down", "bold red"),
}
OFF = f"Admission is switched off: {NAME}['ENABLED'] is False. No connection is refused, and none is counted."
UNSEEN = (
    "With the memory ledger each worker process counts for itself, up to the whole limit, and a command cannot read "
    f"these counts. Set {NAME}['LEDGER'] to a Redis URL for one shared count."
)
LOST = "The ledger started empty or lost its data a moment ago: counts may be low until all workers have reported."
LATE = (
    "The ledger answers later than LEDGER_TIMEOUT allows: workers decide alone, by WHEN_LEDGER_DOWN. "
    "ws_status --diagnose tells more."
)
NO_WORKERS = "No worker is known: none runs, or none has had a connection yet."

FEW_POOLS = 4
"""Most pools that are shown with their workers, unless a number of workers is asked for."""
ONE_POOL = (
    "* refused in the last five minutes. ws_status --pool NAME shows a pool with its workers, and --top 10 all pools "
    "with theirs."
)
DRAINS_SHOWN = 10
"""Most drains shown of a pool."""


def status(
    snapshot: Snapshot, trends: Mapping[str, RenderableType] = MappingProxyType({}), listing: Listing = WORST
) -> RenderableType:
    """Render the ledger, notes on the numbers, and every pool with its workers; of many pools, only a line for each.

    ``trends`` go by pool, and stand below the pool's numbers.
    """
    pools = () if snapshot.ledger.kind == MemoryLedger.kind else snapshot.pools
    if len(pools) > FEW_POOLS and listing.top is None:
        return overview(snapshot)
    shown = (_pool(pool, trends.get(pool.name), listing) for pool in pools)
    return Group(*_heading(snapshot), *shown)


def overview(snapshot: Snapshot) -> RenderableType:
    """Render the ledger, notes on the numbers, and a line for each pool, the worst first."""
    return Group(*_heading(snapshot), "", _pools(snapshot.pools), "", Text(ONE_POOL, "dim"))


def _heading(snapshot: Snapshot) -> Iterator[RenderableType]:
    yield _ledger(snapshot.ledger)
    yield from _notes(snapshot)


def _pools(pools: Iterable[PoolSnapshot]) -> RenderableType:
    table = listing("pool")
    table.add_column("state")
    for name in ("held", "limit", "full", "refused*", "workers", "silent"):
        table.add_column(name, justify="right", no_wrap=True)
    for pool in sorted(pools, key=_badness):
        silent = sum(worker.silent for worker in pool.workers)
        table.add_row(
            Text(plain(pool.name)),
            Text(named(pool.state, "state"), style_of(pool)),
            f"{pool.held:,}",
            f"{pool.limit:,}",
            f"{_percent(pool)} %",
            f"{sum(pool.connects.refused.values()):,}",
            f"{len(pool.workers):,}",
            Text(f"{silent:,}", "bold red" if silent else ""),
        )
    return table


def _badness(pool: PoolSnapshot) -> tuple[bool, bool, int, float, str]:
    """The worst pool is the least: one that refuses all, then one with silent workers, and then by its level."""
    silent = any(worker.silent for worker in pool.workers)
    return (pool.state == pool.level, not silent, -list(Level).index(pool.level), -pool.share, pool.name)


def _percent(pool: PoolSnapshot) -> int:
    return 100 * pool.held // pool.limit if pool.limit else 100


def problem(ledger: LedgerSnapshot) -> str:
    """Why a ledger that is down cannot be read, in one line."""
    return f"The ledger at {plain(ledger.address)} cannot be read: {plain(ledger.error or 'no reason given')}"


@dataclass(frozen=True, slots=True)
class Gauge:
    """A bar as wide as the console. It is empty only with no slot held, and whole only with none free."""

    held: int
    limit: int
    style: str

    def cells(self, width: int) -> int:
        """How many of ``width`` cells are filled."""
        if self.held >= self.limit:
            return width
        return min(max(self.held * width // self.limit, 1 if self.held else 0), width - 1)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        taken, free = ("#", "-") if options.ascii_only else ("█", "░")
        cells = self.cells(options.max_width)
        yield Text.assemble((taken * cells, self.style), (free * (options.max_width - cells), "dim"))


def _ledger(ledger: LedgerSnapshot) -> RenderableType:
    kind, address = plain(ledger.kind), plain(ledger.address)
    place = Text.assemble(("Ledger", "bold"), "  ", kind, "  ", address)
    return ends(place, Text(*HEALTHS[ledger.health]))


def _notes(snapshot: Snapshot) -> Iterator[RenderableType]:
    if not snapshot.enabled:
        yield from ("", Text(OFF))
    if snapshot.ledger.kind == MemoryLedger.kind:
        yield from ("", Text(UNSEEN))
    if snapshot.ledger.health is Health.SETTLING:
        yield from ("", Text(LOST))
    if snapshot.ledger.health is Health.LATE:
        yield from ("", Text(LATE))


def _pool(pool: PoolSnapshot, trend: RenderableType | None, listing: Listing) -> RenderableType:
    style = style_of(pool)
    free = words.NAMES["free"].get(pool.state, f"{pool.free:,} free")
    return Group(
        "",
        ends(Text(plain(pool.name), "bold"), Text(named(pool.state, "state"), style)),
        ends(Gauge(pool.held, pool.limit, style), Text(f"{_percent(pool):3} %")),
        Text(f"{pool.held:,} of {pool.limit:,} slots held, {free}{_reserve(pool)}"),
        Text(_events(pool)),
        *_places(pool),
        *_fingerprints(pool),
        *(() if pool.speed is None else (Text(f"{pool.speed:,g} connections per second, as measured"),)),
        *(Text(order, "bold yellow") for order in orders(pool)),
        *_classes(pool),
        *(() if trend is None else (trend,)),
        "",
        *(listed(pool.workers, listing) if pool.workers else (Text(NO_WORKERS, "dim"),)),
    )


def _reserve(pool: PoolSnapshot) -> str:
    return f" ({pool.reserve:,} of these in reserve)" if pool.reserve and pool.state not in words.NAMES["free"] else ""


def style_of(pool: PoolSnapshot) -> str:
    return STYLES.get(pool.state, REFUSING)


def orders(pool: PoolSnapshot) -> Iterator[str]:
    """One sentence per override, and per deviation from the settings."""
    values = {name: [side.value for side in sides] for name, sides in pool.differs.items()}
    if sites := values.pop(SITE, None):
        numbers = " and ".join(f"{site:.0f}" for site in sites if site is not None)
        yield f"Workers of {len(sites)} sites count here, with the same PREFIX: {numbers}"
    if values:
        differs = shown_differences(values)
        yield f"Workers have different settings, and the strictest values are in force: {plain(differs)}"
    if pool.none_authenticated:
        yield "No connection has ever authenticated, and PENDING_DEADLINE ends them: see ws_status --diagnose"
    if len(pool.releases) > 1:
        told = ", ".join(f"{plain(release) or 'unknown'} on {len(ids):,}" for release, ids in pool.releases.items())
        yield f"Workers run different versions of channels-admission: {told}"
    if pool.elsewhere.workers or pool.elsewhere.held:
        yield (
            f"{numbered(pool.elsewhere.workers, 'worker')} of another version, not listed here, with "
            f"{numbered(pool.elsewhere.held, 'slot')}: their counts are kept apart"
        )
    if pool.dry_run:
        by = signature(pool.controls.dry_run) if pool.controls.dry_run else " by the settings"
        refused = _reasons(pool.would_refuse) or "none"
        yield f"Dry run{by}: no connection is refused. Would have been refused so far: {refused}"
    drains = 0
    for each in words.overrides(pool, _number):
        drains += bool(each.target)
        if drains <= DRAINS_SHOWN and not (each.key == "dry-run" and pool.dry_run):
            yield f"{plain(each.what)}{signature(each.order)}"
    if drains > DRAINS_SHOWN:
        yield f"{numbered(drains - DRAINS_SHOWN, 'more drain')}: ws_limit {plain(pool.name)} lists them all"
    if draining := [f"{plain(worker.host)} {worker.pid}" for worker in pool.workers if worker.draining]:
        more = f", and {len(draining) - DRAINS_SHOWN:,} more" if len(draining) > DRAINS_SHOWN else ""
        yield f"Draining: {', '.join(draining[:DRAINS_SHOWN])}{more}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _reasons(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {plain(named(reason, 'reason'))}" for reason, count in counts.items() if count)


def _events(pool: PoolSnapshot) -> str:
    reasons = _reasons(pool.refused)
    detail = f" ({reasons})" if reasons else ""
    shed = f", {pool.shed:,} closed for lack of memory" if pool.shed else ""
    full = f", {pool.channels_full:,} ended by full channels" if pool.channels_full else ""
    failed = f", {pool.layer_failed:,} ended by a failure of the channel layer" if pool.layer_failed else ""
    why = (
        (pool.delayed, "had to wait at the entrance"),
        (pool.refusals_held, "refused some seconds later"),
        (pool.passed, "refusals passed on to other workers"),
        (pool.drained, "closed by a drain"),
        (pool.aged, "closed at their maximum age"),
        (pool.evicted, "closed for a newer one under their quota"),
        (pool.overdue, "closed unauthenticated at their deadline"),
        (pool.unaccepted, "refused as not accepted in time"),
        (pool.outlived, "handlers cancelled after their client left"),
    )
    ended = "".join(f", {count:,} {how}" for count, how in why if count)
    healed = f", damaged counts repaired {numbered(pool.healed, 'time')}" if pool.healed else ""
    lost = f", {numbered(pool.lost, 'worker')} lost{_names(pool)}" if pool.lost else ""
    dropped = f", {numbered(pool.events_dropped, 'event')} dropped" if pool.events_dropped else ""
    count = sum(pool.faults.values())
    faults = f", {numbered(count, 'unexpected error')}" if count else ""
    told = f"{pool.admitted:,} admitted and {sum(pool.refused.values()):,} refused so far"
    return f"{told}{detail}{shed}{full}{failed}{ended}{healed}{lost}{dropped}{faults}"


def _names(pool: PoolSnapshot) -> str:
    """The workers that were lost last, in brackets."""
    names = (f"{plain(each.host)} {each.pid} at {utc(each.at):%d %b %H:%M:%S} UTC" for each in pool.lost_workers)
    return f" ({', '.join(names)})" if pool.lost_workers else ""


def _places(pool: PoolSnapshot) -> Iterator[Text]:
    if pool.promised:
        told = f"{pool.promised:,} promised, {pool.redeemed:,} redeemed, {pool.missed:,} missed (came too late)"
        yield Text(f"Places in the line: {told}")


def _fingerprints(pool: PoolSnapshot) -> Iterator[Text]:
    if text := fingerprints(pool.site, pool.settings):
        yield Text(text, "dim")


def _classes(pool: PoolSnapshot) -> Iterator[Text]:
    if pool.classes:
        yield Text("By class: " + ", ".join(f"{held:,} {plain(name)}" for name, held in pool.classes.items()))

"""Set overrides while a site runs: a pool's limit, pause and dry run, and drains.

Commands and views call these functions. Each returns the changes that it made, or none if nothing
changed. Workers act within a heartbeat; a limit and a pause take effect at once, since the ledger
applies them. ``by`` is the operator's name. The functions raise
:exc:`~.exceptions.ConfigurationError` for an unknown pool, :exc:`~.exceptions.ControlError` for a
value that is refused, and :exc:`~.exceptions.LedgerError`.

Each function exists twice, as in Django: the one with the prefix ``a`` is a coroutine.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from asgiref.sync import async_to_sync
from django.utils.translation import gettext_noop as _

from . import conf
from .conf import MAX_LIMIT, PoolSettings
from .conf.ledger import MEMORY
from .conf.validators import is_number
from .core.overrides import EVERY_WORKER, Controls, Drain, Order, printable, signature, target_name
from .core.readings import Reading
from .exceptions import AdmissionError, ControlError
from .ledger import connected, open_ledger
from .ledger.base import Ledger
from .ledger.overrides import LONGEST, MOST_BYTES, MOST_DRAINS, size
from .runtime import targets

TIMEOUT = 1.0
"""Seconds that a change may take in the ledger."""
TRIES = 5
"""Most attempts at a change that conflicts with others."""


class _Keep(Enum):
    KEEP = "as it is"


KEEP = _Keep.KEEP
"""Leave a value as it is."""


class _All(Enum):
    ALL = "all workers"


ALL_WORKERS = _All.ALL
"""The target for all workers. It is not a string, so that no typed or misread name drains them all."""

# Translators: {pool} is in quotes already.
LIMIT_RANGE = _("A limit is a whole number from 0 to {most}, not {limit}.")
TIME_RANGE = _("A time is from 0 to {most} seconds, not {over}.")
UNREACHABLE = _("The memory ledger is inside the worker's process; other processes cannot change it.")
SET_LEDGER = _("Set {setting} to a Redis URL.")
TOO_MANY = _("There are {most} drains already; cancel some, or drain hosts.")
OTHERS = _("Other operators are changing the pool {pool} at the same time; try again.")


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a pool, in words."""

    pool: str
    what: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"Pool {self.pool}: {self.what} from {self.before} to {self.after}"


Revision = Callable[[Controls, Reading], Controls]
"""Computes a pool's new overrides from the present ones and its reading."""


async def achange(
    pool: str,
    *,
    by: str,
    limit: int | _Keep | None = KEEP,
    over: float | None = None,
    paused: bool | _Keep = KEEP,
    dry_run: bool | _Keep | None = KEEP,
) -> tuple[Change, ...]:
    """Change a pool; None restores the value of the settings.

    Connections beyond ``limit`` stay, or are closed within ``over`` seconds if it is given.
    """
    if limit is not None and limit is not KEEP:
        _check_limit(limit)
    if over is not None:
        _check_time(over)
    for name, value, known in (("paused", paused, (KEEP,)), ("dry_run", dry_run, (KEEP, None))):
        if value not in known and not isinstance(value, bool):
            raise TypeError(f"{name} is True or False, not {value!r}.")

    def revise(controls: Controls, reading: Reading) -> Controls:
        def order(value: int | None, over: float | None = None) -> Order | None:
            seconds = None if over is None else float(over)
            return None if value is None else Order(value, printable(by), reading.now, seconds)

        if limit is not KEEP:
            controls = _with(controls, "limit", order(limit, over))
        if paused is not KEEP:
            controls = _with(controls, "paused", order(1 if paused else None))
        if dry_run is not KEEP:
            controls = _with(controls, "dry_run", order(None if dry_run is None else int(dry_run)))
        return controls

    return await _revise([pool], revise)


async def adrain(target: str | _All, *, by: str, over: float) -> tuple[Change, ...]:
    """Make a worker, the workers of a host, or :data:`ALL_WORKERS` close all connections within ``over`` seconds.

    A worker is named by its id or as ``host:pid``. Unknown names and patterns are refused.
    """
    _check_time(over)
    ids = await _workers()
    found = EVERY_WORKER if isinstance(target, _All) else targets.known(target, ids)

    def revise(controls: Controls, reading: Reading) -> Controls:
        # The drains of workers that have ended are complete. Another operator may know of workers that came since.
        running = ids | {worker.worker for worker in reading.workers}
        left = [each for each in controls.drains if ":" not in each.target or each.target in running]
        drain = Drain(found, float(over), printable(by), reading.now)
        return replace(controls, drains=(*(each for each in left if each.target != found), drain))

    return await _revise(list(conf.current().pools), revise, told=lambda change: change.after != NO_DRAIN)


async def acancel(target: str | _All, *, by: str) -> tuple[Change, ...]:
    """End the drain of a target, named as for :func:`adrain`; with :data:`ALL_WORKERS`, every drain."""
    if not isinstance(target, _All):
        targets.check(target)

    def revise(controls: Controls, reading: Reading) -> Controls:
        if isinstance(target, _All):
            return replace(controls, drains=())
        found = targets.resolved(target, {drain.target for drain in controls.drains})
        return replace(controls, drains=tuple(drain for drain in controls.drains if found != drain.target))

    return await _revise(list(conf.current().pools), revise)


async def adescribe(pool: str) -> tuple[str, ...]:
    """The values in force in a pool, a line for each, with the operator and the time of overrides."""
    settings = conf.current()
    found = settings.pool(pool)
    async with connected(open_ledger(settings), TIMEOUT) as ledger:
        (reading,) = await ledger.read((pool,))
    return tuple(_describe(found, reading))


change = async_to_sync(achange)
drain = async_to_sync(adrain)
cancel = async_to_sync(acancel)
describe = async_to_sync(adescribe)

NO_DRAIN = "none"


def _check_limit(limit: object) -> None:
    """A limit that is no whole number could be stored, and not read again: there would be none."""
    if type(limit) is not int:
        raise ControlError(LIMIT_RANGE, most=f"{MAX_LIMIT:,}", limit=repr(limit))
    if not 0 <= limit <= MAX_LIMIT:
        raise ControlError(LIMIT_RANGE, most=f"{MAX_LIMIT:,}", limit=f"{limit:,}")


def _check_time(over: Any) -> None:
    if not is_number(over):
        raise ControlError(TIME_RANGE, most=f"{LONGEST:,.0f}", over=repr(over))
    if not 0 <= over <= LONGEST:
        raise ControlError(TIME_RANGE, most=f"{LONGEST:,.0f}", over=f"{over:g}")


def _with(controls: Controls, name: str, order: Order | None) -> Controls:
    """The controls with ``order``, or unchanged if the present order has the same value."""
    now: Order | None = getattr(controls, name)
    if now is not None and order is not None and (now.value, now.over) == (order.value, order.over):
        return controls
    return replace(controls, **{name: order})  # type: ignore[arg-type]


async def _workers() -> frozenset[str]:
    """The ids of all workers in all pools."""
    settings = conf.current()
    async with connected(open_ledger(settings), TIMEOUT) as ledger:
        readings = await ledger.read(tuple(settings.pools))
    return frozenset(worker.worker for reading in readings for worker in reading.workers)


async def _revise(
    pools: list[str], revise: Revision, told: Callable[[Change], bool] = lambda change: True
) -> tuple[Change, ...]:
    """Revise each pool, and return the changes that pass ``told``. The ledger refuses a change of an older version."""
    settings = conf.current()
    changes: list[Change] = []
    if settings.ledger.backend == MEMORY and not await _workers():
        raise ControlError(UNREACHABLE, SET_LEDGER, setting=f"{conf.NAME}['LEDGER']")
    for pool in map(settings.pool, pools):
        try:
            async with connected(open_ledger(settings), TIMEOUT) as ledger:
                changes += filter(told, await _revise_one(ledger, pool, revise))
        except AdmissionError as error:
            error.made = tuple(changes)
            raise
    return tuple(changes)


async def _revise_one(ledger: Ledger, pool: PoolSettings, revise: Revision) -> tuple[Change, ...]:
    for _attempt in range(TRIES):
        (reading,) = await ledger.read((pool.name,))
        before, after = reading.controls, revise(reading.controls, reading)
        if before == after:
            return ()
        if len(after.drains) > MOST_DRAINS or size(after) > MOST_BYTES:
            raise ControlError(TOO_MANY, most=MOST_DRAINS)
        if await ledger.control(pool.name, after, before.version):
            return tuple(_changes(pool, reading, after))
    raise ControlError(OTHERS, pool=repr(pool.name))


def _changes(pool: PoolSettings, reading: Reading, after: Controls) -> Iterator[Change]:
    before, configured = reading.controls, _configured(pool, reading)
    for what, tell in (("limit", _limit), ("admissions", _admissions), ("dry run", _dry_run)):
        old, new = (tell(controls, pool, configured) for controls in (before, after))
        if old != new:
            yield Change(pool.name, what, old, new)
    old_drains, new_drains = ({each.target: each for each in controls.drains} for controls in (before, after))
    for target in old_drains | new_drains:
        old_drain, new_drain = old_drains.get(target), new_drains.get(target)
        if old_drain != new_drain:
            others = reading.elsewhere.workers if target == EVERY_WORKER and new_drain is not None else 0
            unsure = f"; it may miss workers of another version ({others:,}): drain their hosts" if others else ""
            yield Change(pool.name, f"drain of {target_name(target)}", _drain(old_drain), _drain(new_drain) + unsure)


def _describe(pool: PoolSettings, reading: Reading) -> Iterator[str]:
    controls, configured = reading.controls, _configured(pool, reading)
    for what, tell, order in (
        ("limit", _limit, controls.limit),
        ("admissions", _admissions, controls.paused),
        ("dry run", _dry_run, controls.dry_run),
    ):
        yield f"Pool {pool.name}: {what} {tell(controls, pool, configured)}{signature(order) if order else ''}"
    for drain in controls.drains:
        yield f"Pool {pool.name}: drain of {target_name(drain.target)} {_drain(drain)}{signature(drain)}"


def _configured(pool: PoolSettings, reading: Reading) -> int:
    return pool.max_connections if reading.limit is None else reading.limit


def _limit(controls: Controls, pool: PoolSettings, configured: int) -> str:
    order = controls.limit
    if order is None:
        return f"{configured:,} by the settings"
    return f"{order.value:,}" + ("" if order.over is None else f" (enforced within {order.over:g} s)")


def _admissions(controls: Controls, pool: PoolSettings, configured: int) -> str:
    return "paused" if controls.paused else "open"


def _dry_run(controls: Controls, pool: PoolSettings, configured: int) -> str:
    if controls.dry_run is None:
        return f"{'on' if pool.dry_run else 'off'} by the settings"
    return "on" if controls.dry_run.value else "off"


def _drain(drain: Drain | None) -> str:
    return NO_DRAIN if drain is None else f"{drain.over:g} s"

"""What a worker writes to the log about one pool and its ledger."""

import logging

from .. import __version__
from ..core.agreement import SITE, Numbers, shown
from ..exceptions import LedgerError

logger = logging.getLogger("channels_admission")


def lost(pool: str, decides: str, error: LedgerError, *, for_good: bool) -> None:
    """The ledger is away, or refuses what is asked of it ``for_good``; ``decides`` is ``WHEN_LEDGER_DOWN``."""
    level = logging.ERROR if for_good else logging.WARNING
    logger.log(level, "Ledger lost for pool %r, deciding alone (%s): %s", pool, decides, error)


def late(pool: str, took: float, allowed: float) -> None:
    logger.warning(
        "The ledger of pool %r answers, but too late: after %.0f ms, and LEDGER_TIMEOUT allows %.0f ms.",
        pool, 1000 * took, 1000 * allowed,
    )  # fmt: skip


def regained(pool: str) -> None:
    logger.warning("Ledger regained for pool %r.", pool)


def lapsed(pool: str, worker: str, held: int) -> None:
    logger.warning("The lease of %s had run out: pool %r may have been above its limit by %d.", worker, pool, held)


def taken_name(worker: str, error: Exception) -> None:
    logger.warning("Another worker reports as %s (%s); going on under a new name.", worker, error)


def damaged(pool: str) -> None:
    logger.warning(
        "Counts of pool %r in the ledger were damaged and are counted anew; does something else write there?", pool
    )


def counted_elsewhere(pool: str, held: int) -> None:
    """Workers of releases with another layout hold so many slots of the pool, or none any more."""
    if not held:
        logger.warning("Pool %r: all slots are counted in one place again.", pool)
        return
    logger.warning(
        "Pool %r: %d slots are held by workers of another version of the package, which keep their counts apart. The "
        "limit holds for all together; quotas and rates hold for the workers of each version. This worker runs %s.",
        pool, held, __version__,
    )  # fmt: skip


def settings_in_force(pool: str, own: Numbers, in_force: Numbers, prefix: str, *, is_new: bool) -> None:
    """Other settings than the worker's ``own`` are in force, or its own ones again, where there are none.

    ``is_new``: this was not told lately; else it is logged at level INFO.
    """
    level = logging.WARNING if is_new else logging.INFO
    if not in_force:
        logger.log(level, "Pool %r: all workers have the same settings again.", pool)
        return
    differing = [name for name, number in in_force.items() if number != own.get(name)]
    if SITE in differing:
        differing.remove(SITE)
        logger.log(
            level,
            "Pool %r: workers of another site count in it, with the same Redis and PREFIX %r; this one is of site %d. "
            "Give each project and each environment a PREFIX of its own. During a rolling deployment that changes "
            "SECRET_KEY this passes. The workers on each side: manage.py ws_status --diagnose",
            pool, prefix, own[SITE],
        )  # fmt: skip
    if differing:
        logger.log(
            level,
            "Pool %r: workers have different settings, and the strictest are in force: %s. This one has: %s. "
            "The workers on each side: manage.py ws_status --diagnose", pool,
            ", ".join(shown(name, in_force[name]) for name in differing),
            ", ".join(shown(name, own.get(name)) for name in differing),
        )  # fmt: skip

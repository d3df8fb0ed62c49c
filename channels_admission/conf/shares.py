"""The classes and quotas of a pool, from its settings, as the ledger takes them."""

import math

from ..core.quotas.shares import Bound, Class
from . import PoolSettings
from .quotas import EXEMPT, MOST, OLDEST, PENDING, Quota


def classes(pool: PoolSettings) -> tuple[Class, ...]:
    """Every class of a pool: the nameless default first, those with a share, the exempt one last."""
    named = (Class(name, share) for name, share in pool.shares.items())
    return (Class("", 1.0), *named, Class(EXEMPT, math.inf))


def bounds(pool: PoolSettings) -> tuple[Bound, ...]:
    """Every quota of a pool, that of the unauthenticated last."""
    pending = () if pool.pending_share is None else (Bound(PENDING, None, pool.pending_share),)
    return (*map(_bound, pool.quotas), *pending)


def _bound(quota: Quota) -> Bound:
    most = MOST if quota.max is None else quota.max
    return Bound(quota.name, most, rate=quota.rate, burst=quota.burst, oldest=quota.full == OLDEST)

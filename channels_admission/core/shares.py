"""Parts of a limit: quotas and classes as a ledger sees them. Pure: numbers in, answers out."""

import math
from dataclasses import dataclass

from .levels import ROUNDING


@dataclass(frozen=True, slots=True)
class Bound:
    """A quota as a ledger sees it: the most slots under one key, or, where ``most`` is None, a share of the limit."""

    name: str
    most: int | None
    share: float = 0.0
    rate: float | None = None
    """Attempts a second under one key; None for no limit."""
    burst: int = 0
    """Attempts that may come at once."""
    oldest: bool = False
    """Whether the oldest connection under a key gives way to a new one."""


@dataclass(frozen=True, slots=True)
class Class:
    """A class of connections, the share of the limit up to which it may fill the pool, and the slots it holds."""

    name: str
    share: float
    """Infinite for those who are always admitted."""
    held: int = 0


def ceiling(share: float, limit: int) -> float:
    """The most slots that a share of the limit is; infinite for who is always admitted."""
    return share if math.isinf(share) else math.floor(share * limit + ROUNDING)


def most(bound: Bound, limit: int) -> float:
    """The most slots under one key of a quota."""
    return ceiling(bound.share, limit) if bound.most is None else bound.most

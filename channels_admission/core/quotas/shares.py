"""Quotas and classes as the ledger takes them: parts of a limit. Pure."""

import math
from dataclasses import dataclass

from ..levels import ROUNDING


@dataclass(frozen=True, slots=True)
class Bound:
    """A quota: at most ``most`` slots under one key, or ``share`` of the limit, if given."""

    name: str
    most: int | None
    share: float = 0.0
    rate: float | None = None
    """Attempts per second under one key; None for no limit."""
    burst: int = 0
    """Attempts that may come at once."""
    oldest: bool = False
    """Whether a new connection evicts the oldest one under its key."""


@dataclass(frozen=True, slots=True)
class Class:
    """A class of connections: the share of the limit up to which it may fill the pool, and the slots it holds."""

    name: str
    share: float
    """Infinite for the exempt class, which is always admitted."""
    held: int = 0


def ceiling(share: float, limit: int) -> float:
    """Slots in a share of the limit; infinite for the exempt class."""
    return share if math.isinf(share) else math.floor(share * limit + ROUNDING)


def most(bound: Bound, limit: int) -> float:
    """The most slots under one key of a quota; the lower of both where it has a number and a share."""
    if bound.most is None:
        return ceiling(bound.share, limit)
    return min(bound.most, ceiling(bound.share, limit)) if bound.share else bound.most

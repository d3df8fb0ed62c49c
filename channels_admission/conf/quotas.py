"""``QUOTAS``, ``CLASSIFY``, ``SHARES`` and ``PENDING_SHARE``: how clients share a pool."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..core.quotas.attempts import FILLS_WITHIN
from .validators import Wrong, function, is_number, nearest

ADDRESS = "address"
BUILT_IN = (ADDRESS, "user")
"""The built-in keys."""
EXEMPT = "exempt"
"""The class that is always admitted."""
PENDING = "pending"
"""The quota under which unauthenticated connections are counted."""
MOST_QUOTAS = 8
MOST_CLASSES = 16
MOST = 10_000_000
"""Most slots of a quota; a larger number is taken for a mistake."""
SLOWEST, FASTEST = 0.001, 10_000
"""Attempts per second and key; a rate outside is taken for a mistake."""
BURST_TIME = 10
"""Seconds of the rate that make the default burst."""
NAME = r"[a-z][a-z0-9_-]{0,31}"
REFUSE, OLDEST = "refuse", "oldest"
"""Above the maximum, refuse the new connection, or close the oldest one under its key."""
MOST_OLDEST = 100
"""The largest ``max`` with :data:`OLDEST`, since the ledger stores the age of each connection."""
QUOTA_KEYS = ("key", "name", "max", "rate", "burst", "full")

Function = Callable[[Any], str | None]
"""A function from a scope to a key or a class; None where there is none, or not yet."""


@dataclass(frozen=True, slots=True)
class Quota:
    """At most ``max`` slots and ``rate`` attempts per second under one key; ``key`` is built in or a function."""

    name: str
    key: str | Function
    max: int | None
    """None to limit attempts only."""
    rate: float | None = None
    """None to limit slots only."""
    burst: int = 0
    """Attempts that may come at once."""
    full: str = REFUSE
    """:data:`REFUSE` or :data:`OLDEST`."""


def quotas(value: Any) -> tuple[Quota, ...]:
    """Validate ``QUOTAS``."""
    if not isinstance(value, list | tuple) or len(value) > MOST_QUOTAS:
        raise Wrong(f"a list of at most {MOST_QUOTAS} quotas, each {{'key': …, 'max': …}}")
    read = tuple(map(_quota, value))
    names = [quota.name for quota in read]
    for name in names:
        if names.count(name) > 1:
            raise Wrong("a list of quotas with different names", f"Give each {name!r} a 'name' of its own.")
    return read


def _quota(value: Any) -> Quota:
    wrong = Wrong("a list of quotas, each {'key': …, 'max': …}, with 'rate' beside or instead of 'max'")
    if not isinstance(value, dict):
        raise wrong
    for name in value:
        if name not in QUOTA_KEYS:
            known = ", ".join(map(repr, QUOTA_KEYS))
            raise Wrong(f"a list of dicts of {known}", f"{name!r:.40} is unknown.{nearest(name, QUOTA_KEYS)}")
    if "key" not in value or not {"max", "rate"} & set(value):
        raise wrong
    key, most = value["key"], value.get("max")
    if "max" in value and not _is_whole(most, MOST):
        raise Wrong(
            f"a list of quotas whose every 'max' is a whole number from 1 to {MOST}", f"{most!r:.40} is not valid."
        )
    name = value.get("name", str(key).rpartition(".")[2])
    if not isinstance(name, str) or not re.fullmatch(NAME, name) or name == PENDING:
        own = "" if "name" in value else f" Give the quota of {key!r:.60} a 'name'."
        why = f"{name!r:.40} is not valid.{own}"
        raise Wrong("a list of quotas with names of 1 to 32 of a-z, 0-9, '_' and '-'", why)
    return Quota(name, key if key in BUILT_IN else _function(key, "key"), most, *_attempts(value), _full(value))


def _full(value: Mapping[str, Any]) -> str:
    full = value.get("full", REFUSE)
    if full not in (REFUSE, OLDEST):
        raise Wrong(f"a list of quotas whose every 'full' is {REFUSE!r} or {OLDEST!r}", f"{full!r:.40} is not valid.")
    if "full" in value and not _is_whole(value.get("max"), MOST_OLDEST if full == OLDEST else MOST):
        raise Wrong(f"a list of quotas in which 'full' needs a 'max', with {OLDEST!r} of at most {MOST_OLDEST}")
    return str(full)


def _attempts(value: Mapping[str, Any]) -> tuple[float | None, int]:
    """The rate of a quota, and its burst."""
    if "rate" not in value:
        if "burst" in value:
            raise Wrong("a list of quotas in which every 'burst' has a 'rate'")
        return None, 0
    rate = value["rate"]
    if not is_number(rate) or not SLOWEST <= rate <= FASTEST:
        raise Wrong(
            f"a list of quotas whose every 'rate' is a number of attempts per second from {SLOWEST} to {FASTEST}",
            f"{rate!r:.40} is not valid.",
        )
    burst, most = value.get("burst", max(1, math.ceil(BURST_TIME * rate))), max(1, math.floor(FILLS_WITHIN * rate))
    if not _is_whole(burst, most):
        raise Wrong(
            f"a list of quotas whose every 'burst' is a whole number of attempts from 1 to {FILLS_WITHIN} seconds of "
            f"the rate (here {most})",
            f"{burst!r:.40} is not valid.",
        )
    return float(rate), burst


def _is_whole(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _function(path: Any, what: str) -> Function:
    if isinstance(path, str) and "." not in path:
        raise Wrong(
            f"a list of quotas whose every {what!r} is {' or '.join(map(repr, BUILT_IN))} or a dotted path",
            f"{path!r:.40} is not valid.{nearest(path, BUILT_IN)}",
        )
    must = f"a list of quotas whose every {what!r}"
    return function(path, f"{must} is the dotted path of a function from a scope", f"{must} is callable", "scope")


def classify(value: Any) -> Function | None:
    """Validate ``CLASSIFY``."""
    if value is None:
        return None
    must = "None or the dotted path of a function"
    return function(value, f"{must} from a scope to the name of a class", f"{must} that is callable", "scope")


def shares(value: Any) -> Mapping[str, float]:
    """Validate ``SHARES``."""
    if not isinstance(value, dict) or len(value) > MOST_CLASSES:
        raise Wrong(f"a dict of at most {MOST_CLASSES} classes, each with its share of the limit")
    for name, share in value.items():
        if not isinstance(name, str) or not re.fullmatch(NAME, name) or name == EXEMPT:
            why = f"{name!r:.40} is {'always admitted and has no share' if name == EXEMPT else 'not valid'}."
            raise Wrong("a dict from names of 1 to 32 of a-z, 0-9, '_' and '-'", why)
        if not is_number(share) or not 0 <= share <= 1:
            raise Wrong("a dict from classes to shares of the limit from 0 to 1", f"{name!r} has {share!r:.40}.")
    return MappingProxyType({name: float(share) for name, share in value.items()})


def pending_share(value: Any) -> float | None:
    """Validate ``PENDING_SHARE``."""
    if value is not None and (not is_number(value) or not 0 < value <= 1):
        raise Wrong("None or a share of the limit above 0 and at most 1, such as 0.2")
    return None if value is None else float(value)

"""How a pool is shared, as settings say it: quotas, classes with their shares, and the deadline of strangers."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType
from typing import Any

from .values import Wrong, function, nearest

BUILT_IN = ("address", "user")
"""The keys there always are."""
EXEMPT = "exempt"
"""The class that is always admitted."""
PENDING = "pending"
"""The name under which strangers are counted."""
MOST_QUOTAS = 8
MOST_CLASSES = 16
MOST = 10_000_000
"""Slots; a larger quota is taken for a mistake."""
NAME = r"[a-z][a-z0-9_-]{0,31}"

Function = Callable[[Any], str | None]
"""From a scope to a key or a class; None where it has none, or not yet."""


@dataclass(frozen=True, slots=True)
class Quota:
    """At most ``max`` slots under one key; ``key`` is built in, or a function."""

    name: str
    key: str | Function
    max: int


def quotas(value: Any) -> tuple[Quota, ...]:
    """``QUOTAS`` read."""
    if not isinstance(value, list | tuple) or len(value) > MOST_QUOTAS:
        raise Wrong(f"a list of at most {MOST_QUOTAS} quotas, each {{'key': …, 'max': …}}")
    read = tuple(map(_quota, value))
    names = [quota.name for quota in read]
    for name in names:
        if names.count(name) > 1:
            raise Wrong(f"a list whose names differ, and {name!r} stands in it twice: give them a 'name'")
    return read


def _quota(value: Any) -> Quota:
    if not isinstance(value, dict) or not {"key", "max"} <= set(value) <= {"key", "max", "name"}:
        raise Wrong("a list of quotas, each {'key': …, 'max': …} and perhaps a 'name'")
    key, most = value["key"], value["max"]
    if not isinstance(most, int) or isinstance(most, bool) or not 1 <= most <= MOST:
        raise Wrong(f"a list of quotas whose every 'max' is a whole number from 1 to {MOST}, and {most!r:.40} is not")
    name = value.get("name", str(key).rpartition(".")[2])
    if not isinstance(name, str) or not re.fullmatch(NAME, name) or name == PENDING:
        raise Wrong(f"a list of quotas with names of 1 to 32 of a-z, 0-9, '_' and '-', and not {name!r:.40}")
    return Quota(name, key if key in BUILT_IN else _function(key, "key"), most)


def _function(path: Any, what: str) -> Function:
    if isinstance(path, str) and "." not in path:
        raise Wrong(
            f"given with a {what} that is {' or '.join(BUILT_IN)} or a dotted path, and {path!r:.40} is neither."
            + nearest(path, BUILT_IN)
        )
    return function(
        path, "given with the dotted path of a function from a scope", f"given with a {what} that can be called"
    )


def classify(value: Any) -> Function | None:
    """``CLASSIFY`` read."""
    if value is None:
        return None
    must = "None or the dotted path of a function"
    return function(value, f"{must} from a scope to the name of a class", f"{must}, which can be called")


def shares(value: Any) -> Mapping[str, float]:
    """``SHARES`` read."""
    if not isinstance(value, dict) or len(value) > MOST_CLASSES:
        raise Wrong(f"a dict of at most {MOST_CLASSES} classes, each with its share of the limit")
    for name, share in value.items():
        if not isinstance(name, str) or not re.fullmatch(NAME, name) or name == EXEMPT:
            raise Wrong(f"a dict from names of 1 to 32 of a-z, 0-9, '_' and '-', and not {name!r:.40}")
        if not _is_number(share) or not 0 <= share <= 1:
            raise Wrong(f"a dict to shares of the limit from 0 to 1, and {share!r:.40} of {name!r} is none")
    return MappingProxyType({name: float(share) for name, share in value.items()})


def part(value: Any) -> float | None:
    """``PENDING_SHARE`` read."""
    if value is not None and (not _is_number(value) or not 0 < value <= 1):
        raise Wrong("None or a share of the limit above 0 and at most 1, such as 0.2")
    return None if value is None else float(value)


def deadline(value: Any) -> float | None:
    """``PENDING_DEADLINE`` read."""
    if value is not None and (not _is_number(value) or not 0.1 <= value <= 3600):
        raise Wrong("None or a number of seconds from 0.1 to 3600")
    return None if value is None else float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)

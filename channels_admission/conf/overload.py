"""``PRESSURE``: the monitors of a worker and their thresholds."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..core.counters import ADMITTED, NO_HANDSHAKES, OTHER, Reason
from .validators import Wrong, function, is_number, nearest

BUILT_IN: Mapping[str, tuple[float, float] | None] = {
    "lag": (0.1, 0.5),
    "memory": (0.85, 0.95),
    "descriptors": (0.85, 0.95),
    "cpu": None,
    "threads": None,
}
"""The built-in monitors with their thresholds: seconds for the lag and the threads, shares of what is allowed for the
others."""

SECONDS, SHARES = (60.0, "at most 60 seconds"), (1.0, "at most 1, all of what is allowed")
GREATEST: Mapping[str, tuple[float, str]] = {
    "lag": SECONDS,
    "threads": SECONDS,
    "memory": SHARES,
    "descriptors": SHARES,
    "cpu": (64.0, "shares of one core, at most 64"),
}
"""The greatest thresholds of the built-in monitors, in words too. Greater ones are milliseconds or per cent by mistake,
and would never be reached."""

TAKEN = frozenset({*Reason, *NO_HANDSHAKES, ADMITTED, OTHER})
"""Names of other counters. Refusals by a monitor are counted under its name, so it may have none of these."""

Source = Callable[[], float | None]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Readings from which a monitor refuses some handshakes (``scaling``) and all (``saturation``)."""

    scaling: float
    saturation: float


@dataclass(frozen=True, slots=True)
class Watch:
    """A monitor: its source, None if built in, and its thresholds, None if it is only shown."""

    name: str
    source: Source | None
    thresholds: Thresholds | None


def pressure(value: Any) -> Mapping[str, Watch]:
    """Every monitor by name; ``value`` overrides the built-in thresholds and adds the site's monitors."""
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise Wrong("a dict from a monitor's name to (scaling, saturation) or None")
    return MappingProxyType({name: _watch(name, each) for name, each in {**BUILT_IN, **value}.items()})


def _watch(name: str, value: Any) -> Watch:
    if name in BUILT_IN:
        return Watch(name, None, _thresholds(name, value))
    if not isinstance(value, dict) or set(value) != {"MONITOR", "THRESHOLDS"}:
        unknown = f"{name!r:.40} is unknown.{nearest(name, BUILT_IN)} Write a monitor of your own as "
        raise Wrong(
            f"a dict of {', '.join(BUILT_IN)}",
            (f"Write {name!r:.40} as " if isinstance(value, dict) else unknown)
            + "{'MONITOR': 'dotted.path', 'THRESHOLDS': (scaling, saturation)}.",
        )
    return Watch(_own_name(name), _source(value["MONITOR"]), _thresholds(name, value["THRESHOLDS"]))


def _own_name(name: str) -> str:
    if not re.fullmatch("[a-z][a-z0-9_]{0,23}", name):
        raise Wrong(
            "a dict from names of monitors: a letter and up to 23 of a-z, 0-9 and '_'", f"{name!r:.40} is not valid."
        )
    if name in TAKEN:
        raise Wrong("a dict from unused names of monitors", f"{name!r} is the name of another counter.")
    return name


def _source(path: Any) -> Source:
    must = "a dict whose every MONITOR"
    return function(path, f"{must} is the dotted path of a function", f"{must} is callable")


def _thresholds(name: str, value: Any) -> Thresholds | None:
    if value is None:
        return None
    if not isinstance(value, tuple | list) or len(value) != 2 or not all(map(is_number, value)):
        raise Wrong(f"a dict in which {name!r:.40} is (scaling, saturation), two numbers, or None to show it only")
    scaling, saturation = map(float, value)
    if not 0 < scaling < saturation:
        raise Wrong(f"a dict in which {name!r:.40} is (scaling, saturation) with 0 < scaling < saturation")
    most, told = GREATEST.get(name, (math.inf, ""))
    if saturation > most:
        raise Wrong(f"a dict in which {name!r} is (scaling, saturation), {told}")
    return Thresholds(scaling, saturation)

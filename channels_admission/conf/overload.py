"""``PRESSURE`` read: which monitors a worker has, and from which readings on each of them refuses."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType
from typing import Any

from ..core.counters import ADMITTED, NO_HANDSHAKES, OTHER, Reason
from .validators import Wrong, function, nearest

BUILT_IN: Mapping[str, tuple[float, float] | None] = {
    "lag": (0.1, 0.5),
    "memory": (0.85, 0.95),
    "descriptors": (0.85, 0.95),
    "cpu": None,
}
"""The monitors there always are, with their thresholds: seconds for the lag, shares of what is allowed for the rest."""

TAKEN = frozenset({*Reason, *NO_HANDSHAKES, ADMITTED, OTHER})
"""Names that count something else already: a monitor's refusals are counted under its own."""

Source = Callable[[], float | None]


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From ``scaling`` on a monitor refuses some, from ``saturation`` on all."""

    scaling: float
    saturation: float


@dataclass(frozen=True, slots=True)
class Watch:
    """One monitor: its source, unless it is built in, and its thresholds, unless it is only shown."""

    name: str
    source: Source | None
    thresholds: Thresholds | None


def pressure(value: Any) -> Mapping[str, Watch]:
    """Every monitor by name; ``value`` overrides the built-in thresholds, and adds monitors of its own."""
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise Wrong("a dict from a monitor's name to (scaling, saturation) or None")
    return MappingProxyType({name: _watch(name, each) for name, each in {**BUILT_IN, **value}.items()})


def _watch(name: str, value: Any) -> Watch:
    if name in BUILT_IN:
        return Watch(name, None, _thresholds(name, value))
    if not isinstance(value, dict) or set(value) != {"MONITOR", "THRESHOLDS"}:
        raise Wrong(
            f"a dict of {', '.join(BUILT_IN)}, and {name!r:.40} is none of them.{nearest(name, BUILT_IN)} A monitor of "
            "your own is written {'MONITOR': 'dotted.path', 'THRESHOLDS': (scaling, saturation)}"
        )
    return Watch(_own_name(name), _source(value["MONITOR"]), _thresholds(name, value["THRESHOLDS"]))


def _own_name(name: str) -> str:
    if not re.fullmatch("[a-z][a-z0-9_]{0,23}", name):
        raise Wrong(f"a dict whose names are a letter and at most 23 more of a-z, 0-9 and '_', and not {name!r:.40}")
    if name in TAKEN:
        raise Wrong(f"a dict in which no monitor of your own is called {name!r}, as something else is counted by it")
    return name


def _source(path: Any) -> Source:
    must = "a dict whose every MONITOR"
    return function(path, f"{must} is the dotted path of a function", f"{must} can be called")


def _thresholds(name: str, value: Any) -> Thresholds | None:
    if value is None:
        return None
    if not isinstance(value, tuple | list) or len(value) != 2 or not all(map(_is_number, value)):
        raise Wrong(f"a dict in which {name!r:.40} has (scaling, saturation), two numbers, or None to be shown only")
    scaling, saturation = map(float, value)
    if not 0 < scaling < saturation:
        raise Wrong(f"a dict in which {name!r:.40} has 0 < scaling < saturation")
    return Thresholds(scaling, saturation)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)

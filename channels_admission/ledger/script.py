"""The scripts that Redis runs, joined from their parts in ``lua/``.

Each part is one local table of functions, which may use the parts before it, and ``main`` calls them in the order of
the contract. Before all stands the table ``const``, the numbers and names that Python knows as well.
"""

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from ..conf import MAX_LIMIT
from ..core.agreement import DIGITS, GREATEST, MOST_SETTINGS
from ..core.agreement import LONGEST as LONGEST_SETTINGS
from ..core.attempts import LONGEST, SETS, WAYS
from ..core.counters import ADMITTED, DRY, FAULT, NO_HANDSHAKES, OTHER, RELEASED
from ..core.holders import MOST_POSTED
from ..core.levels import CRITICAL_AT, HYSTERESIS
from ..core.overrides import EVERYBODY
from ..core.protocol import KEY_BYTES
from ..core.rate import ROUNDING, SCHEDULED
from .base import EDGES_KEPT, LONGEST_MOMENT, MINUTES, REAPED_PER_CALL, SECONDS, SPREAD
from .buckets import SHORT
from .codec import FIRST_QUOTA, FIRST_RATE, GRANTED, KEYS, LONGEST_TEXT, POOL, RECORD, SEAL, VERDICTS
from .overrides import LATEST_VERSION, MOST_BYTES

PARTS = (
    "codec", "report", "settings", "clock", "records", "overrides", "host", "leases", "rate", "pool", "levels",
    "history", "books", "claims", "quotas", "attempts", "holders", "grants", "reply", "main",
)  # fmt: skip
SHARED = ("books", "claims", "quotas", "attempts", "holders")
"""The parts that are run only for a pool that is shared; they stand together. To any other they are empty tables."""
CONSTANTS: Mapping[str, Any] = {
    "KEYS": KEYS,
    "POOL": POOL,
    "RECORD": RECORD,
    "SEAL": SEAL,
    "FINGERPRINT": DIGITS,
    "RECORD_BYTES": LONGEST_TEXT,
    "MAX_LIMIT": MAX_LIMIT,
    "REAPED_PER_CALL": REAPED_PER_CALL,
    "CONTROLS_BYTES": MOST_BYTES,
    "LATEST_VERSION": LATEST_VERSION,
    "EVERYBODY": EVERYBODY,
    "GREATEST": dict.fromkeys(sorted(GREATEST), True),
    "MOST_SETTINGS": MOST_SETTINGS,
    "LONGEST_SETTINGS": LONGEST_SETTINGS,
    "SECONDS": SECONDS,
    "MINUTES": MINUTES,
    "SPREAD": SPREAD,
    "LONGEST_MOMENT": LONGEST_MOMENT,
    "ADMITTED": ADMITTED,
    "RELEASED": RELEASED,
    "OTHER": OTHER,
    "DRY": DRY,
    "FAULT": FAULT,
    "NO_HANDSHAKES": {SHORT.get(name, name): True for name in sorted(NO_HANDSHAKES)},
    "SCHEDULED": SCHEDULED,
    "ROUNDING": ROUNDING,
    "CRITICAL_AT": CRITICAL_AT,
    "HYSTERESIS": HYSTERESIS,
    "EDGES_KEPT": EDGES_KEPT,
    "KEY_BYTES": KEY_BYTES,
    "SETS": SETS,
    "WAYS": WAYS,
    "LONGEST_DEBT": 1000 * LONGEST,
    "MOST_POSTED": MOST_POSTED,
    "FIRST_QUOTA": FIRST_QUOTA,
    "FIRST_RATE": FIRST_RATE,
    "VERDICTS": {"admitted": GRANTED, **{reason.value: letter for letter, reason in VERDICTS.items()}},
}
DEFINED = re.compile(r"^function (\w+\.\w+)\(", re.MULTILINE)


def reconcile(replaced: Mapping[str, str] = {}) -> str:
    """The script that applies a report.

    For tests, functions may be ``replaced``: ``{"clock.wall": "function() return 0 end"}``. Each must be there.
    """
    if unknown := set(replaced) - set(DEFINED.findall("".join(map(part, PARTS)))):
        raise ValueError(f"the script has no function {', '.join(sorted(unknown))}")
    others = [_roomy(name) for name in PARTS if name not in SHARED]
    tables = f"local {', '.join(SHARED)} = {', '.join('{}' for _ in SHARED)}"
    shared = "\n".join(_roomy(name).replace(f"local {name} =", f"{name} =", 1) for name in SHARED)
    first = [name for name in PARTS if name not in SHARED].index("grants")
    changed = (f"{name} = {body}" for name, body in replaced.items())
    return "\n".join(
        (
            _head(), *others[:first], tables, f"if report.shared then\n{shared}\nend", *others[first:-1], *changed,
            others[-1],
        )
    )  # fmt: skip


def control() -> str:
    """The script that sets what operators set."""
    return f"{_head()}\n{part('control')}"


@cache
def part(name: str) -> str:
    return files(__package__).joinpath("lua", f"{name}.lua").read_text()


def _roomy(name: str) -> str:
    """A part whose table has room for all its functions from the start: Lua copies one that grows, in every call."""
    rooms = "".join(f"{each.partition('.')[2]} = 0, " for each in DEFINED.findall(part(name)))
    return part(name).replace(f"local {name} = {{", f"local {name} = {{{rooms}", 1)


def _head() -> str:
    return f"local const = {_lua(CONSTANTS)}\n"


def _lua(value: Any) -> str:
    """A value as Lua writes it."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'[{_lua(name)}] = {_lua(each)}' for name, each in value.items())}}}"
    if isinstance(value, tuple):
        return f"{{{', '.join(map(_lua, value))}}}"
    if isinstance(value, str):
        if not re.fullmatch(r"[\w#:.*-]*", value):
            raise ValueError(f"a text that Lua might read otherwise: {value!r}")
        return f"'{value}'"
    return str(value).lower() if isinstance(value, bool) else repr(value)


RECONCILE, CONTROL = reconcile(), control()

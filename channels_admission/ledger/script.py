"""The scripts that Redis runs, joined from their parts in ``lua/``.

Each part is one table of functions, which may use the parts before it, and ``main`` calls them in the order of the
contract. Numbers and names that Python knows as well stand in the parts as ``const.NAME``; the script has their values.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from ..conf import MAX_LIMIT
from ..conf.keys import MAX_LEASE
from ..core.agreement import DIGITS, GREATEST, MOST_SETTINGS, SEVERAL, SITE
from ..core.agreement import LONGEST as LONGEST_SETTINGS
from ..core.counters import (
    ADMITTED,
    AT,
    DATA_LOST,
    DRY,
    FAULT,
    GONE,
    INCIDENTS,
    LOST,
    NO_HANDSHAKES,
    OTHER,
    RELEASED,
)
from ..core.herd import line
from ..core.herd.bucket import ASIDE
from ..core.herd.rate import EAGER, GROWTH, MOST_SPEED, PROBING, SCHEDULED, SLACK
from ..core.levels import CRITICAL_AT, HYSTERESIS, NEAR_FULL, RESERVE_PARTS, ROUNDING
from ..core.overrides import EVERY_WORKER
from ..core.protocol import KEY_BYTES
from ..core.quotas.attempts import LONGEST, SETS, WAYS
from ..core.quotas.holders import MOST_POSTED
from .base import (
    COUNTER_BYTES,
    COUNTERS_BYTES,
    COUNTERS_KEPT,
    EDGES_KEPT,
    GONE_KEPT,
    LEASES_PER_CALL,
    LONGEST_BUCKET,
    MINUTES,
    REAPED_PER_CALL,
    SECONDS,
    SETTLING,
    SPREAD,
    SWEPT_PER_CALL,
)
from .buckets import NUMERAL_BYTES, SHORT
from .codec import FIRST_QUOTA, FIRST_RATE, GRANTED, KEYS, VERDICTS
from .layout import LAYOUT
from .overrides import LATEST_VERSION, MOST_BYTES
from .record import LONGEST_TEXT, POOL, RECORD, SEAL

PARTS = (
    "codec", "report", "agreement", "settings", "clock", "layouts", "records", "orders", "overrides", "host", "leases",
    "line", "rate", "pool", "levels", "history", "books", "claims", "quotas", "attempts", "holders", "tickets",
    "grants", "reply", "main",
)  # fmt: skip
SHARED = ("books", "claims", "quotas", "attempts", "holders")
"""The parts that are run only for a pool that is shared; they stand together. To any other they are empty tables."""
READ = {
    **dict.fromkeys(("held", "seq", "seen"), "%d+"), "left": "%-?%d+", "counters": "[^|]*", "draining": "1?",
    "speed": "%d*", "reserve": "%d*",
}  # fmt: skip
"""The parts of a worker's record that the script reads, and as what; what only a shared pool has is read as one."""


def _read(name: str) -> str:
    return f"({READ[name]})" if name in READ else "[^|]*"


def _places(names: Iterable[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names, 1)}


IN_SECONDS = ("GRACE", "WIDTH", "WIDE", "LONGEST", "SOON", "EARLY", "LATE", "AGAIN")
LINE_BYTES = 16_384
"""Of a pool's line as text; one that would be longer is forgotten."""
RARE = ("agreement", "orders", "line", "tickets")
"""The parts that few calls use; each is made when a call first does."""
CONSTANTS: Mapping[str, Any] = {
    "LAYOUT": str(LAYOUT),
    "KEY": _places(KEYS),
    "POOL": POOL,
    "FIELD": _places(name.removeprefix("#") for name in POOL),
    "POOL_FIELDS": tuple(text for name in POOL for text in (name, "")),
    "RECORD": RECORD,
    "RECORD_READ": "|".join(_read(name) for name in RECORD[:-2]).join(("^", "(.*)$")),
    "PART": _places((*(name for name in RECORD if name in READ), "rest")),
    "SEAL": SEAL,
    "FINGERPRINT": DIGITS,
    "RECORD_BYTES": LONGEST_TEXT,
    "MAX_LIMIT": MAX_LIMIT,
    "MAX_LEASE": round(1000 * MAX_LEASE),
    "LEASES_PER_CALL": LEASES_PER_CALL,
    "REAPED_PER_CALL": REAPED_PER_CALL,
    "SWEPT_PER_CALL": SWEPT_PER_CALL,
    "COUNTERS_KEPT": COUNTERS_KEPT,
    "COUNTERS_BYTES": COUNTERS_BYTES,
    "COUNTER_BYTES": COUNTER_BYTES,
    "NUMERAL_BYTES": NUMERAL_BYTES,
    "CONTROLS_BYTES": MOST_BYTES,
    "LATEST_VERSION": LATEST_VERSION,
    "EVERY_WORKER": EVERY_WORKER,
    "GREATEST": dict.fromkeys(sorted(GREATEST), True),
    "SITE": SITE,
    "SEVERAL": SEVERAL,
    "MOST_SETTINGS": MOST_SETTINGS,
    "LONGEST_SETTINGS": LONGEST_SETTINGS,
    "SETTLING": SETTLING,
    "SECONDS": SECONDS,
    "MINUTES": MINUTES,
    "SPREAD": SPREAD,
    "LONGEST_BUCKET": LONGEST_BUCKET,
    "ADMITTED": SHORT[ADMITTED],
    "RELEASED": SHORT[RELEASED],
    "LOST": LOST,
    "OTHER": OTHER,
    "DRY": DRY,
    "FAULT": FAULT,
    "AT": AT,
    "DATA_LOST": DATA_LOST,
    "GONE": GONE,
    "GONE_KEPT": GONE_KEPT,
    "INCIDENTS": dict.fromkeys(sorted(INCIDENTS), True),
    "NO_HANDSHAKES": {SHORT.get(name, name): True for name in sorted(NO_HANDSHAKES)},
    "ASIDE": ASIDE,
    "SCHEDULED": SCHEDULED,
    "ROUNDING": ROUNDING,
    "PROBING": PROBING,
    "GROWTH": GROWTH,
    "EAGER": EAGER,
    "SLACK": SLACK,
    "LINE": {
        **{name.lower(): round(1000 * getattr(line, name)) for name in IN_SECONDS},
        **{name.lower(): getattr(line, name) for name in ("LEAST", "LIKELY", "FADING", "ASSUMED", "PRIOR")},
        "bytes": LINE_BYTES,
    },
    "MOST_SPEED": round(1000 * MOST_SPEED),
    "CRITICAL_AT": CRITICAL_AT,
    "NEAR_FULL": NEAR_FULL,
    "RESERVE_PARTS": RESERVE_PARTS,
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
NAMED = re.compile(r"\bconst\.(\w+)(?:\.(\w+))?")


def reconcile(replaced: Mapping[str, str] = {}) -> str:
    """The script that applies a report.

    For tests, functions may be ``replaced``: ``{"clock.wall": "function() return 0 end"}``. Each must be there.
    The functions are made within others, which hand them the tables that they use. Lua would look up each of these
    tables again for every function that it made beside them.
    """
    if unknown := set(replaced) - set(DEFINED.findall("".join(map(part, PARTS)))):
        raise ValueError(f"the script has no function {', '.join(sorted(unknown))}")
    tables = [name for name in PARTS if name not in ("report", "main")]
    always, shared = ([_made(name, replaced) for name in tables if (name in SHARED) is each] for each in (False, True))
    return "\n".join((
        _literal(part("report")),
        f"local {', '.join(tables)}",
        "local function make()", *always, "end",
        "local function make_shared()", *shared, "end",
        f"if report.shared then make_shared() else {', '.join(SHARED)} = {', '.join('{}' for _ in SHARED)} end",
        "make()",
        _literal(part("main")),
    ))  # fmt: skip


def control() -> str:
    """The script that sets what operators set."""
    return _literal(part("control"))


@cache
def part(name: str) -> str:
    return files(__package__).joinpath("lua", f"{name}.lua").read_text()


def _made(name: str, replaced: Mapping[str, str]) -> str:
    """A part whose table is declared before, with those of its functions that are ``replaced``.

    The table has room for all its functions from the start: Lua copies one that grows, in every call.
    """
    rooms = "".join(f"{each.partition('.')[2]} = 0, " for each in DEFINED.findall(part(name)))
    changed = (f"{each} = {body}" for each, body in replaced.items() if each.startswith(f"{name}."))
    made = "\n".join((part(name).replace(f"local {name} = {{", f"{name} = {{{rooms}", 1), *changed))
    if name in RARE:
        made = f"{name} = setmetatable({{}}, {{__index = function(_, name)\n{made}\nreturn {name}[name]\nend}})"
    return _literal(made)


def _literal(source: str) -> str:
    """The source with the constants in their places; one that is a table is a new table in each."""
    return NAMED.sub(_constant, source)


def _constant(match: re.Match[str]) -> str:
    value = CONSTANTS[match[1]]
    return _lua(value[match[2]] if match[2] else value)


def _lua(value: Any) -> str:
    """A value as Lua writes it."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'[{_lua(name)}] = {_lua(each)}' for name, each in value.items())}}}"
    if isinstance(value, tuple):
        return f"{{{', '.join(map(_lua, value))}}}"
    if isinstance(value, str):
        if not re.fullmatch(r"[\w#:.*^$%+?()|\[\]-]*", value):
            raise ValueError(f"a text that Lua might read otherwise: {value!r}")
        return f"'{value}'"
    return str(value).lower() if isinstance(value, bool) else repr(value)


RECONCILE, CONTROL = reconcile(), control()

"""The settings that the workers of a pool must share. Where workers differ, the strictest value is in force.

Settings are numbers by name: ``limit`` (slots), ``warn_at`` (a share), ``lease`` and ``heartbeat`` (milliseconds),
``rate`` (admissions per second) and ``burst``, ``quota:NAME`` (slots), ``attempts:NAME`` (attempts per second),
``at_once:NAME`` (attempts), ``quota%:NAME`` and ``share:CLASS`` (shares of the limit). A setting of one worker also
binds workers without it; quotas and classes bind only workers that have them. ``site`` is the fingerprint of the
worker's site; where sites differ, :data:`SEVERAL` is in force in its place.

As text, settings are ``NAME=NUMBER,…`` in this order. The fingerprint is the first eight digits of the text's SHA-1.
``ledger/lua/settings.lua`` has the same rules; the contract tests cover both.
"""

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from .protocol import Report
from .quotas.shares import Bound

Numbers = Mapping[str, float]

GREATEST = frozenset({"lease", "heartbeat"})
"""Settings whose greatest value is the strictest; of the others the smallest is."""
DIGITS = 8
"""Hexadecimal digits of a fingerprint."""
FINGERPRINT = rf"[0-9a-f]{{{DIGITS}}}"
SITE, SEVERAL = "site", 0
"""The name of the site's fingerprint, and what stands for more than one."""
MOST_SETTINGS = 8
"""Different sets of settings that a pool keeps; beyond these, the two oldest are merged into the strictest of both."""
LONGEST = 4096
"""Bytes of one text."""
NUMBER = re.compile(r"([a-z_]{1,9}%?(?::[a-z0-9_-]{1,32})?)=(\d{1,9}(?:\.\d{1,9})?)")
TITLES = {
    "limit": "MAX_CONNECTIONS",
    "warn_at": "WARN_AT",
    "lease": "LEASE",
    "heartbeat": "HEARTBEAT",
    "rate": "CONNECT_RATE",
    "burst": "CONNECT_BURST",
    "quota": "QUOTAS",
    "quota%": "QUOTAS",
    "attempts": "QUOTAS, rate of",
    "at_once": "QUOTAS, burst of",
    "share": "SHARES",
    SITE: "site",
}


def text_of(report: Report, lease: float, heartbeat: float, site: int) -> str:
    """The settings of the reporting worker as text; ``lease`` and ``heartbeat`` in seconds."""
    fair = report.fair
    quotas, shares = (
        ((), ()) if fair is None else (fair.quotas, tuple((each.name, each.share) for each in fair.classes))
    )
    rate, burst = report.terms.rate, report.terms.burst
    return _text(report.limit, report.warn_at, lease, heartbeat, rate, burst, quotas, shares, site)


@lru_cache(256)
def _text(
    limit: int, warn_at: float, lease: float, heartbeat: float, rate: float | None, burst: int,
    quotas: tuple[Bound, ...], shares: tuple[tuple[str, float], ...], site: int,
) -> str:  # fmt: skip
    numbers = {"limit": limit, "warn_at": warn_at, "lease": round(1000 * lease), "heartbeat": round(1000 * heartbeat)}
    if rate:
        numbers |= {"rate": rate, "burst": burst}
    for quota in quotas:
        name, most = (
            (f"quota%:{quota.name}", quota.share) if quota.most is None else (f"quota:{quota.name}", quota.most)
        )
        numbers[name] = most
        if quota.rate:
            numbers |= {f"attempts:{quota.name}": quota.rate, f"at_once:{quota.name}": quota.burst}
    numbers |= {f"share:{name}": share for name, share in shares if name and not math.isinf(share)}
    return text({**numbers, SITE: site})


def text(numbers: Numbers) -> str:
    return ",".join(f"{name}={_plain(number)}" for name, number in numbers.items())


def _plain(number: float) -> str:
    return f"{number:.9f}".rstrip("0").rstrip(".")


@lru_cache(256)
def fingerprint(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()[:DIGITS]


def numbers_of(text: str) -> dict[str, float]:
    """The settings in a text; unknown parts are left out."""
    found = map(NUMBER.fullmatch, text[:LONGEST].split(","))
    return {match[1]: float(match[2]) for match in found if match}


def strictest(settings: Iterable[Numbers]) -> dict[str, float]:
    """The settings in force among all these."""
    found: dict[str, float] = {}
    for numbers in settings:
        for name, number in numbers.items():
            found[name] = _stricter(name, found.get(name, number), number)
    return found


def _stricter(name: str, one: float, other: float) -> float:
    if name == SITE:
        return one if one == other else SEVERAL
    return max(one, other) if name in GREATEST else min(one, other)


def differences(settings: Iterable[Numbers]) -> dict[str, tuple[float | None, ...]]:
    """The settings that differ, with their values: the smallest first, None for unset last."""
    settings = tuple(settings)
    names = list(dict.fromkeys(name for numbers in settings for name in numbers))
    found = {name: {numbers.get(name) for numbers in settings} for name in names}
    return {
        name: tuple(sorted(values, key=lambda value: (value is None, value)))
        for name, values in found.items()
        if len(values) > 1
    }


def sites(settings: Iterable[Numbers]) -> tuple[int, ...]:
    """The fingerprints of the sites that have these settings, in order; unknown ones are left out."""
    return tuple(sorted({int(site) for numbers in settings if (site := numbers.get(SITE, SEVERAL)) != SEVERAL}))


def shown(name: str, value: float | None) -> str:
    """A setting as shown: ``MAX_CONNECTIONS 500``, ``HEARTBEAT 0.5 s``, ``QUOTAS user 3``."""
    return f"{_title(name)} {_value(name, value)}"


def _title(name: str) -> str:
    kind, _, of = name.partition(":")
    return f"{TITLES.get(kind, kind)} {of}".strip()


def _value(name: str, value: float | None) -> str:
    if value is None:
        return "unset"
    return f"{_plain(value / 1000)} s" if name in GREATEST else _plain(value)


def shown_differences(differs: Mapping[str, Iterable[float | None]]) -> str:
    """Differing settings as shown: ``MAX_CONNECTIONS 50 and 500; WARN_AT 0.3 and 0.7``."""
    return "; ".join(
        f"{_title(name)} {' and '.join(_value(name, value) for value in values)}" for name, values in differs.items()
    )

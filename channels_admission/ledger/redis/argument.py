"""What the script is called with: the keys of a pool, and one argument."""

from typing import Any

import msgpack

from ...conf import Settings
from ...core import agreement
from ...core.counters import Counters
from ...core.levels import Level
from ...core.protocol import Report
from ..buckets import reported
from ..codec import KEYS, born, shared, shown
from ..layout import LAYOUT, key_of
from ..overrides import text as controls_text
from ..record import load_text, server_text

UNUSED_KEYS_EXPIRE = 3600.0
"""Seconds after the last report of a pool until its keys disappear; at least two leases."""
PLACES = {level: place for place, level in enumerate(Level)}
ALWAYS = KEYS.index("tickets")
"""How many of the keys every call may touch."""


def keys_expire(settings: Settings) -> float:
    return max(UNUSED_KEYS_EXPIRE, 2 * settings.lease)


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


class Caller:
    """The keys and arguments of one worker's calls for one pool. What is the same in each call is made once."""

    def __init__(self, settings: Settings, pool: str, layout: int = LAYOUT) -> None:
        self._settings = settings
        self._pool = pool
        self._layout = layout
        self._host: str | None = None
        self._keys: list[str] = []
        self._said: tuple[Any, ...] = ()
        self._same: dict[str, Any] = {}
        self._packed: tuple[Counters, str] = ({}, "")
        """The counters of the latest report, and their text: the next report has acknowledged them."""

    def keys(self, report: Report) -> list[str]:
        """The keys that the script may touch, in the order of KEYS."""
        if report.host != self._host:
            self._host = report.host
            self._keys = self._named({"host": f"host:{report.host}"}, KEYS[:ALWAYS])
        if report.fair is None:
            return [*self._keys, *self._named({}, KEYS[ALWAYS : ALWAYS + 1])] if report.shown else self._keys
        names = {"own": f"claims:{report.worker}", "swept": f"claims:{report.fair.sweep}"}
        return [*self._keys, *self._named(names, KEYS[ALWAYS:] if report.fair.sweep else KEYS[ALWAYS:-1])]

    def _named(self, names: dict[str, str], parts: tuple[str, ...]) -> list[str]:
        return [key_of(self._settings.prefix, self._pool, names.get(part, part), self._layout) for part in parts]

    def argument(self, report: Report) -> bytes:
        """The script's one argument: a map in MessagePack, with times in milliseconds. Whatever is absent is None."""
        said = report.worker, report.born, report.server, report.release, report.limit, report.warn_at, report.terms
        if report.fair is None and said != self._said:
            self._said, self._same = said, self._always(report)
        known, text = self._packed
        acknowledged = text if report.acknowledged is known else reported(report.acknowledged)
        counted = reported(report.counters)
        self._packed = report.counters, counted
        fields = {
            **(self._same if report.fair is None else self._always(report)),
            "seq": report.seq,
            "held": report.held,  # slots
            "wanted": report.wanted,  # handshakes
            "reserve": report.reserve or None,  # slots
            "ahead": report.ahead or None,  # slots
            "unused": report.unused or None,  # tokens
            "version": report.version,
            "allowance": report.allowance,  # slots
            "age": milliseconds(report.age),
            "counters": counted,
            "acknowledged": acknowledged,
            "is_heartbeat": report.heartbeat,
            "goodbye": report.goodbye,
            "retired": report.retired,
            "unreserved": report.unreserved,
            "speed": round(1000 * report.speed) or None,  # connections in a thousand seconds
            "load": load_text(report.load, report.footprint, report.work),
            "controls": controls_text(report.controls) if report.controls.version else "",
            "draining": int(report.draining),
            "in_force": report.settings,
            "level": None if report.level is None else PLACES[report.level],
            "gone": report.gone,
            "shown": shown(report.shown) if report.shown else None,
            "shared": None if report.fair is None else shared(report.fair),
        }
        # Redis knows texts of the older kind only.
        return bytes(msgpack.packb(fields, use_bin_type=False))

    def _always(self, report: Report) -> dict[str, Any]:
        """What a worker says of itself and of its settings."""
        settings, terms = self._settings, report.terms
        own = agreement.text_of(report, settings.lease, settings.heartbeat, settings.site)
        mark = agreement.fingerprint(own)
        low, high = terms.retry_after
        return {
            "worker": report.worker,
            "limit": report.limit,  # slots
            "lease": milliseconds(settings.lease),
            "heartbeat": milliseconds(settings.heartbeat),
            "expiry": milliseconds(keys_expire(settings)),
            "born": born(report.worker, report.born),
            "server": server_text(report.server, mark),
            "release": report.release,
            "rate": terms.rate,  # admissions a second
            "burst": terms.burst,
            "slow_start": milliseconds(terms.slow_start),
            "retry_low": milliseconds(low),
            "retry_high": milliseconds(high),
            "warn_at": report.warn_at,
            "fingerprint": mark,
            "settings": own,
        }

"""What the script is called with: the keys of a pool, and one argument."""

import msgpack

from ...conf import Settings
from ...core import agreement
from ...core.levels import Level
from ...core.protocol import Report
from ..buckets import packed
from ..codec import KEYS, born, shared, shown
from ..overrides import text as controls_text
from ..record import footprint_text, loaded, work_text

UNUSED_KEYS_EXPIRE = 3600.0
"""Seconds after the last report of a pool until its keys disappear; at least two leases."""


def parts(report: Report) -> list[str]:
    """The keys of a pool that the script may touch, in the order of KEYS."""
    named = {"host": f"host:{report.host}", "own": f"claims:{report.worker}"}
    if report.fair is None:
        names = KEYS[: KEYS.index("claims" if report.shown else "tickets")]
    elif report.fair.sweep:
        named["swept"], names = f"claims:{report.fair.sweep}", KEYS
    else:
        names = KEYS[: KEYS.index("swept")]
    return [named.get(name, name) for name in names]


def keys_expire(settings: Settings) -> float:
    return max(UNUSED_KEYS_EXPIRE, 2 * settings.lease)


def packed_report(report: Report, settings: Settings) -> bytes:
    """The script's one argument: a map in MessagePack, with times in milliseconds. Whatever is absent is None."""
    own = agreement.text_of(report, settings.lease, settings.heartbeat, settings.site)
    mark = agreement.fingerprint(own)
    fields = {
        "worker": report.worker,
        "seq": report.seq,
        "held": report.held,  # slots
        "wanted": report.wanted,  # handshakes
        "reserve": report.reserve or None,  # slots
        "ahead": report.ahead or None,  # slots
        "limit": report.limit,  # slots
        "version": report.version,
        "allowance": report.allowance,  # slots
        "lease": milliseconds(settings.lease),
        "heartbeat": milliseconds(settings.heartbeat),
        "expiry": milliseconds(keys_expire(settings)),
        "age": milliseconds(report.age),
        "born": born(report.worker, report.born),
        "server": f"{report.server}#{mark}",
        "release": report.release,
        "counters": packed(report.counters),
        "acknowledged": packed(report.acknowledged),
        "is_heartbeat": report.heartbeat,
        "goodbye": report.goodbye,
        "retired": report.retired,
        "rate": report.terms.rate,  # admissions a second
        "burst": report.terms.burst,
        "slow_start": milliseconds(report.terms.slow_start),
        "retry_low": milliseconds(report.terms.retry_after[0]),
        "retry_high": milliseconds(report.terms.retry_after[1]),
        "unreserved": report.unreserved,
        "speed": round(1000 * report.speed) or None,  # connections in a thousand seconds
        "load": loaded(report.load) + work_text(report.work) + footprint_text(report.footprint),
        "controls": controls_text(report.controls),
        "draining": int(report.draining),
        "warn_at": report.warn_at,
        "fingerprint": mark,
        "settings": own,
        "in_force": report.settings,
        "level": None if report.level is None else tuple(Level).index(report.level),
        "gone": report.gone,
        "shown": shown(report.shown),
        "shared": shared(report.fair),
    }
    # Redis knows texts of the older kind only.
    return bytes(msgpack.packb(fields, use_bin_type=False))


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)

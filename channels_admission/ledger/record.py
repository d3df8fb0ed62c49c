"""What stands in Redis as values: the records of the workers and the fields of a pool.

Whatever no worker can have written is left out.
"""

import math
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ..conf import MAX_LIMIT
from ..core.agreement import FINGERPRINT, MOST_SETTINGS, fingerprint, numbers_of
from ..core.counters import AT, GONE, counts_in, faults_in, times_in
from ..core.herd.rate import MOST_SPEED
from ..core.levels import Level
from ..core.readings import NO_WORK, Footprint, HistoryBucket, Load, Past, Reading, Usage, Work, WorkerReading
from .base import LATELY, MINUTES, SECONDS
from .buckets import counters_of, lately, numeral, reported_in, within
from .layout import LAYOUT, elsewhere_of
from .overrides import controls_of

POOL = (
    "#total", "#version", "#clock", "#real", "#settled", "#limit", "#counters", "#draining", "#speed", "#reserve",
    "#alert", "#pace", "#line", "#settings", "#check",
)  # fmt: skip
"""The fields of ``counts`` that are the pool's own; the last of them seals the others.

``#counters`` is SINCE|NAME=COUNT,… and a seal of its own: the counters outlive damage to the other fields. SINCE is
Redis's time in milliseconds.
"""
RECORD = (
    "held", "seq", "seen", "left", "age", "server", "counters", "load", "draining", "speed",
    "reserve", "release", "classes", "claimed",
)  # fmt: skip
"""What a worker's record says, in this order with ``|`` between, and a seal; the last two only in a shared pool.

A later release of the same layout may add fields at the end; then the last two are there in every pool.

``seen`` is the time of the report by Redis. ``left`` is the end of the lease by the pool's clock, less ``seen``: it is
below 0 where that clock is behind by more than a lease. ``age`` is the process's then. These are in milliseconds. The
speed is in connections in a thousand seconds, so that sums of it are exact. From ``draining`` to ``reserve`` 0 is left
out.
"""
WORKER = re.compile(r"[A-Za-z0-9._-]{1,32}:\d{1,10}:[0-9a-f]{1,16}")
SHORT_SERVERS = {"uvicorn": "u", "daphne": "d", "hypercorn": "h", "granian": "g"}
"""Servers as one letter, since every record of a worker has it."""
LONG_SERVERS = {short: name for name, short in SHORT_SERVERS.items()}
SERVER = re.compile(rf"([a-z0-9._-]{{0,24}})(?:#({FINGERPRINT}))?")
"""And the fingerprint of the worker's settings."""
SETTINGS = re.compile(rf"(\d{{1,15}})\|({FINGERPRINT})\|([^;]*)")
NUMBER = r"\d{1,15}(?:\.\d{1,6})?(?:e[+-]\d{1,3})?"
LOAD = re.compile(
    rf"(?:([LMDCT])|([a-z][a-z0-9_]{{0,23}})=)(\?|-?{NUMBER})(?:~({NUMBER})~({NUMBER}))?(?:@(\d\.\d{{1,2}}))?(?:;|$)"
)
RELEASE = re.compile(r"[A-Za-z0-9.+!_-]{1,32}")
MOST_MONITORS = 16
MOST_KINDS = 32
"""Kinds of exceptions shown of one worker."""
LEVELS = tuple(Level)
ALERT = re.compile(r"([0-3])\|.*")
LONGEST_TEXT = 32_768
"""Bytes of the longest field that is read at all."""
SEAL = 6
"""Bytes at the end of what the script writes by which it knows its own writing; one damage in 16 million passes."""
SHORT_MONITORS = {"lag": "L", "memory": "M", "descriptors": "D", "cpu": "C", "threads": "T"}
"""Monitors that are written as a capital and without ``=``, since every worker has them in its record."""
LONG_MONITORS = {short: name for name, short in SHORT_MONITORS.items()}
CLASS = re.compile(r"([a-z][a-z0-9_-]{0,31})=(\d{1,15})")
MOST_CLASSES = 32
NOTHING: Mapping[Any, Any] = MappingProxyType({})
KIB, MIB = 1024, 1 << 20
FOOTPRINT = re.compile(r";#([a-z]?)((?:,[0-9a-z]{1,9}){12})$")
WORK = re.compile(r";!(\d{1,8}),(\d{1,8}),(\d{1,8})(?:;|$)")
SHORT_NAMES = {"": "", "websockets-sansio": "s", "websockets": "w", "wsproto": "p"}
"""Implementations of WebSockets as one letter, since every record of a worker has it."""
LONG_NAMES = {short: name for name, short in SHORT_NAMES.items()}


def load_text(loads: tuple[Load, ...], footprint: Footprint | None = None, work: Work = NO_WORK) -> str:
    """``name=reading``, ``~median~longest`` where there is more to say, and ``@pressure`` where there is any.

    The built-in monitors are a capital before their reading. A question mark stands for what is unknown; nothing more
    is said of a lag that there is not. After all of them come ``;!`` and the numbers of the work, unless all are 0, and
    the footprint, if there is one.
    """
    texts = []
    for load in loads:
        name = SHORT_MONITORS.get(load.name) or f"{load.name}="
        reading = "?" if load.reading is None else format(load.reading, ".3g")
        spread = f"~{load.median:.3g}~{load.longest:.3g}" if load.longest else ""
        texts.append(f"{name}{reading}{spread}@{load.pressure:.2f}" if load.pressure else f"{name}{reading}{spread}")
    waits = f";!{','.join(map(str, work))}" if any(work) else ""
    return ";".join(texts) + waits + (footprint_text(footprint) if footprint else "")


def server_text(server: str, settings: str) -> str:
    """A worker's server, and the fingerprint of its settings."""
    return f"{SHORT_SERVERS.get(server, server)}#{settings}"


def text_of(value: Any) -> str:
    """A Redis string as text, whatever the client's ``decode_responses`` says; never fails."""
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


def number_of(value: str | None) -> int | None:
    """A whole number of at most 16 digits; None for any other text."""
    return int(value) if value is not None and value.isdecimal() and len(value) <= 16 else None


def reading_of(hashes: Sequence[Mapping[Any, Any]], now: int, lease: float, layout: int = LAYOUT) -> Reading:
    """A pool's counts, seconds, controls and layouts as a :class:`Reading`; what none of ours can have written is left
    out."""
    fields, ring, controls, layouts = hashes
    texts = {text_of(name): text_of(value) for name, value in fields.items() if len(value) <= LONGEST_TEXT}
    limit, alert = number_of(texts.get("#limit")), ALERT.fullmatch(texts.get("#alert", ""))
    orders = {text_of(name): text_of(value) for name, value in controls.items()}
    clock, settled = (number_of(texts.get(name)) or 0 for name in ("#clock", "#settled"))
    since, _, counters = texts.get("#counters", "")[:-SEAL].partition("|")
    settings = _settings(texts.get("#settings", ""), clock)
    only = next(iter(settings)) if len(settings) == 1 else ""
    workers = (_worker(name, record, now, only) for name, record in texts.items() if not name.startswith("#"))
    known = counters_of(counters)
    return Reading(
        limit=limit if limit is not None and limit <= MAX_LIMIT else None,
        settling=clock < settled,
        counters=counts_in(known),
        latest=times_in(known, AT),
        gone=times_in(known, GONE),
        since=None if (began := number_of(since)) is None else began / 1000,
        version=number_of(texts.get("#version")) or 0,
        workers=tuple(each for each in workers if each and each.silence < _lease(each, settings, lease)),
        **lately(_buckets(ring, now // 1000, LATELY)),
        now=now / 1000,
        controls=controls_of(orders.get("set", "")),
        level=LEVELS[int(alert[1])] if alert else Level.CALM,
        settings=settings,
        elsewhere=elsewhere_of({text_of(name): text_of(said) for name, said in layouts.items()}, now, layout),
    )


def _settings(text: str, clock: int) -> dict[str, dict[str, float]]:
    """The settings about, by their fingerprint; ``clock`` is the pool's, milliseconds."""
    found = [match for part in text.split(";")[:MOST_SETTINGS] if (match := SETTINGS.fullmatch(part))]
    live = (match for match in found if int(match[1]) > clock and fingerprint(match[3]) == match[2])
    return {match[2]: numbers for match in live if "limit" in (numbers := numbers_of(match[3]))}


def _lease(worker: WorkerReading, settings: Mapping[str, Mapping[str, float]], lease: float) -> float:
    """How long a worker is believed without a report, in seconds; ``lease`` where its own is not known."""
    return settings.get(worker.settings, {}).get("lease", 1000 * lease) / 1000


def past_of(now: int, seconds: Mapping[Any, Any], minutes: Mapping[Any, Any] = NOTHING) -> Past:
    """A pool's rings as a :class:`Past`; ``now`` in milliseconds."""
    second = now // 1000
    return Past(second, _buckets(seconds, second, SECONDS), _buckets(minutes, second // 60, MINUTES))


def _buckets(ring: Mapping[Any, Any], now: int, size: int) -> tuple[HistoryBucket, ...]:
    return within(size, now, map(text_of, ring.values()))


def _worker(name: str, record: str, now: int, settings: str) -> WorkerReading | None:
    """A worker by its record, which does not say its ``settings`` where all have the same."""
    parts = record[:-SEAL].split("|")
    fields = dict(zip(RECORD, parts, strict=False))
    held, seq, seen, age = (number_of(fields.get(name)) for name in ("held", "seq", "seen", "age"))
    server = SERVER.fullmatch(fields.get("server", ""))
    if (len(parts) < len(RECORD) and len(parts) != len(RECORD) - 2) or server is None or not WORKER.fullmatch(name):
        return None
    if held is None or seq is None or seen is None or age is None:
        return None
    counters = reported_in(fields["counters"])
    silence = max(0, now - seen)
    reserve = min(number_of(fields["reserve"]) or 0, held, MAX_LIMIT)
    return WorkerReading(
        worker=name,
        held=max(0, min(held, MAX_LIMIT) - reserve),
        silence=silence / 1000,
        uptime=min(age + silence, now) / 1000,
        server=LONG_SERVERS.get(server[1], server[1]),
        release=fields["release"] if RELEASE.fullmatch(fields["release"]) else "",
        settings=server[2] or settings,
        load=_loads(fields["load"]),
        draining=fields["draining"] == "1",
        classes={
            name: min(int(count), MAX_LIMIT) for name, count in CLASS.findall(fields.get("classes", ""))[:MOST_CLASSES]
        },
        counters={name: count for name, count in counters.items() if count},
        faults=dict(list(faults_in(counters).items())[:MOST_KINDS]),
        speed=min((number_of(fields["speed"]) or 0) / 1000, MOST_SPEED),
        footprint=footprint_of(fields["load"]),
        work=work_of(fields["load"]),
        reserve=reserve,
    )


def _loads(text: str) -> tuple[Load, ...]:
    """Each monitor once, with what is said of it last."""
    found = [_load(*parts) for parts in LOAD.findall(text)[:MOST_MONITORS]]
    return tuple({load.name: load for load in found}.values())


def _load(short: str, name: str, reading: str, median: str, longest: str, pressure: str) -> Load:
    return Load(
        LONG_MONITORS.get(short, name),
        None if reading == "?" else _finite(reading),
        min(1.0, float(pressure or 0)),
        _finite(median) if median else None,
        _finite(longest) if longest else None,
    )


def _finite(text: str) -> float | None:
    """A number that JSON can have too; None for one that is too large."""
    return number if math.isfinite(number := float(text)) else None


def work_of(text: str) -> Work:
    found = WORK.search(text)
    return Work(*map(int, found.groups())) if found else Work()


def footprint_text(footprint: Footprint) -> str:
    """``;#``, the letter of the implementation, and twelve numbers in base 36, memory in KiB, the host's in MiB."""
    numbers = [footprint.memory_limit // MIB, footprint.memory_used // MIB, footprint.files_limit]
    for usage in (footprint.now, footprint.low, footprint.high):
        numbers += [usage.connections, usage.memory // KIB, usage.files]
    return ";#" + ",".join([SHORT_NAMES.get(footprint.implementation, ""), *map(numeral, numbers)])


def footprint_of(text: str) -> Footprint | None:
    """The footprint after a load; None without one, or with what no worker can have written."""
    if (found := FOOTPRINT.search(text)) is None:
        return None
    limit, used, files_limit, *usages = (int(number, 36) for number in found[2].split(",")[1:])
    now, low, high = (
        Usage(connections, memory * KIB, files)
        for connections, memory, files in zip(usages[::3], usages[1::3], usages[2::3], strict=True)
    )
    return Footprint(now, low, high, limit * MIB, used * MIB, files_limit, LONG_NAMES.get(found[1], ""))

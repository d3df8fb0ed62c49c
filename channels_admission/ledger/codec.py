"""What stands in Redis, and what the script answers, as values; whatever no worker can have written is left out."""

import hashlib
import math
import operator
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ..conf import MAX_LIMIT
from ..core.agreement import FINGERPRINT, MOST_SETTINGS, fingerprint, numbers_of
from ..core.counters import ATTEMPTS, QUOTA, Reason, faults_in
from ..core.levels import Edge, Level
from ..core.protocol import KEY_BYTES, Aged, Ask, Evicted, Fair, Key, Neighbour, Offer, Reply, Shown, Turn
from ..core.rate import MOST_SPEED
from ..core.readings import Load, Moment, Past, Reading, WorkerReading
from ..core.shares import Bound, Class
from ..runtime.identity import MOST_PID
from .base import LATELY, MINUTES, SECONDS
from .buckets import counters_of, lately, within
from .footprint import footprint_of
from .layout import LAYOUT, elsewhere_of
from .overrides import controls_of

KEYS = (
    "counts", "leases", "host", "seconds", "controls", "minutes", "layouts", "tickets",
    "claims", "own", "attempts", "holders", "swept",
)  # fmt: skip
"""The keys of a pool as the script names them, in their order; ``tickets`` only where some are shown, and those from
``claims`` on only where it is shared."""
POOL = (
    "#total", "#version", "#clock", "#real", "#settled", "#limit", "#counters", "#draining", "#speed", "#reserve",
    "#alert", "#pace", "#line", "#settings", "#check",
)  # fmt: skip
"""The fields of ``counts`` that are the pool's own; the last of them seals the others.

``#counters`` is SINCE|NAME=COUNT,… and a seal of its own: the counters outlive damage to the other fields. SINCE is
Redis's time in milliseconds.
"""
RECORD = (
    "held", "seq", "seen", "ends", "started", "server", "counters", "load", "draining", "speed",
    "reserve", "release", "classes", "claimed",
)  # fmt: skip
"""What a worker's record says, in this order with ``|`` between, and a seal; the last two only in a shared pool.

A later release of the same layout may add fields at the end; then the last two are there in every pool.

Times are Redis's, in milliseconds, but for the lease's end, which is the pool's clock's. The speed is in connections
in a thousand seconds, so that sums of it are exact. It is empty where it is unknown, the reserve where there is none.
"""
WORKER = re.compile(r"[A-Za-z0-9._-]{1,32}:\d{1,10}:[0-9a-f]{1,16}")
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
SHORT_SEAL = 3
"""The same for a process's time of birth."""
SHORT_MONITORS = {"lag": "L", "memory": "M", "descriptors": "D", "cpu": "C", "threads": "T"}
"""Monitors that are written as a capital and without ``=``, since every worker has them in its record."""
LONG_MONITORS = {short: name for name, short in SHORT_MONITORS.items()}
EDGE = re.compile(r"([0-3]),([0-3]),(\d{1,15}),(\d{1,15});")
MOST = 2**53
"""The greatest number that the script counts exactly."""
CLASS = re.compile(r"([a-z][a-z0-9_-]{0,31})=(\d{1,15})")
MOST_CLASSES = 32
GRANTED = "a"
VERDICTS = {"f": Reason.FULL, "s": Reason.SHARE, "t": Reason.SETTLING, "r": Reason.RATE, "p": Reason.PAUSED}
FIRST_QUOTA, FIRST_RATE = ord("A"), ord("P")
EVICTED = re.compile(rf"([0-9a-f]{{{2 * KEY_BYTES}}})=(\d{{1,9}})(?:,|$)")
TURN = re.compile(r"(\d{1,9})=([-+.e\d]{0,24}),")
NOTHING: Mapping[Any, Any] = MappingProxyType({})


def loaded(load: tuple[Load, ...]) -> str:
    """``name=reading``, ``~median~longest`` where there is more to say, and ``@pressure`` where there is any.

    The built-in monitors are a capital before their reading.
    """
    return ";".join(map(_loaded, load))


def _loaded(load: Load) -> str:
    """A question mark for what is unknown; nothing more is said of a lag that there is not."""
    reading = "?" if load.reading is None else format(load.reading, ".3g")
    spread = f"~{load.median:.3g}~{load.longest:.3g}" if load.longest else ""
    pressure = f"@{load.pressure:.2f}" if load.pressure else ""
    name = SHORT_MONITORS.get(load.name) or f"{load.name}="
    return f"{name}{reading}{spread}{pressure}"


def shared(fair: Fair | None) -> dict[str, Any] | None:
    """What the script must know where a pool is shared; places are counted from 1, and 0 stands for none."""
    if fair is None:
        return None
    places: dict[Key | None, int] = {key: place for place, (key, _) in enumerate(fair.claims, 1)}
    return {
        "classes": [_class(each) for each in fair.classes],
        "quotas": [_bound(bound) for bound in fair.quotas],
        "parts": fair.parts,
        "heard": fair.heard,
        "keys": [key for key, _ in fair.claims],
        "held": [count for _, count in fair.claims],
        "asks": [_ask(ask, places) for ask in fair.asks],
        "sweep": fair.sweep,
        "tries": [{"quota": each.quota + 1, "number": each.number, "key": each.key} for each in fair.tries],
        "ages": [_aged(aged, places) for aged in fair.ages],
    }


def shown(tickets: Sequence[Shown]) -> list[dict[str, int]] | None:
    """The tickets in the order of their places; times in milliseconds, and handshakes counted from 1."""
    fields = [
        {
            "handshake": handshake + 1,
            "place": round(1000 * ticket.place),
            "due": round(1000 * ticket.due),
            "number": ticket.number,
        }
        for handshake, ticket in tickets
    ]
    return sorted(fields, key=operator.itemgetter("place", "handshake")) or None


def _aged(aged: Aged, places: Mapping[Key | None, int]) -> dict[str, Any]:
    return {"place": places[aged.key], "quota": aged.quota + 1, "ages": [round(1000 * age) for age in aged.ages]}


def _class(each: Class) -> dict[str, Any]:
    """Without a share where they are always admitted."""
    share = {} if math.isinf(each.share) else {"share": each.share}
    return {"name": each.name, "held": each.held, **share}


def _bound(bound: Bound) -> dict[str, Any]:
    most = {"share": bound.share} if bound.most is None else {"most": bound.most}
    rate = {"rate": bound.rate, "burst": bound.burst} if bound.rate else {}
    return {"name": bound.name, **most, **rate, **({"oldest": True} if bound.oldest else {})}


def _ask(ask: Ask, places: Mapping[Key | None, int]) -> dict[str, Any]:
    """Claims and tries by the place of their quota."""
    found: dict[str, Any] = {"class": ask.class_index + 1, "claims": [places[key] if key else 0 for key in ask.claims]}
    if ask.late:
        found["late"] = True
    if not ask.bounded:
        found["unbounded"] = True
    if ask.tries:
        found["tries"] = [key or b"" for key in ask.tries]
    return found


def _verdict(letter: str, fair: Fair) -> str:
    if letter == GRANTED:
        return ""
    if ord(letter) in range(FIRST_RATE, FIRST_RATE + len(fair.quotas)):
        return f"{ATTEMPTS}{fair.quotas[ord(letter) - FIRST_RATE].name}"
    return VERDICTS.get(letter) or f"{QUOTA}{fair.quotas[ord(letter) - FIRST_QUOTA].name}"


def reply_of(reply: list[Any], fair: Fair | None = None) -> Reply:
    """The script's answer to a report that was applied, and in which ``fair`` stood.

    Parts that no worker can have written are left out, and numbers are within their bounds. Any exception means that
    the answer is not the script's.
    """
    _, _, granted, total, limit, workers, version, settling, lapsed, why, *rest = reply
    pace, (now, controls, level, edges), (verdicts, retell, sweep, healed, waits, settings) = (
        rest[:3],
        rest[3:7],
        rest[7:13],
    )
    (shown, turns, has_line, evicted, elsewhere, ahead, others_reserve), neighbours = rest[13:20], rest[20:]
    named = zip(neighbours[::2], neighbours[1::2], strict=True)
    return Reply(
        granted=_whole(granted),
        total=_whole(total),
        limit=_whole(limit),
        workers=_whole(workers),
        version=_whole(version),
        settling=bool(settling),
        lapsed=bool(lapsed),
        shortfall=Reason(text_of(why)) if why else None,
        offer=_offer(*(float(part) / 1000 for part in pace)) if pace[0] else None,
        now=_finite(float(now)) / 1000,
        controls=controls_of(text_of(controls)) if controls else None,
        level=LEVELS[min(_whole(level), len(LEVELS) - 1)],
        edges=tuple(_edge(*map(int, edge)) for edge in EDGE.findall(text_of(edges))),
        neighbours=tuple(filter(None, (_neighbour(text_of(worker), text_of(born)) for worker, born in named))),
        granted_shown=tuple(int(place) for place in text_of(shown).split(",") if place),
        turns=tuple(_turn(*parts) for parts in TURN.findall(text_of(turns))),
        has_line=bool(has_line),
        verdicts=tuple(_verdict(letter, fair) for letter in text_of(verdicts)) if fair else (),
        waits=tuple(float(wait) / 1000 for wait in text_of(waits).split(",") if wait),
        evicted=tuple(Evicted(bytes.fromhex(key), int(number)) for key, number in EVICTED.findall(text_of(evicted))),
        retell=bool(retell),
        sweep=text_of(sweep) if WORKER.fullmatch(text_of(sweep)) else "",
        healed=bool(healed),
        settings=text_of(settings),
        elsewhere=_whole(elsewhere),
        ahead=_whole(ahead),
        others_reserve=_whole(others_reserve),
    )


def _whole(number: int) -> int:
    """A count as the script may give it; :exc:`TypeError` for what is no whole number."""
    return max(0, min(operator.index(number), MOST))


def _finite(number: float) -> float:
    return number if math.isfinite(number) else 0.0


def _offer(first: float, step: float, elapsed: float) -> Offer | None:
    return Offer(first, step, elapsed) if math.isfinite(first + step + elapsed) else None


def born(worker: str, started: int) -> str:
    """When a worker's process started, sealed: by an altered time, a neighbour would take it for gone."""
    return (
        f"{started}{hashlib.blake2s(f'{worker} {started}'.encode(), digest_size=SHORT_SEAL).hexdigest()[:SHORT_SEAL]}"
    )


def _neighbour(worker: str, text: str) -> Neighbour | None:
    """None where it is no process that this system can have, or the time is not as it was written."""
    started = _number(text[:-SHORT_SEAL])
    if started is None or born(worker, started) != text:
        return None
    if not WORKER.fullmatch(worker) or not 0 < int(worker.split(":")[1]) <= MOST_PID:
        return None
    return Neighbour(worker, started)


def _turn(handshake: str, wait: str) -> Turn:
    return Turn(int(handshake), _finite(float(wait)) / 1000 if wait else None)


def _edge(before: int, level: int, held: int, limit: int) -> Edge:
    return Edge(LEVELS[before], LEVELS[level], held, limit)


def text_of(value: Any) -> str:
    """A Redis string as text, whatever the client's ``decode_responses`` says; never fails."""
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


def _number(value: str | None) -> int | None:
    return int(value) if value is not None and value.isdecimal() and len(value) <= 16 else None


def reading_of(hashes: Sequence[Mapping[Any, Any]], now: int, lease: float, layout: int = LAYOUT) -> Reading:
    """A pool's counts, seconds, controls and layouts as a :class:`Reading`; what none of ours can have written is left
    out."""
    fields, ring, controls, layouts = hashes
    texts = {text_of(name): text_of(value) for name, value in fields.items() if len(value) <= LONGEST_TEXT}
    limit, alert = _number(texts.get("#limit")), ALERT.fullmatch(texts.get("#alert", ""))
    orders = {text_of(name): text_of(value) for name, value in controls.items()}
    clock, settled = (_number(texts.get(name)) or 0 for name in ("#clock", "#settled"))
    since, _, counters = texts.get("#counters", "")[:-SEAL].partition("|")
    settings = _settings(texts.get("#settings", ""), clock)
    only = next(iter(settings)) if len(settings) == 1 else ""
    workers = (_worker(name, record, now, only) for name, record in texts.items() if not name.startswith("#"))
    return Reading(
        limit=limit if limit is not None and limit <= MAX_LIMIT else None,
        settling=clock < settled,
        counters=counters_of(counters),
        since=None if (began := _number(since)) is None else began / 1000,
        version=_number(texts.get("#version")) or 0,
        workers=tuple(each for each in workers if each and each.silence < _lease(each, settings, lease)),
        **lately(_moments(ring, now // 1000, LATELY)),
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
    return Past(second, _moments(seconds, second, SECONDS), _moments(minutes, second // 60, MINUTES))


def _moments(ring: Mapping[Any, Any], now: int, size: int) -> tuple[Moment, ...]:
    return within(size, now, map(text_of, ring.values()))


def _worker(name: str, record: str, now: int, settings: str) -> WorkerReading | None:
    """A worker by its record, which does not say its ``settings`` where all have the same."""
    parts = record[:-SEAL].split("|")
    fields = dict(zip(RECORD, parts, strict=False))
    held, seq, seen, ends, started = (_number(fields.get(name)) for name in RECORD[:5])
    server = SERVER.fullmatch(fields.get("server", ""))
    if (len(parts) < len(RECORD) and len(parts) != len(RECORD) - 2) or server is None or not WORKER.fullmatch(name):
        return None
    if held is None or seq is None or seen is None or ends is None or started is None:
        return None
    counters = counters_of(fields["counters"])
    reserve = min(_number(fields["reserve"]) or 0, held, MAX_LIMIT)
    return WorkerReading(
        worker=name,
        held=max(0, min(held, MAX_LIMIT) - reserve),
        silence=max(0, now - seen) / 1000,
        uptime=max(0, now - started) / 1000,
        server=server[1],
        release=fields["release"] if RELEASE.fullmatch(fields["release"]) else "",
        settings=server[2] or settings,
        load=_loads(fields["load"]),
        draining=fields["draining"] == "1",
        classes={
            name: min(int(count), MAX_LIMIT) for name, count in CLASS.findall(fields.get("classes", ""))[:MOST_CLASSES]
        },
        counters={name: count for name, count in counters.items() if count},
        faults=dict(list(faults_in(counters).items())[:MOST_KINDS]),
        speed=min((_number(fields["speed"]) or 0) / 1000, MOST_SPEED),
        footprint=footprint_of(fields["load"]),
        reserve=reserve,
    )


def _loads(text: str) -> tuple[Load, ...]:
    return tuple(_load(*parts) for parts in LOAD.findall(text)[:MOST_MONITORS])


def _load(short: str, name: str, reading: str, median: str, longest: str, pressure: str) -> Load:
    return Load(
        LONG_MONITORS.get(short, name),
        None if reading == "?" or math.isinf(number := float(reading)) else number,
        min(1.0, float(pressure or 0)),
        float(median) if median else None,
        float(longest) if longest else None,
    )

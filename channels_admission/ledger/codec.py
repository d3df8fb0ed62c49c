"""What the script is told and what it answers, as values; whatever no worker can have written is left out."""

import hashlib
import math
import operator
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.counters import ATTEMPTS, QUOTA, Reason
from ..core.levels import Edge
from ..core.protocol import KEY_BYTES, Aged, Ask, Evicted, Fair, Key, Neighbour, Reply, RetryTimes, Shown, Turn
from ..core.quotas.shares import Bound, Class
from ..runtime.identity import MOST_PID
from .overrides import controls_of
from .record import LEVELS, WORKER, number_of, text_of

KEYS = (
    "counts", "leases", "host", "seconds", "controls", "minutes", "layouts", "tickets",
    "claims", "own", "attempts", "holders", "swept",
)  # fmt: skip
"""The keys of a pool as the script names them, in their order; ``tickets`` only where some are shown, and those from
``claims`` on only where it is shared."""
SHORT_SEAL = 4
"""Digits of the seal of a process's time of birth: with digits alone, Redis keeps the value as a number."""
EDGE = re.compile(r"([0-3]),([0-3]),(\d{1,15}),(\d{1,15});")
MOST = 2**53
"""The greatest number that the script counts exactly."""
GRANTED = "a"
VERDICTS = {"f": Reason.FULL, "s": Reason.SHARE, "t": Reason.SETTLING, "r": Reason.RATE, "p": Reason.PAUSED}
FIRST_QUOTA, FIRST_RATE = ord("A"), ord("P")
EVICTED = re.compile(rf"([0-9a-f]{{{2 * KEY_BYTES}}})=(\d{{1,9}})(?:,|$)")
TURN = re.compile(r"(\d{1,9})=([-+.e\d]{0,24}),")


def shared(fair: Fair) -> dict[str, Any]:
    """What the script must know where a pool is shared; places are counted from 1, and 0 stands for none."""
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


def shown(tickets: Sequence[Shown]) -> list[dict[str, int]]:
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
    return sorted(fields, key=operator.itemgetter("place", "handshake"))


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
    (shown, turns, has_line, evicted, elsewhere, ahead, most, others_reserve), neighbours = rest[13:21], rest[21:]
    if len(neighbours) % 2:
        raise ValueError("a neighbour without a time")
    numbers = [granted, total, limit, workers, version, level, elsewhere, ahead, most, others_reserve]
    for place, number in enumerate(numbers):
        numbers[place] = max(0, min(operator.index(number), MOST))  # TypeError for what is no whole number
    granted, total, limit, workers, version, level, elsewhere, ahead, most, others_reserve = numbers
    second = float(now) / 1000
    return Reply(
        granted=granted,
        total=total,
        limit=limit,
        workers=workers,
        version=version,
        settling=bool(settling),
        lapsed=bool(lapsed),
        shortfall=Reason(text_of(why)) if why else None,
        retry_times=_retry_times(*(float(part) / 1000 for part in pace)) if pace[0] else None,
        now=second if math.isfinite(second) else 0.0,
        controls=controls_of(text_of(controls)) if controls else None,
        level=LEVELS[min(level, len(LEVELS) - 1)],
        edges=tuple(_edge(*map(int, edge)) for edge in EDGE.findall(text_of(edges))) if edges else (),
        neighbours=tuple(filter(None, map(_neighbour, neighbours[::2], neighbours[1::2]))),
        granted_shown=tuple(int(place) for place in text_of(shown).split(",") if place) if shown else (),
        turns=tuple(_turn(*parts) for parts in TURN.findall(text_of(turns))) if turns else (),
        has_line=bool(has_line),
        verdicts=tuple(_verdict(letter, fair) for letter in text_of(verdicts)) if fair else (),
        waits=tuple(float(wait) / 1000 for wait in text_of(waits).split(",") if wait) if waits else (),
        evicted=tuple(Evicted(bytes.fromhex(key), int(number)) for key, number in EVICTED.findall(text_of(evicted)))
        if evicted
        else (),
        retell=bool(retell),
        sweep=text if sweep and WORKER.fullmatch(text := text_of(sweep)) else "",
        healed=bool(healed),
        settings=text_of(settings) if settings else "",
        elsewhere=elsewhere,
        ahead=ahead,
        most_in_reserve=most,
        others_reserve=others_reserve,
    )


def _retry_times(first: float, step: float, elapsed: float) -> RetryTimes | None:
    return RetryTimes(first, step, elapsed) if math.isfinite(first + step + elapsed) else None


def born(worker: str, started: int) -> str:
    """When a worker's process started, sealed: by an altered time, a neighbour would take it for gone."""
    digest = hashlib.blake2s(f"{worker} {started}".encode(), digest_size=4).digest()
    return f"{started}{int.from_bytes(digest) % 10**SHORT_SEAL:0{SHORT_SEAL}}"


def _neighbour(name: Any, sealed: Any) -> Neighbour | None:
    """None where it is no process that this system can have, or the time is not as it was written."""
    worker, text = text_of(name), text_of(sealed)
    started = number_of(text[:-SHORT_SEAL])
    if started is None or born(worker, started) != text:
        return None
    if not WORKER.fullmatch(worker) or not 0 < int(worker.split(":")[1]) <= MOST_PID:
        return None
    return Neighbour(worker, started)


def _turn(handshake: str, wait: str) -> Turn:
    seconds = float(wait) / 1000 if wait else None
    return Turn(int(handshake), seconds if seconds is None or math.isfinite(seconds) else 0.0)


def _edge(before: int, level: int, held: int, limit: int) -> Edge:
    return Edge(LEVELS[before], LEVELS[level], held, limit)

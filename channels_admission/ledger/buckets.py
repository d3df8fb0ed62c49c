"""Seconds and minutes as both ledgers keep them: short texts in a ring, of bounded size whatever names there are."""

import re
from collections import Counter
from collections.abc import Iterable, Set
from dataclasses import replace
from typing import TypedDict

from ..conf import MAX_LIMIT
from ..core.counters import (
    ADMITTED,
    CALL_TIMES,
    CALLS,
    CALLS_TOOK,
    ERRORS,
    OTHER,
    RELEASED,
    WAITED,
    WAITS,
    Counters,
    Reason,
)
from ..core.readings import HistoryBucket
from .base import COUNTERS_KEPT, LONGEST_BUCKET

COUNTER = re.compile(r"([A-Za-z][A-Za-z0-9_.:-]{0,63})=(\d{1,15})")
SHORT = {
    ADMITTED: "A", RELEASED: "R", Reason.FULL: "F", CALLS: "C", ERRORS: "E", CALLS_TOOK: "M", WAITED: "W",
    **{name: f"K{place}" for place, name in enumerate(CALL_TIMES)},
    **{name: f"W{place}" for place, name in enumerate(WAITS)},
}  # fmt: skip
"""Counters that are written as a capital letter, or one and a digit, since nearly every worker has them."""
LONG = {short: name for name, short in SHORT.items()}
REPORTED = re.compile(r"([A-Za-z][A-Za-z0-9_.:-]{0,63})=([0-9a-z]{1,9})")
NUMERAL_BYTES = 9
"""Digits of the greatest number in base 36 that is read: it is exact in a double."""
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
BUCKET = re.compile(r"(\d{1,12})\|(\d{0,8})\|(\d{0,8})\|(\d{1,15})\|(.*)")


def numeral(number: int) -> str:
    """A number from 0 in base 36."""
    digits = ""
    while number >= 36:
        number, digit = divmod(number, 36)
        digits = DIGITS[digit] + digits
    return DIGITS[number] + digits


def reported(counters: Counters) -> str:
    """A worker's counters as text, in base 36."""
    return ",".join(f"{SHORT.get(name, name)}={numeral(count)}" for name, count in counters.items())


def reported_in(text: str) -> dict[str, int]:
    return {LONG.get(name, name): int(count, 36) for name, count in REPORTED.findall(text)}


def packed(counters: Counters) -> str:
    """Counters as text, as the script writes them."""
    return ",".join(f"{SHORT.get(name, name)}={count}" for name, count in counters.items())


def counters_of(text: str) -> dict[str, int]:
    return {LONG.get(name, name): int(count) for name, count in COUNTER.findall(text)}


def written(bucket: HistoryBucket) -> str:
    """``when|held|limit|admitted|reasons``: the most frequent reasons first, the others as ``other``."""
    held, limit = ("" if number is None else number for number in (bucket.held, bucket.limit))
    text = f"{bucket.at}|{held}|{limit}|{bucket.admitted}|"
    reasons = dict(sorted(bucket.refused.items(), key=lambda item: (-item[1], SHORT.get(item[0], item[0]))))
    return text + _fitting(reasons, LONGEST_BUCKET - len(text))


def _fitting(reasons: Counters, room: int) -> str:
    if len(whole := packed(reasons)) <= room:
        return whole
    kept, other = {}, 0
    room -= len(packed({OTHER: sum(reasons.values())}))
    for name, count in reasons.items():
        if name != OTHER and len(packed({name: count})) < room:
            kept[name] = count
            room -= len(packed({name: count})) + 1
        else:
            other += count
    return packed({**kept, OTHER: other})


def parse(text: str) -> HistoryBucket | None:
    """The second or minute in a text; None for a text that no ledger can have written."""
    match = BUCKET.fullmatch(text) if len(text) <= LONGEST_BUCKET else None
    if match is None:
        return None
    at, held, limit, admitted, reasons = match.groups()
    return HistoryBucket(int(at), _slots(held), _slots(limit), int(admitted), counters_of(reasons))


def _slots(text: str) -> int | None:
    return min(int(text), MAX_LIMIT) if text else None


def within(size: int, now: int, texts: Iterable[str]) -> tuple[HistoryBucket, ...]:
    """The last ``size`` seconds or minutes up to ``now``, in order."""
    buckets = filter(None, map(parse, texts))
    return _bounded(sorted((each for each in buckets if now - size < each.at <= now), key=lambda each: each.at))


def _bounded(buckets: list[HistoryBucket]) -> tuple[HistoryBucket, ...]:
    """The same with the :data:`COUNTERS_KEPT` most frequent reasons. Only damage has more: each is a row in charts."""
    if len({name for bucket in buckets for name in bucket.refused}) <= COUNTERS_KEPT:
        return tuple(buckets)
    sums: Counter[str] = Counter()
    for bucket in buckets:
        sums.update(bucket.refused)
    kept = {name for name, _ in sums.most_common(COUNTERS_KEPT - 1)}
    return tuple(replace(bucket, refused=_with_others(bucket.refused, kept)) for bucket in buckets)


def _with_others(reasons: Counters, kept: Set[str]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for name, count in reasons.items():
        found[name if name in kept else OTHER] += count
    return dict(found)


class Lately(TypedDict):
    """What a :class:`~.core.readings.Reading` has of recent seconds."""

    seconds: dict[int, int]
    refused: dict[str, int]
    refused_at: int | None


def lately(buckets: Iterable[HistoryBucket]) -> Lately:
    """The handshakes of these seconds, the refused ones by reason, and the latest second with one of them."""
    refused: Counter[str] = Counter()
    seconds, refused_at = dict[int, int](), None
    for bucket in buckets:
        if bucket.handshakes:
            seconds[bucket.at] = bucket.handshakes
        if any(bucket.refused.values()):
            refused_at = bucket.at
            refused.update(bucket.refused)
    return {"seconds": seconds, "refused": dict(refused), "refused_at": refused_at}


def add(bucket: HistoryBucket, decided: Counters) -> HistoryBucket:
    """The second or minute ``bucket`` with these decisions as well."""
    refused = {name: count for name, count in decided.items() if name != ADMITTED}
    refused = {name: bucket.refused.get(name, 0) + refused.get(name, 0) for name in {**bucket.refused, **refused}}
    return replace(bucket, admitted=bucket.admitted + decided.get(ADMITTED, 0), refused=refused)

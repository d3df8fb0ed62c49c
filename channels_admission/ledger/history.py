"""A pool's past in the embedded ledger: a ring of seconds and one of minutes."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from ..core.counters import Counters
from ..core.readings import HistoryBucket
from .base import MINUTES, SECONDS, SPREAD
from .buckets import add, parse, written


@dataclass(slots=True)
class Rings:
    """Seconds and minutes as text, by their place in the ring."""

    seconds: dict[int, str] = field(default_factory=dict)
    minutes: dict[int, str] = field(default_factory=dict)

    def note(self, now: float, held: int, limit: int, decided: Counters, elapsed: float) -> None:
        """Note what is held, and spread the handshakes decided over the ``elapsed`` seconds that end ``now``."""
        second, span = int(now), max(1, min(int(now) - int(now - elapsed), SPREAD))
        by_second: defaultdict[int, Counter[str]] = defaultdict(Counter, {second: Counter()})
        by_minute: defaultdict[int, Counter[str]] = defaultdict(Counter, {second // 60: Counter()})
        for name, count in decided.items():
            for at, share in _shares(count, second, span):
                by_second[at][name] += share
                by_minute[at // 60][name] += share
        for ring, size, last, told in (
            (self.seconds, SECONDS, second, by_second),
            (self.minutes, MINUTES, second // 60, by_minute),
        ):
            for at, counts in told.items():
                bucket = add(_bucket(ring, size, at), counts)
                if at == last:
                    bucket = replace(bucket, held=max(held, bucket.held or 0), limit=limit)
                ring[at % size] = written(bucket)


def _shares(count: int, last: int, span: int) -> Iterator[tuple[int, int]]:
    """``count`` spread evenly over the ``span`` seconds that end with ``last``, as far as it reaches."""
    span = min(span, count)
    for number in range(span):
        yield last - number, count // span + (number < count % span)


def _bucket(ring: dict[int, str], size: int, at: int) -> HistoryBucket:
    """The entry of a second or minute in a ring of that size; an empty one if there is none."""
    bucket = parse(ring.get(at % size, ""))
    return bucket if bucket and bucket.at == at else HistoryBucket(at, None, None, 0, {})

"""The summary of refusals in the log: one line a second at the most, however many there are.

The first line after a calm time is a WARNING, since Django's default logging shows nothing below; the others are INFO.
"""

import asyncio
import logging
import math
import time
from collections import Counter
from contextvars import Context

from ..core.counters import ADMITTED, DRY, is_decision

logger = logging.getLogger("channels_admission")

PAUSE = 1.0
"""Seconds between two lines."""
CALM = 60.0
"""Seconds without a line after which the next one is a WARNING."""
FURTHER = " Further refusals are logged at level INFO."


class RefusalLog:
    """Logs the refusals that ``counters`` count. Belongs to one event loop."""

    def __init__(self, pool: str, counters: Counter[str]) -> None:
        self._pool = pool
        self._counters = counters
        self._written: Counter[str] = Counter()
        self._logged_at: dict[str, float] = {}
        """When each sentence was logged last."""
        self._timer: asyncio.TimerHandle | None = None

    def note(self) -> None:
        """A handshake was refused, or would have been: write a line within :data:`PAUSE`."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PAUSE, self._write, context=Context())

    def close(self) -> None:
        """Write the line that is due, now."""
        if self._timer is not None:
            self._timer.cancel()
            self._write()

    def _write(self) -> None:
        self._timer = None
        news = self._counters - self._written
        self._written = self._counters.copy()
        refused = {name: count for name, count in news.items() if is_decision(name) and name != ADMITTED}
        spared = {name.removeprefix(DRY): count for name, count in news.items() if name.startswith(DRY)}
        self._log("Pool %r refused %d connection%s: %s.", refused)
        self._log("Dry run: pool %r would have refused %d connection%s, and let them in: %s.", spared)

    def _log(self, sentence: str, counts: dict[str, int]) -> None:
        if not counts:
            return
        now = time.monotonic()
        level, end = logging.INFO, ""
        if now - self._logged_at.get(sentence, -math.inf) >= CALM:
            level, end = logging.WARNING, FURTHER
        self._logged_at[sentence] = now
        reasons = ", ".join(f"{count} {name}" for name, count in counts.items())
        number = sum(counts.values())
        logger.log(level, sentence + end, self._pool, number, "" if number == 1 else "s", reasons)

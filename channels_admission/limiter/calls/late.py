"""A call that the ledger has not answered in time, and whose answer may still come."""

import asyncio
from collections.abc import Callable

from ...core.protocol import Reply

LONGEST = 5.0
"""Seconds for which an answer is waited for."""


class LateCall:
    """At most one late call of a limiter goes on, the oldest, and with it its connection; the next ones need another.

    What it answers is dropped: the next report says all that it said, and the ledger applies none after a newer one.
    ``tell`` is called with the seconds that the answer took. Belongs to one event loop.
    """

    def __init__(self, tell: Callable[[float], object]) -> None:
        self._tell = tell
        self._call: asyncio.Task[Reply] | None = None
        self._end: asyncio.TimerHandle | None = None

    def leave(self, call: asyncio.Task[Reply], started: float) -> None:
        """Let ``call`` go on, which was made at ``started``, unless another one does."""
        if self._call is not None:
            call.cancel()
            return
        loop = asyncio.get_running_loop()
        self._call = call
        self._end = loop.call_at(started + LONGEST, call.cancel)
        call.add_done_callback(lambda _: self._over(call, loop.time() - started))

    def cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()

    def _over(self, call: asyncio.Task[Reply], took: float) -> None:
        self._call = None
        if self._end is not None:
            self._end.cancel()
        if not call.cancelled() and call.exception() is None:
            self._tell(took)

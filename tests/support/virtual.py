"""An event loop whose time stands still while it works, and jumps to the next timer when it has nothing to do."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes by timers, and by :meth:`work`."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__()

    def time(self) -> float:
        return self._now

    def work(self, seconds: float) -> None:
        """Block the event loop for so long."""
        self._now += seconds

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self._now = max(self._now, self._scheduled[0]._when)
        super()._run_once()


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of the coroutine, run in such an event loop; whatever it leaves is cancelled."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)

"""Coroutines in virtual time."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from benchmarks.virtual import VirtualLoop


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of the coroutine, run in a :class:`VirtualLoop`; whatever it leaves is cancelled."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)

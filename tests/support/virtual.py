"""Coroutines in virtual time."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

from benchmarks.virtual import VirtualLoop


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of the coroutine, run in a :class:`VirtualLoop`; whatever it leaves is cancelled."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(coroutine)


def in_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test, run in virtual time: no machine is too slow for it. It waits for no thread, process or server."""

    @wraps(test)
    def tested(*args: Any, **fixtures: Any) -> None:
        run(test(*args, **fixtures))

    return tested

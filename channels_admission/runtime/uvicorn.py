"""Uvicorn, whose processes end by the signal that stopped them, so that nothing runs after its shutdown.

Once it has shut down it restores the handlers it found and raises the signal again: neither ``atexit`` nor the end of
the event loop comes. Its own shutdown, after which no connection is left, is the last that happens there; gunicorn's
workers of it do the same.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from types import CoroutineType
from typing import Any

NAME = "uvicorn"
SERVER = "uvicorn.server"
"""The module of the class that serves."""


def before_exit(farewell: Callable[[], Awaitable[None]]) -> bool:
    """Have the uvicorn of this event loop wait for ``farewell`` when it has shut down; whether there is one.

    Where it already does so, it goes on with the ``farewell`` of before.
    """
    server = _server()
    if server is None:
        return False
    shut_down = server.shutdown
    if getattr(shut_down, "__module__", None) == __name__:
        return True

    async def shut_down_and_leave(*args: Any, **kwargs: Any) -> None:
        try:
            await shut_down(*args, **kwargs)
        finally:
            await farewell()

    server.shutdown = shut_down_and_leave
    return True


def _server() -> Any:
    """The server that this event loop runs, found in the task that serves; None where there is none."""
    for task in asyncio.all_tasks():
        for frame in _frames(task.get_coro()):
            server = frame.f_locals.get("self") if frame.f_code.co_name == "serve" else None
            if any(cls.__module__ == SERVER for cls in type(server).__mro__) and hasattr(server, "shutdown"):
                return server
    return None


def _frames(coroutine: Any) -> Iterator[Any]:
    """The frames of a coroutine and of those that it waits for, the outermost first."""
    while isinstance(coroutine, CoroutineType):
        if coroutine.cr_frame is not None:
            yield coroutine.cr_frame
        coroutine = coroutine.cr_await

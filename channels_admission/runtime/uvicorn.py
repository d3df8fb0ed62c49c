"""Hook into uvicorn's shutdown, the last code that runs in its processes.

Without a signal it shuts down when a limit of requests is reached (``--limit-max-requests``, gunicorn's
``--max-requests``); then the drain of ``DRAIN_ON_STOP`` comes first. After a signal :mod:`.shutdown` sees to it.

After its shutdown uvicorn restores the signal handlers and raises the signal again, so that neither ``atexit`` nor the
end of the event loop is reached. No connection is left at that point. The same holds for gunicorn's uvicorn workers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from types import CoroutineType
from typing import Any

NAME = "uvicorn"
SERVER = "uvicorn.server"
"""The module of the ``Server`` class."""


def before_exit(farewell: Callable[[], Awaitable[None]], drain: Callable[[], Awaitable[None]]) -> bool:
    """Have the uvicorn of this event loop await ``farewell`` after its shutdown; return whether there is one.

    If no signal has asked for the shutdown, it awaits ``drain`` before; handshakes still arrive meanwhile. A second
    call changes nothing: the first functions are kept.
    """
    server = _server()
    if server is None:
        return False
    shut_down = server.shutdown
    if getattr(shut_down, "__module__", None) == __name__:
        return True

    async def shut_down_and_leave(*args: Any, **kwargs: Any) -> None:
        try:
            if not server.should_exit:
                await drain()
            await shut_down(*args, **kwargs)
        finally:
            await farewell()

    server.shutdown = shut_down_and_leave
    return True


def _server() -> Any:
    """The uvicorn server that runs on this event loop, found in the frames of its tasks; None without one."""
    for task in asyncio.all_tasks():
        for frame in _frames(task.get_coro()):
            server = frame.f_locals.get("self") if frame.f_code.co_name == "serve" else None
            if any(cls.__module__ == SERVER for cls in type(server).__mro__) and hasattr(server, "shutdown"):
                return server
    return None


def _frames(coroutine: Any) -> Iterator[Any]:
    """The frames of a coroutine and of those that it awaits, the outermost first."""
    while isinstance(coroutine, CoroutineType):
        if coroutine.cr_frame is not None:
            yield coroutine.cr_frame
        coroutine = coroutine.cr_await

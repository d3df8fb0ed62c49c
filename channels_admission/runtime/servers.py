"""Differences between ASGI servers beyond their messages: names and transports."""

import asyncio
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from contextvars import Context
from functools import partial
from importlib.util import find_spec
from typing import Any
from weakref import ReferenceType, ref

MOST_WRAPPED = 8
"""Most wrappers through which a ``send`` is followed to its transport."""
LINGER = 3.0
"""Seconds in which a refused client has answered the close; servers that wait for longer are cut short."""
TOGETHER = 1 / 30
"""The part of that time by which one may be cut later, together with those after it."""
UVICORN, GRANIAN = "uvicorn", "granian"
KNOWN = frozenset({"daphne", GRANIAN, "hypercorn", UVICORN})


def name_of(send: Any) -> str:
    """The name of the server of this ``send``; empty if it is wrapped or unknown."""
    while isinstance(send, partial):
        send = send.func
    owner = getattr(send, "__self__", send)
    module = getattr(send, "__module__", None) or type(owner).__module__
    name = str(module).partition(".")[0].lstrip("_")
    return name if name in KNOWN else ""


UVICORNS = "uvicorn.protocols.websockets."
IMPLEMENTATIONS = {
    f"{UVICORNS}websockets_sansio_impl": "websockets-sansio",
    f"{UVICORNS}websockets_impl": "websockets",
    f"{UVICORNS}wsproto_impl": "wsproto",
}
"""uvicorn's modules of WebSockets, each with the name that ``--ws`` gives it."""


def implementation() -> str:
    """The implementation of WebSockets that uvicorn has loaded in this process; empty without one, or with several."""
    loaded = [name for module, name in IMPLEMENTATIONS.items() if module in sys.modules]
    return loaded[0] if len(loaded) == 1 else ""


def installed() -> tuple[str, ...]:
    """The servers that can be imported here, by name; uvicorn with the implementation that it takes by default."""
    default = next((name for name in ("websockets", "wsproto") if find_spec(name)), "")
    uvicorn = f"{UVICORN} {'websockets-sansio' if default == 'websockets' else default}".strip()
    return tuple(uvicorn if name == UVICORN else name for name in sorted(KNOWN) if find_spec(name))


def abort(send: Any) -> bool:
    """Close the transport of a server's ``send`` at once, without writing what is left; return whether it was possible.

    Supports uvicorn, Daphne and hypercorn, also behind objects that wrap a ``send``. Granian does not expose its
    transport, and a stream of HTTP/2 shares its transport with others.
    """
    return _abort(_owner(send))


def has_left(send: Any) -> bool:
    """Whether the transport of a server's ``send`` is known to be closed; False where it cannot be seen."""
    transport = _transport(_owner(send))
    is_closing = getattr(transport, "is_closing", None)
    return bool(is_closing()) if is_closing is not None else bool(getattr(transport, "disconnected", False))


def _abort(owner: Any) -> bool:
    transport = _transport(owner)
    close = getattr(transport, "abort", None) or getattr(transport, "abortConnection", None)
    if close is None:
        return False
    close()
    return True


def _transport(owner: Any) -> Any:
    """The transport of the connection whose ``send`` is bound to ``owner``, or None."""
    for each in _owners(owner):
        if type(each).__name__ == "H2Protocol":
            return None
        transport = getattr(each, "transport", None) or getattr(getattr(each, "writer", None), "transport", None)
        if hasattr(transport, "abort") or hasattr(transport, "abortConnection"):
            return transport
    return None


def _owners(owner: Any) -> Iterator[Any]:
    """The objects that a ``send`` is bound to, from the outermost wrapper to the server's own."""
    for _ in range(MOST_WRAPPED):
        if owner is None:
            return
        yield owner
        owner = _owner(getattr(owner, "real_send", None) or getattr(owner, "send", None))


def _owner(send: Any) -> Any:
    """The object that a ``send`` is bound to, or None."""
    return send.args[0] if isinstance(send, partial) and send.args else getattr(send, "__self__", None)


class Unanswered:
    """Closes that clients of uvicorn have not answered: their transports are closed after ``seconds``.

    uvicorn waits ten seconds for the answer, which costs a descriptor and memory. There is one timer for all, since one
    for each costs as much as half of a refusal. Belongs to one event loop.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._closed: deque[tuple[float, ReferenceType[Any]]] = deque()
        """When each is due, in order, and what its ``send`` is bound to, which nothing here keeps."""
        self._timer: asyncio.TimerHandle | None = None

    def note(self, send: Any) -> None:
        """A close has been sent by ``send``."""
        with suppress(TypeError):  # None cannot be referenced weakly, and neither can what has slots
            self._closed.append((self._loop.time() + self._seconds, ref(_owner(send))))
            if self._timer is None:
                self._begin()

    def _begin(self) -> None:
        due = self._closed[0][0] + self._seconds * TOGETHER
        self._timer = self._loop.call_at(due, self._end, context=Context())

    def _end(self) -> None:
        self._timer = None
        now, closed = self._loop.time(), self._closed
        while closed and closed[0][0] <= now:
            if (owner := closed.popleft()[1]()) is not None:
                _abort(owner)
        if closed:
            self._begin()

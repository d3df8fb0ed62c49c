"""What differs between ASGI servers beyond their messages."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import Any
from weakref import WeakMethod

MOST_WRAPPED = 8
"""Objects through which a ``send`` is followed to its transport."""
UVICORN = "uvicorn"
KNOWN = frozenset({"daphne", "granian", "hypercorn", UVICORN})


def name_of(send: Any) -> str:
    """The server whose ``send`` this is, or an empty string when it is wrapped or unknown."""
    while isinstance(send, partial):
        send = send.func
    owner = getattr(send, "__self__", send)
    module = getattr(send, "__module__", None) or type(owner).__module__
    name = str(module).partition(".")[0].lstrip("_")
    return name if name in KNOWN else ""


def abort(send: Any) -> bool:
    """Close the transport beneath a server's ``send`` at once, whatever is left to write; says whether it could.

    Knows uvicorn, Daphne and hypercorn, also behind what wraps a ``send`` in an object of its own. Granian keeps its
    sockets to itself, and a stream of HTTP/2 shares its transport with others.
    """
    for owner in _owners(send):
        if type(owner).__name__ == "H2Protocol":
            return False
        transport = getattr(owner, "transport", None) or getattr(getattr(owner, "writer", None), "transport", None)
        close = getattr(transport, "abort", None) or getattr(transport, "abortConnection", None)
        if close is not None:
            close()
            return True
    return False


def _owners(send: Any) -> Iterator[Any]:
    """The objects that a ``send`` leads through, from the outside to the server's own."""
    for _ in range(MOST_WRAPPED):
        owner = send.args[0] if isinstance(send, partial) and send.args else getattr(send, "__self__", None)
        if owner is None:
            return
        yield owner
        send = getattr(owner, "real_send", None) or getattr(owner, "send", None)


def abort_later(send: Any, seconds: float) -> None:
    """Close the transport beneath uvicorn's ``send`` after so many seconds. A connection that is over keeps nothing.

    uvicorn gives a client ten seconds to answer a close, and its descriptor and memory with them.
    """
    with suppress(TypeError):  # where it is wrapped in a function
        left = WeakMethod(send)
        asyncio.get_running_loop().call_later(seconds, _abort_what_is_left, left, context=Context())


def _abort_what_is_left(left: "WeakMethod[Any]") -> None:
    if (send := left()) is not None:
        abort(send)

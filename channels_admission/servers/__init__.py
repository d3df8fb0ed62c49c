"""What differs between ASGI servers beyond their messages."""

from functools import partial
from typing import Any

MOST_WRAPPED = 8
"""Objects through which a ``send`` is followed to its transport."""
KNOWN = frozenset({"daphne", "granian", "hypercorn", "uvicorn"})


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
    seen = 0
    while send is not None and seen < MOST_WRAPPED:
        seen += 1
        owner = send.args[0] if isinstance(send, partial) and send.args else getattr(send, "__self__", None)
        if owner is None or type(owner).__name__ == "H2Protocol":
            return False
        transport = getattr(owner, "transport", None) or getattr(getattr(owner, "writer", None), "transport", None)
        close = getattr(transport, "abort", None) or getattr(transport, "abortConnection", None)
        if close is not None:
            close()
            return True
        send = getattr(owner, "real_send", None) or getattr(owner, "send", None)
    return False

"""What differs between ASGI servers beyond their messages."""

from functools import partial
from typing import Any

KNOWN = frozenset({"daphne", "granian", "hypercorn", "uvicorn"})


def name_of(send: Any) -> str:
    """The server whose ``send`` this is, or an empty string when it is wrapped or unknown."""
    while isinstance(send, partial):
        send = send.func
    owner = getattr(send, "__self__", send)
    module = getattr(send, "__module__", None) or type(owner).__module__
    name = str(module).partition(".")[0].lstrip("_")
    return name if name in KNOWN else ""

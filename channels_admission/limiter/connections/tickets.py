"""The ticket of a handshake, taken out of its scope: the application sees neither of the two places that may hold it.

It is taken from the scope itself, which servers use for their access log as well, and not from a copy.
"""

from collections.abc import Iterable

from ...core.herd.tickets import WRITTEN
from .asgi import Scope
from .slot import KEY, HeldWithTicket

PARAMETER = "admission_ticket"
"""The query parameter of browsers, which cannot send headers."""
HEADER = "Admission-Ticket"
"""The header of other clients, and of an HTTP refusal."""
_PARAMETER = PARAMETER.encode()
FIELD = HEADER.lower().encode()


def take(scope: Scope) -> str:
    """Remove the ticket from ``scope``; an empty text if there is none, or what there is cannot be one.

    Of several the first is taken, a parameter before a header. All are removed. Behind another pool, it is the ticket
    that this pool has passed on.
    """
    if KEY in scope:
        return scope[KEY].ticket if isinstance(scope[KEY], HeldWithTicket) else ""
    found: list[bytes] = []
    query = scope.get("query_string") or b""
    if _PARAMETER in query:
        scope["query_string"] = _without_ticket(query, found)
    headers: Iterable[tuple[bytes, bytes]] = scope.get("headers") or ()
    for name, value in headers:
        if name == FIELD:
            found.append(value)
            scope["headers"] = [each for each in headers if each[0] != FIELD]
    if not found:
        return ""
    text = found[0].decode("latin-1")
    return text if WRITTEN.fullmatch(text) else ""


def _without_ticket(query: bytes, found: list[bytes]) -> bytes:
    """The query without the parameter, each other byte as it was; the values are added to ``found``."""
    rest = []
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        if name == _PARAMETER:
            found.append(value)
        else:
            rest.append(part)
    return b"&".join(rest)

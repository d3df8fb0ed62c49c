"""Refusals as ASGI messages. Only this module knows how servers differ in sending them."""

import math
import re

from ...conf import PoolSettings
from ...conf.validators import REASON_BYTES
from ...core.protocol import Refusal
from .asgi import Message, Scope
from .tickets import FIELD

HTTP_EXTENSION = "websocket.http.response"
RETRY_HEADER = "Admission-Retry"
"""The header by which a balancer says whether it tries another worker after a 503: ``1``, or ``0`` at its last try."""
_RETRY = RETRY_HEADER.lower().encode()

TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
"""The syntax of a subprotocol (RFC 6455, section 4.1); a server may fail to send another one."""


def close_reason(text: str, retry_after: float, ticket: str = "") -> str:
    """``text; ticket=TICKET; retry-after=SECONDS``, in tenths; without the ticket's part if there is none.

    The text is cut so that the whole fits into a close frame.
    """
    hint = f"{f'; ticket={ticket}' if ticket else ''}; retry-after={math.ceil(10 * retry_after) / 10:g}"
    whole = text + hint
    if len(whole.encode()) <= REASON_BYTES:
        return whole
    return text.encode()[: REASON_BYTES - len(hint)].decode(errors="ignore") + hint


def is_passed_on(scope: Scope, pool: PoolSettings) -> bool:
    """Whether a balancer may try another worker for the handshake of ``scope``, by its header and the settings."""
    if pool.balancer_retries is False or HTTP_EXTENSION not in (scope.get("extensions") or ()):
        return False
    told = [value for name, value in scope.get("headers") or () if name == _RETRY]
    return b"0" not in told and bool(told or pool.balancer_retries)


def messages(scope: Scope, refusal: Refusal, pool: PoolSettings) -> tuple[Message, Message]:
    """The messages that refuse the handshake of ``scope``, in order."""
    if (refusal.is_passed or pool.refuse_with == "http") and HTTP_EXTENSION in (scope.get("extensions") or ()):
        return _denial(refusal, pool)
    return _close(scope, refusal, pool)


def _close(scope: Scope, refusal: Refusal, pool: PoolSettings) -> tuple[Message, Message]:
    # Browsers hide the close code if the close comes before the accept, or if the accept selects none of the requested
    # subprotocols.
    subprotocols = scope.get("subprotocols")
    requested = next(filter(TOKEN.fullmatch, subprotocols), None) if subprotocols else None
    reason = close_reason(pool.close_reason, refusal.retry_after, refusal.ticket)
    return (
        {"type": "websocket.accept", "subprotocol": requested},
        {"type": "websocket.close", "code": pool.close_code, "reason": reason},
    )


def _denial(refusal: Refusal, pool: PoolSettings) -> tuple[Message, Message]:
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        # Whole seconds (RFC 9110, section 10.2.3).
        (b"retry-after", b"%d" % math.ceil(refusal.retry_after)),
    ]
    if refusal.ticket:
        headers.append((FIELD, refusal.ticket.encode()))
    body = close_reason(pool.close_reason, refusal.retry_after, refusal.ticket).encode()
    return (
        {"type": f"{HTTP_EXTENSION}.start", "status": 503, "headers": headers},
        {"type": f"{HTTP_EXTENSION}.body", "body": body},
    )

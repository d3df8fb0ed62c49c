"""A refusal as ASGI messages. The only module that knows how servers differ in sending one."""

import math
from collections.abc import Iterable
from typing import Any

from .conf import PoolSettings
from .types import Refusal

REASON_BYTES = 123
"""The longest reason a close frame can carry, in bytes of UTF-8 (RFC 6455, section 5.5)."""

HTTP_EXTENSION = "websocket.http.response"

Message = dict[str, Any]


def close_reason(text: str, retry_after: float) -> str:
    """``text; retry-after=SECONDS`` in tenths, the text cut so that all of it fits into a close frame."""
    hint = f"; retry-after={math.ceil(10 * retry_after) / 10:g}"
    return text.encode()[: REASON_BYTES - len(hint)].decode(errors="ignore") + hint


def messages(scope: Message, refusal: Refusal, pool: PoolSettings) -> Iterable[Message]:
    """What to send, in order, to refuse the handshake of ``scope``."""
    if pool.refuse_with == "http" and HTTP_EXTENSION in (scope.get("extensions") or ()):
        return _denial(refusal, pool)
    return _close(scope, refusal, pool)


def _close(scope: Message, refusal: Refusal, pool: PoolSettings) -> Iterable[Message]:
    # Browsers hide the code of a close before accept, and of a handshake that leaves
    # the subprotocols they asked for unanswered.
    requested = scope.get("subprotocols") or [None]
    yield {"type": "websocket.accept", "subprotocol": requested[0]}
    yield {
        "type": "websocket.close",
        "code": pool.close_code,
        "reason": close_reason(pool.close_reason, refusal.retry_after),
    }


def _denial(refusal: Refusal, pool: PoolSettings) -> Iterable[Message]:
    yield {
        "type": f"{HTTP_EXTENSION}.start",
        "status": 503,
        "headers": [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"retry-after", b"%d" % math.ceil(refusal.retry_after)),
        ],
    }
    # The header has whole seconds (RFC 9110, section 10.2.3).
    body = close_reason(pool.close_reason, refusal.retry_after).encode()
    yield {"type": f"{HTTP_EXTENSION}.body", "body": body}

"""Patch for Daphne, so that it sends registered close codes and reasons.

Daphne passes the application's close code to Autobahn's ``sendClose``, which accepts only 1000 and 3000 to 4999, and
drops the reason (django/daphne#374, crossbario/autobahn-python#1642): 1013 reaches the client as 1011. Autobahn's frame
writer, ``sendCloseFrame``, has no such limit.

Autobahn gives a client 1 s to answer a close, and txaio's timer ends it at the whole second before: a client that is
closed just before a second is full is reset at once, and may have read nothing by then. It has as long as elsewhere.
"""

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from ..conf.validators import REASON_BYTES, SENDABLE_CODES
from .servers import LINGER

NAME = "daphne"
KNOWN_PARTS = ("serverClose", "sendCloseFrame", "handle_reply", "STATE_CONNECTING")


def is_loaded() -> bool:
    """Whether this process has imported Daphne, as its server or as an installed app."""
    return "daphne.ws_protocol" in sys.modules


def can_close_with_reason() -> bool:
    """Whether the loaded Daphne sends codes and reasons, patched or not."""
    protocol = sys.modules["daphne.ws_protocol"].WebSocketProtocol
    close = getattr(protocol, "serverClose", None)
    return close is not None and "reason" in inspect.signature(close).parameters


def extend() -> bool:
    """Patch the loaded Daphne to send close codes and reasons; return whether it now does.

    A Daphne that does so unpatched, or whose internals are unknown, is not changed.
    """
    if can_close_with_reason():
        return True
    protocol = sys.modules["daphne.ws_protocol"].WebSocketProtocol
    if not all(hasattr(protocol, name) for name in KNOWN_PARTS):
        return False
    handle_reply = protocol.handle_reply

    def server_close(self: Any, code: int | None = None, reason: str | None = None) -> None:
        """Close with any sendable code, and a reason of at most 123 bytes."""
        if code is not None and code not in SENDABLE_CODES:
            raise ValueError(f"invalid close code {code}")
        text = (reason or "").encode()[:REASON_BYTES].decode(errors="ignore").encode()
        if self.closeHandshakeTimeout:
            self.closeHandshakeTimeout = max(self.closeHandshakeTimeout, LINGER)
        self.sendCloseFrame(code=1000 if code is None else code, reasonUtf8=text)

    def handle_reply_with_reason(self: Any, message: dict[str, Any]) -> None:
        if message.get("type") == "websocket.close" and self.state != self.STATE_CONNECTING:
            self.serverClose(code=message.get("code"), reason=message.get("reason"))
        else:
            handle_reply(self, message)

    protocol.serverClose = server_close
    protocol.handle_reply = handle_reply_with_reason
    return True


def before_exit(farewell: Callable[[], Awaitable[None]]) -> None:
    """Have the running Daphne await ``farewell`` during its shutdown, since it has no lifespan."""
    from twisted.internet import defer, reactor

    def say() -> Any:
        return defer.Deferred.fromFuture(asyncio.ensure_future(farewell()))

    reactor.addSystemEventTrigger("before", "shutdown", say)  # type: ignore[arg-type]

"""A server that speaks the least of each protocol: what the client waits for before it counts as connected."""

import asyncio
import json
import time
from typing import Any

UPTIME = 6.0
"""Seconds for which a connection of a ``restart`` pool is open; most clients reset their backoff before."""
RESTART = {"type": "websocket.close", "code": 1012, "reason": "Service Restart; retry-after=4.0"}
"""As a drain closes."""
PAUSE = 3.0
"""Seconds between two signs of life; Action Cable bears six of silence."""


class Goodbye(Exception):
    """The client has left."""


async def speak(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Accept, and answer until the client leaves; a ``restart`` pool closes its first connection after ``UPTIME``."""
    await receive()
    asked = scope.get("subprotocols") or [None]
    await send({"type": "websocket.accept", "subprotocol": asked[0]})
    cable = asked[0] == "actioncable-v1-json"
    if cable:
        await send({"type": "websocket.send", "text": '{"type": "welcome"}'})
    end = time.monotonic() + UPTIME if scope["path"].split("/")[2].endswith("-restart") else float("inf")
    while time.monotonic() < end:
        try:
            message = await asyncio.wait_for(receive(), min(PAUSE, end - time.monotonic()))
        except TimeoutError:
            if cable:
                await send({"type": "websocket.send", "text": json.dumps({"type": "ping", "message": time.time()})})
            continue
        if message["type"] == "websocket.disconnect":
            raise Goodbye
        if answer := reply(message.get("text") or ""):
            await send({"type": "websocket.send", "text": answer})
    await send(RESTART)


def reply(text: str) -> str | None:
    """The answer to a message, None for no answer."""
    if text.endswith("\x1e"):
        return "{}\x1e" if '"protocol"' in text else '{"type":6}\x1e'
    try:
        asked = json.loads(text)
    except ValueError:
        return text or None
    if isinstance(asked, list):
        return json.dumps([*asked[:3], "phx_reply", {"status": "ok", "response": {}}])
    kinds = {"connection_init": {"type": "connection_ack"}, "ping": {"type": "pong"}}
    if asked.get("command") == "subscribe":
        return json.dumps({"identifier": asked["identifier"], "type": "confirm_subscription"})
    return json.dumps(kinds[asked["type"]]) if asked.get("type") in kinds else None

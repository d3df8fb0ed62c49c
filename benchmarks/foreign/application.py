"""The test project with a pool for each foreign client, a server that speaks what each waits for, and a record."""

import json
import os
import re
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

from channels_admission.middleware import AdmissionMiddleware

from .pages import page
from .speaking import Goodbye, speak
from project.asgi import application as project

MODULES = Path(os.environ["FOREIGN_MODULES"])
"""The folder ``node_modules``, whose files the pages load."""
HINT = re.compile(r"retry-after=([0-9.]+)")
TYPES = {".js": "text/javascript", ".mjs": "text/javascript"}

attempts: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
"""Every attempt of a client, by its pool."""


class Recorded:
    """Notes an attempt of a client: its time, whether it handed back a ticket, and what the server told it."""

    def __init__(self, scope: dict[str, Any], send: Any) -> None:
        self._send = send
        handed = b"admission_ticket=" in scope["query_string"] or b"admission-ticket" in dict(scope["headers"])
        self.note: dict[str, Any] = {"at": time.time(), "ticket": handed, "hint": None, "admitted": False}
        attempts[pool_of(scope)].append(self.note)

    async def __call__(self, message: dict[str, Any]) -> None:
        text = message.get("reason") or message.get("body", b"").decode(errors="replace")
        if (found := HINT.search(text)) and not self.note["admitted"]:
            self.note["hint"] = float(found[1])
        if message["type"] in ("websocket.close", "websocket.http.response.body"):
            self.note["ended"] = time.time()
        await self._send(message)


def pool_of(scope: dict[str, Any]) -> str:
    """The pool of a path ``/ws/POOL/…``."""
    return str(scope["path"].split("/")[2])


async def admitted(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if note := scope.get("note"):
        note["admitted"] = True
    with suppress(Goodbye):
        await speak(scope, receive, send)


async def _http(scope: dict[str, Any], receive: Any, send: Any) -> None:
    path = scope["path"]
    if path == "/seen/":
        await _answer(send, json.dumps(attempts).encode(), "application/json")
    elif path.startswith("/page/"):
        await _answer(send, page(path.split("/")[2], scope["query_string"].decode()).encode(), "text/html")
    elif path.startswith("/modules/"):
        file = MODULES / path.removeprefix("/modules/")
        await _answer(send, file.read_bytes(), TYPES[file.suffix])
    else:
        await project(scope, receive, send)


async def _answer(send: Any, body: bytes, kind: str) -> None:
    headers = [(b"content-type", f"{kind}; charset=utf-8".encode()), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await _http(scope, receive, send)
    elif scope["type"] == "websocket":
        if b"holder" not in scope["query_string"]:
            send = Recorded(scope, send)
            scope = {**scope, "note": send.note}
        await AdmissionMiddleware(admitted, pool=pool_of(scope))(scope, receive, send)
    else:
        await project(scope, receive, send)

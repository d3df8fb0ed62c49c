"""``python -m benchmarks.inside``: profile handshakes and refusals in this process, and print JSON.

There is no server and no socket, and the ledger is in memory: only the package is measured.
"""

import asyncio
import cProfile
import json
import os
import pstats
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OURS = "channels_admission"
TIMES = 5_000
SHOWN = 8
EVENTS = ({"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000})


class Socket:
    """A server's side of a connection whose client connects and leaves."""

    def __init__(self) -> None:
        self._events = iter(EVENTS)

    async def receive(self) -> Any:
        return next(self._events)

    async def send(self, message: Any) -> None:
        pass


async def visitor(scope: Any, receive: Any, send: Any) -> None:
    """The application."""
    await receive()
    await send({"type": "websocket.accept"})
    await receive()


async def _many(application: Callable[..., Awaitable[None]], count: int) -> float:
    """Microseconds for each of so many handshakes."""
    started = time.perf_counter()
    for _ in range(count):
        socket = Socket()
        await application({"type": "websocket", "path": "/", "subprotocols": []}, socket.receive, socket.send)
    return (time.perf_counter() - started) / count * 1e6


async def _profiled(pool: str) -> dict[str, Any]:
    from channels_admission.middleware import AdmissionMiddleware

    application = AdmissionMiddleware(visitor, pool)
    await _many(application, TIMES)
    plain, ours = await _many(visitor, TIMES), await _many(application, TIMES)
    with cProfile.Profile() as profile:
        await _many(application, TIMES)
    rows = []
    for (path, _, name), (_, calls, own, _, _) in pstats.Stats(profile).stats.items():
        if OURS in Path(path).parts:
            rows.append({"name": f"{Path(path).stem}.{name}", "calls": calls / TIMES, "own": own / TIMES * 1e6})
    rows.sort(key=lambda row: row["own"], reverse=True)
    return {"added": ours - plain, "functions": rows[:SHOWN]}


async def _profile() -> dict[str, Any]:
    from channels_admission.limiter.registry import close_limiters

    found = {"admission": await _profiled("default"), "refusal": await _profiled("full")}
    await close_limiters()
    return found


def profile() -> dict[str, Any]:
    """The same, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.inside"]
    return json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)


def main() -> None:
    os.environ["REDIS_URL"] = ""
    os.environ["CHANNELS_ADMISSION"] = json.dumps({"LEDGER": "memory", "POOLS": {"full": {"MAX_CONNECTIONS": 0}}})
    os.environ["DJANGO_SETTINGS_MODULE"] = "benchmarks.settings"
    import django

    django.setup()
    print(json.dumps(asyncio.run(_profile())))


if __name__ == "__main__":
    main()

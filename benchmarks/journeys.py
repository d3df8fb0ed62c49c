"""``python -m benchmarks.journeys``: count our functions on the way of one handshake, one release and one heartbeat.

One limiter on one event loop with a real Redis, default settings but for the pauses between calls. Counted are the
entries of functions of ``channels_admission``, how many functions and modules that are, and how often the module
changes from one entry to the next. A coroutine that goes on after a wait is no entry, and the monitors that tick beside
belong to no journey. The counts are the same on every machine; seconds are measured elsewhere.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import channels_admission
from channels_admission.limiter.registry import close_limiters, limiter_of
from channels_admission.middleware import AdmissionMiddleware

from demo.servers import Redis

OURS = Path(channels_admission.__file__).parent
HEARTBEAT = 0.5
SCOPE = {
    "type": "websocket", "asgi": {}, "http_version": "1.1", "scheme": "ws", "client": ("127.0.0.1", 1), "path": "/",
    "query_string": b"", "headers": [], "subprotocols": [], "extensions": {},
}  # fmt: skip
CONNECT = {"type": "websocket.connect"}
DISCONNECT = {"type": "websocket.disconnect", "code": 1000}


class Entries:
    """The functions that were entered, in their order."""

    def __init__(self) -> None:
        self.names: list[tuple[str, str]] = []

    def note(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        is_entry = event == "call" and frame.f_lasti <= 0 and code.co_filename.startswith(str(OURS))
        if is_entry and not _is_beside(frame):
            module = Path(code.co_filename).relative_to(OURS).with_suffix("").as_posix()
            self.names.append((module, code.co_qualname))

    def __str__(self) -> str:
        modules = [module for module, _ in self.names]
        changes = sum(before != after for before, after in pairwise(modules))
        return (
            f"{len(self.names):4} entries of {len(set(self.names)):3} functions in {len(set(modules)):2} modules, "
            f"which change {changes:2} times"
        )


def _is_beside(frame: FrameType | None) -> bool:
    """Whether a tick of the monitors has led to the frame."""
    while frame is not None:
        if frame.f_code.co_qualname == "OverloadManager._tick":
            return True
        frame = frame.f_back
    return False


@contextmanager
def watched() -> Iterator[Entries]:
    entries = Entries()
    sys.setprofile(entries.note)
    try:
        yield entries
    finally:
        sys.setprofile(None)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Accepts, and waits until its client leaves."""
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


class Client:
    """The server's half of one connection."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self.accepted = asyncio.Event()
        self._events.put_nowait(CONNECT)

    async def send(self, message: Any) -> None:
        self.accepted.set()

    def leave(self) -> None:
        self._events.put_nowait(DISCONNECT)

    async def receive(self) -> Any:
        return await self._events.get()


async def until(holds: Any) -> None:
    """Poll without a function of ours until something holds, at most five seconds."""
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.001)


async def journeys() -> dict[str, Entries]:
    """What each journey enters, after one of its kind has been made."""
    limiter = limiter_of("default")
    calls = limiter.state.calls
    await until(lambda: calls.made and not limiter.state.away)
    counted = {}
    for _ in range(2):  # the first time some things are loaded
        made, client = calls.made, Client()
        with watched() as counted["a handshake that asks Redis"]:
            running = asyncio.ensure_future(AdmissionMiddleware(application)(dict(SCOPE), client.receive, client.send))
            await client.accepted.wait()
        await until(lambda made=made: calls.made > made)
        made = calls.made
        with watched() as counted["a release that is told"]:
            client.leave()
            await running
            await until(lambda made=made: calls.made > made and not limiter.state.unreported)
            await asyncio.sleep(0.02)
        made = calls.made
        with watched() as counted["a heartbeat"]:
            await until(lambda made=made: calls.made > made)
            await asyncio.sleep(0.02)
    await close_limiters()
    return counted


def main() -> None:
    import django
    from django.conf import settings

    with Redis() as redis:
        settings.configure(
            SECRET_KEY="benchmarks",
            CHANNELS_ADMISSION={"MAX_CONNECTIONS": 100, "LEDGER": redis.url, "HEARTBEAT": HEARTBEAT, "LEASE": 5},
        )
        django.setup()
        for name, entries in asyncio.run(journeys()).items():
            print(f"{name:28} {entries}")
            if "--names" in sys.argv:
                for (module, function), count in Counter(entries.names).most_common():
                    print(f"    {count:3}  {module}  {function}")


if __name__ == "__main__":
    main()

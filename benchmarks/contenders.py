"""The contenders: how each server of the benchmark handles a handshake."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

REASON = "Try Again Later; retry-after=60"
"""As long as the package's reason."""


@dataclass(frozen=True, slots=True)
class Contender:
    name: str
    title: str
    build: Callable[[], Any]
    """Creates its ASGI application, in the server's process."""
    seen: str = "open"
    """The result for its clients: ``open``, a close code, or an HTTP status."""
    ours: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def refuses(self) -> bool:
        return self.seen != "open"


def _consumer(name: str) -> Callable[[], Any]:
    def build() -> Any:
        from . import consumers

        return getattr(consumers, name).as_asgi()

    return build


def _behind_middleware(name: str) -> Callable[[], Any]:
    def build() -> Any:
        from channels_admission.middleware import AdmissionMiddleware

        return AdmissionMiddleware(_consumer(name)())

    return build


async def _floor(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.close", "code": 1013, "reason": REASON})


def class_of(scope: Any) -> str:
    """The class of every connection: ``member``."""
    return "member"


async def _floor_503(scope: Any, receive: Any, send: Any) -> None:
    await receive()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"retry-after", b"60")]
    await send({"type": "websocket.http.response.start", "status": 503, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": REASON.encode()})


FULL = {"MAX_CONNECTIONS": 0}
QUOTA = {"QUOTAS": [{"key": "address", "max": 50_000}]}
EVERYTHING = {
    "CONNECT_RATE": 100_000,
    "MAX_CONNECTION_AGE": 3600,
    "PRESSURE": {"lag": None, "cpu": (100, 200)},
    "MEMORY_LIMIT": 2**36,
    "CLASSIFY": "benchmarks.contenders.class_of",
    "SHARES": {"member": 0.9},
    **QUOTA,
}
CONTENDERS = {
    contender.name: contender
    for contender in (
        Contender("bare", "no limit at all", _consumer("Echo")),
        Contender("local", "a counter in the consumer's class", _consumer("LocalCounter")),
        Contender("incr", "INCR and DECR in Redis", _consumer("IncrDecr")),
        Contender("semaphore", "a sorted set with expiry in Redis", _consumer("Semaphore")),
        Contender("middleware", "ours, the middleware", _behind_middleware("Echo"), ours=True),
        Contender("mixin", "ours, the mixin", _consumer("Mixin"), ours=True),
        Contender("both", "ours, the middleware and the mixin", _behind_middleware("Mixin"), ours=True),
        Contender("quota", "ours, one quota", _behind_middleware("Echo"), ours=True, settings=QUOTA),
        Contender("everything", "ours, everything on", _behind_middleware("Mixin"), ours=True, settings=EVERYTHING),
        Contender("floor", "accept and close, with nothing behind it", lambda: _floor, seen="1013"),
        Contender("floor-503", "a 503 with nothing behind it", lambda: _floor_503, seen="503"),
        Contender("local-full", "the counter in the consumer's class", _consumer("LocalCounter"), seen="403"),
        Contender("incr-full", "INCR and DECR in Redis", _consumer("IncrDecr"), seen="403"),
        Contender("1013", "ours, by 1013", _behind_middleware("Echo"), "1013", True, FULL),
        Contender("503", "ours, by 503", _behind_middleware("Echo"), "503", True, {**FULL, "REFUSE_WITH": "http"}),
    )
}

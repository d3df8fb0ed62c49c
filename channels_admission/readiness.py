"""Readiness for load balancers: whether a worker should get new WebSockets. Answered without the ledger."""

from collections.abc import Iterable
from enum import StrEnum
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from . import conf
from .core.levels import Level
from .limiter.limiter import Limiter
from .limiter.registry import open_limiters

PATH = "/readiness/"
LONGEST_QUERY = 2048
"""Characters, since anyone may send a query."""


class Standing(StrEnum):
    """The readiness of a worker, in one word; the gravest first."""

    DRAINING = "draining"
    """From ``DRAIN_DELAY`` before the drain on."""
    SATURATED = "saturated"
    """A monitor refuses every handshake."""
    WORKER = "worker_full"
    """The worker holds ``MAX_PER_WORKER`` slots."""
    PAUSED = "paused"
    FULL = "full"
    """Every slot of the pool is held. The state lasts until a twentieth of the slots is free."""
    READY = "ready"
    IDLE = "idle"
    """The process has had no WebSocket yet, or serves none."""


REASONS = frozenset({Standing.DRAINING, Standing.SATURATED, Standing.WORKER, Standing.PAUSED, Standing.FULL})
"""The reasons why a worker is not ready."""


def standing(limiters: Iterable[Limiter], ignored: frozenset[str] = frozenset()) -> Standing:
    """The standing of the worker with these limiters: ready if any of its pools is."""
    found = {_standing(limiter, ignored) for limiter in limiters}
    if Standing.READY in found:
        return Standing.READY
    return next((each for each in Standing if each in found), Standing.IDLE)


def _standing(limiter: Limiter, ignored: frozenset[str]) -> Standing:
    state = limiter.state
    reasons = {
        *([Standing(state.closed)] if state.closed else []),
        *([Standing.DRAINING] if state.leaving else []),
        *([Standing.WORKER] if limiter.is_full else []),
        *([Standing.SATURATED] if limiter.saturated else []),
        # While the ledger is away the level is unknown, and all workers would become unready at once.
        *([Standing.FULL] if state.level is Level.FULL and not state.away else []),
    }
    if state.dry_run:
        reasons &= {Standing.DRAINING}  # a dry run refuses for no other reason
    return next((each for each in Standing if each in reasons - ignored), Standing.READY)


def answer(query: str) -> tuple[HTTPStatus, str]:
    """The response to a load balancer: 200 or 503, and one word.

    The query may have ``pool=NAME``, to ask for one pool, and ``ignore=full,paused``, reasons to ignore. An unknown
    pool is a 404. An unknown reason is a 400, and so is a query of more than ``LONGEST_QUERY`` characters.
    """
    if len(query) > LONGEST_QUERY:
        return HTTPStatus.BAD_REQUEST, "the query is too long"
    given = parse_qs(query)
    ignored = frozenset(word for words in given.get("ignore", ()) for word in words.split(","))
    if not ignored <= REASONS:
        return HTTPStatus.BAD_REQUEST, f"no such reason; reasons: {', '.join(sorted(REASONS))}"
    pools = given.get("pool", ())
    if not set(pools) <= set(conf.current().pools):
        return HTTPStatus.NOT_FOUND, "no such pool"
    found = standing((limiter for limiter in open_limiters() if not pools or limiter.pool.name in pools), ignored)
    return HTTPStatus.SERVICE_UNAVAILABLE if found in REASONS else HTTPStatus.OK, found.value


class AdmissionReadiness:
    """ASGI middleware: answer ``path`` before Django, for any Host header, and pass all else on to ``inner``.

    ::

        ProtocolTypeRouter({"http": AdmissionReadiness(get_asgi_application()), "websocket": …})
    """

    def __init__(self, inner: Any, path: str = PATH) -> None:
        self.inner = inner
        self.path = path

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != self.path or scope["method"] not in ("GET", "HEAD"):
            await self.inner(scope, receive, send)
            return
        status, text = answer(scope["query_string"].decode("latin-1"))
        body = f"{text}\n".encode()
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", b"%d" % len(body)),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
        ]
        await send({"type": "http.response.start", "status": status.value, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

"""A WebSocket client that comes back when the server says so, over the ``websockets`` library.

::

    async for socket in connections("wss://example.org/ws/"):
        try:
            async for message in socket:
                ...
        except ConnectionClosed:
            pass

The rule is that of ``AdmissionSocket`` in the browser: wait as long as the server's
``retry-after=SECONDS`` asks, and otherwise for a random time that grows with every failure.
:class:`Retries` is the rule without I/O, :func:`connections` acts by it. All times are in seconds.
Needs no Django: ``pip install channels-admission[client]``.
"""

import asyncio
import random
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidMessage, InvalidStatus, SecurityError
from websockets.http11 import Response
from websockets.protocol import State

SECONDS = re.compile(r"\d{1,5}(?:\.\d{1,3})?", re.ASCII)
HINT = re.compile(rf"(?:^|;\s*)retry-after=({SECONDS.pattern})\Z", re.ASCII)
FINAL = {1000, 1002, 1003, *range(1007, 1011)}
"""Close codes after which the same again would end the same way. 1001, 1005, 1006 and the rest pass."""
APPLICATION = 3000
"""From here on a close code is the application's, which means what it says; 4013 alone means 1013."""
BUSY = 4013
PASSING = {429, 500, 502, 503, 504}
"""Answers to a handshake, as HTTP status, that may be another one later."""
CLOSE_CODES = 1000
"""From here on a code is a WebSocket's; below, the status of an HTTP answer."""
MOST_DOUBLINGS = 30


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt to be connected ended."""

    code: int | None = None
    """The close code, or the HTTP status of a refused handshake; None where there was neither."""
    reason: str = ""
    """The close reason, or what an HTTP answer says of retrying."""
    uptime: float = 0.0
    """How long the connection was open."""

    @property
    def is_final(self) -> bool:
        """Whether no retry can mend it."""
        if self.code is None:
            return False
        if self.code < CLOSE_CODES:
            return self.code not in PASSING
        own = self.code >= APPLICATION and self.code != BUSY
        return (self.code in FINAL or own) and not HINT.search(self.reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """The terms of waiting."""

    floor: float = 0.5
    """The shortest wait, whoever asks for less."""
    base: float = 1.0
    """The longest first wait after an attempt that failed, doubled for each further one."""
    cap: float = 60.0
    """The longest wait without a hint."""
    first_retry_window: float = 5.0
    """The longest first wait after a connection that had been up."""
    settle: float = 0.1
    """How long a connection must be open to have been up: a refused one is open for a moment, too."""
    min_uptime: float = 5.0
    """How long a connection must be open for the failures before it to be forgotten."""
    max_hint: float = 3600.0
    """A longer hint is ignored."""

    def hint(self, reason: str) -> float | None:
        """The wait that ``reason`` asks for, at least the floor; None when it asks for none, or too much."""
        found = HINT.search(reason)
        seconds = float(found[1]) if found else None
        return None if seconds is None or seconds > self.max_hint else max(self.floor, seconds)

    def bounds(self, attempt: int, *, was_up: bool = False) -> tuple[float, float]:
        """Between what the wait for the ``attempt``-th retry, counted from 1, is drawn evenly without a hint."""
        growing = min(self.cap, self.base * 2 ** min(attempt - 1, MOST_DOUBLINGS))
        longest = self.first_retry_window if was_up and attempt == 1 else growing
        return self.floor, max(self.floor, longest)


class Retries:
    """The retries of one client. ``rng`` draws from 0 to 1."""

    def __init__(self, patience: Patience, rng: Callable[[], float] = random.random) -> None:
        self.patience = patience
        self.attempt = 0
        """Retries since a connection last stayed open."""
        self._rng = rng

    def after(self, ending: Ending) -> float | None:
        """Seconds to wait after ``ending``, or None when there is to be no retry."""
        if ending.uptime >= self.patience.min_uptime:
            self.attempt = 0
        if ending.is_final:
            return None
        self.attempt += 1
        hint = self.patience.hint(ending.reason)
        return self._draw(ending) if hint is None else hint

    def _draw(self, ending: Ending) -> float:
        was_up = ending.uptime >= self.patience.settle
        shortest, longest = self.patience.bounds(self.attempt, was_up=was_up)
        return shortest + self._rng() * (longest - shortest)


@dataclass(frozen=True, slots=True)
class Wait:
    """What :func:`connections` is about to wait for."""

    seconds: float
    attempt: int
    """Which retry since a connection last stayed open, from 1."""
    ending: Ending


async def connections(
    uri: str,
    *,
    patience: Patience = Patience(),
    on_wait: Callable[[Wait], object] | None = None,
    rng: Callable[[], float] = random.random,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
    **options: Any,
) -> AsyncIterator[ClientConnection]:
    """Connections to ``uri``, one after the other, each as soon as the server can have it.

    A refused client may get a connection as well, which is closed at once. Coming back for the
    next one while a connection is open closes it, and waits as after a loss. The iteration ends
    after a close that no retry can mend, 1000 among them, and so after ``close()`` on either side.
    An answer to the handshake that no retry can mend is raised as the exception of ``websockets``.

    ``on_wait`` hears of each wait before it begins. ``options`` are those of ``websockets``' ``connect``.
    """
    retries = Retries(patience, rng)
    while True:
        try:
            connection = await connect(uri, **options)
        except (OSError, InvalidMessage, InvalidStatus, SecurityError) as error:
            ending = _failure(error)
            if ending is None or ending.is_final:
                raise
        else:
            opened = clock()
            end = asyncio.ensure_future(_end_of(connection, clock))
            try:
                yield connection
                left = connection.state is State.OPEN
            finally:
                await connection.close()
            uptime = await end - opened
            ending = Ending(None if left else connection.close_code, connection.close_reason or "", uptime)
        seconds = retries.after(ending)
        if seconds is None:
            return
        if on_wait is not None:
            on_wait(Wait(seconds, retries.attempt, ending))
        await sleep(seconds)


async def _end_of(connection: ClientConnection, clock: Callable[[], float]) -> float:
    """When the connection ended, which may be long before its user looks."""
    await connection.wait_closed()
    return clock()


def _failure(error: Exception) -> Ending | None:
    """The end of an attempt that got no connection; None when it is no passing trouble."""
    if isinstance(error, InvalidStatus):
        return Ending(error.response.status_code, advice(error.response))
    # An answer that cannot be read, too long a one among them, may be another one later.
    return None if isinstance(error, ssl.SSLCertVerificationError) else Ending()


def advice(answer: Response) -> str:
    """What an HTTP answer says of retrying: its body if that ends with a hint, which is finer, else its header.

    Of several headers, or several numbers in one, the least counts.
    """
    body = bytes(answer.body or b"").decode(errors="replace")
    if HINT.search(body):
        return body
    given = [number.strip() for line in answer.headers.get_all("Retry-After") for number in line.split(",")]
    return f"retry-after={min(filter(SECONDS.fullmatch, given), key=float, default='')}"

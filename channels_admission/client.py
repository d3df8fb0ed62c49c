"""A WebSocket client that reconnects when the server says so, based on the ``websockets`` library.

::

    async for socket in connections("wss://example.org/ws/"):
        try:
            async for message in socket:
                ...
        except ConnectionClosed:
            pass

It waits like ``AdmissionSocket`` in the browser: as long as the server's ``retry-after=SECONDS`` says, or without that
for a random time that grows with every failure. A ticket, the client's place in the line, goes back to the server with
the next attempt as the header ``Admission-Ticket``. :class:`Retries` has the rule without I/O, :func:`connections`
applies it. All times are in seconds. Nothing but ``websockets`` is needed: ``pip install channels-admission[client]``,
or without Django, Channels and Redis ``pip install --no-deps channels-admission websockets``.
"""

import asyncio
import math
import random
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.datastructures import Headers
from websockets.exceptions import (
    InvalidHandshake,
    InvalidMessage,
    InvalidProxyStatus,
    InvalidStatus,
    InvalidURI,
    ProxyError,
    SecurityError,
)
from websockets.http11 import Response
from websockets.protocol import State

SECONDS = re.compile(r"\d{1,5}(?:\.\d{1,3})?", re.ASCII)
TICKET = re.compile(r"[A-Za-z0-9_-]{24}", re.ASCII)
HINT = re.compile(
    rf"(?:^|; *)(?:ticket=(?P<ticket>{TICKET.pattern}); *)?retry-after=(?P<seconds>{SECONDS.pattern})\Z", re.ASCII
)
"""The end of a reason: the hint, and the ticket if there is one directly before it."""
TICKET_HEADER = "Admission-Ticket"
FINAL = {1000, 1002, 1003, *range(1007, 1011)}
"""Close codes after which a retry would end the same way. After 1001, 1005, 1006 and others a retry may succeed."""
APPLICATION = 3000
"""Codes from here on belong to the application and are final, except :data:`BUSY`."""
BUSY = 4013
"""Means the same as 1013, Try Again Later."""
PASSING = {408, 425, 429, *range(500, 600)}
"""HTTP statuses of a refused handshake after which a retry may succeed."""
LASTING = {401, 407, 410}
"""HTTP statuses that are final even for a client that has been up: the client must change, or the resource is gone."""
BROKEN = (OSError, InvalidMessage, SecurityError, ProxyError)
"""Errors after which a retry may succeed: of the network, and answers that are malformed or too long."""
REDIRECTED = (InvalidURI, ValueError, LookupError)
"""Errors of a redirect that leads to no WebSocket, such as to a page."""
UNANSWERED = 1006
"""The code of an end without a close frame."""
CLOSE_CODES = 1000
"""Codes from here on are close codes; lower ones are HTTP statuses."""
MOST_DOUBLINGS = 30
FINITE = {"floor", "base", "cap", "first_retry_window", "settle"}
"""What of a :class:`RetryPolicy` must be finite, since a sleep takes what comes of Infinity for no wait at all."""
MOST_TEXT = 1024
"""Bytes at the end of an HTTP response's body that are read for a hint; a close frame has at most 123."""


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a connection, or of an attempt to connect."""

    code: int | None = None
    """The close code, or the HTTP status of a refused handshake; None if there was neither."""
    reason: str = ""
    """The close reason, or the same with the retry time and the ticket of an HTTP response."""
    uptime: float = 0.0
    """How long the connection was open."""
    error: Exception | None = field(default=None, compare=False)
    """The error that ended an attempt to connect."""

    @property
    def is_final(self) -> bool:
        """Whether a retry is useless; of an attempt, for a client that has not been up before."""
        if self.code is None:
            refused = isinstance(self.error, ssl.SSLCertVerificationError)
            return self.error is not None and (refused or not isinstance(self.error, BROKEN))
        if self.code < CLOSE_CODES:
            return self.code not in PASSING
        own = self.code >= APPLICATION and self.code != BUSY
        return (self.code in FINAL or own) and not HINT.search(self.reason)

    @property
    def may_be_restart(self) -> bool:
        """Whether an attempt has ended as it may while the server restarts: a proxy or a gateway answers for it, with a
        404, a page, a redirect to one, or another certificate.
        """
        return self.code is None or (self.code < CLOSE_CODES and self.code not in LASTING)

    @property
    def ticket(self) -> str:
        """The place in the line that the server gives, or an empty text."""
        found = HINT.search(self.reason)
        return (found["ticket"] or "") if found else ""

    @property
    def is_answer(self) -> bool:
        """Whether the server has answered: with a close frame, or with an HTTP response that has a hint."""
        if self.code is None or self.code == UNANSWERED:
            return False
        return self.code >= CLOSE_CODES or HINT.search(self.reason) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How long to wait before a retry."""

    floor: float = 0.5
    """The shortest wait, even if the server asks for less."""
    base: float = 1.0
    """The longest first wait after a failed attempt, doubled for each further one."""
    cap: float = 60.0
    """The longest wait without a hint from the server."""
    first_retry_window: float = 5.0
    """The longest first wait after a connection that was up."""
    settle: float = 0.1
    """How long a connection must be open to count as up: a refused one is briefly open, too."""
    min_uptime: float = 5.0
    """How long a connection must be open to reset the count of failures."""
    max_hint: float = 3600.0
    """The longest hint that is followed."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value >= 0 or (name in FINITE and value == math.inf):
                raise ValueError(f"{name} of a RetryPolicy cannot be {value}.")

    def hint(self, reason: str) -> float | None:
        """The wait in ``reason``, at least the floor; None if there is none, or it is too long."""
        found = HINT.search(reason)
        seconds = float(found["seconds"]) if found else None
        return None if seconds is None or seconds > self.max_hint else max(self.floor, seconds)

    def bounds(self, attempt: int, *, was_up: bool = False) -> tuple[float, float]:
        """The bounds of the random wait before the ``attempt``-th retry, counted from 1, without a hint."""
        growing = min(self.cap, self.base * 2 ** min(attempt - 1, MOST_DOUBLINGS))
        longest = self.first_retry_window if was_up and attempt == 1 else growing
        return self.floor, max(self.floor, longest)


class Retries:
    """The retries of one client. ``rng`` returns random numbers from 0 to 1."""

    def __init__(self, policy: RetryPolicy, rng: Callable[[], float] = random.random) -> None:
        self.policy = policy
        self.attempt = 0
        """Retries since a connection last stayed open."""
        self.has_been_up = False
        """Whether there was a connection: then the address and the client are right."""
        self.ticket = ""
        """The ticket for the next attempt, or an empty text."""
        self._rng = rng

    def after(self, ending: Ending) -> float | None:
        """Seconds to wait after ``ending``, or None for no retry."""
        was_up = ending.uptime >= self.policy.settle
        self.has_been_up = self.has_been_up or was_up
        if ending.uptime >= self.policy.min_uptime:
            self.attempt = 0
        if ending.is_answer or was_up:
            self.ticket = ending.ticket
        if self.is_final(ending):
            return None
        self.attempt += 1
        hint = self.policy.hint(ending.reason)
        return self._draw(ending) if hint is None else hint

    def is_final(self, ending: Ending) -> bool:
        """Whether a retry after ``ending`` is useless."""
        return ending.is_final and not (self.has_been_up and ending.may_be_restart)

    def _draw(self, ending: Ending) -> float:
        was_up = ending.uptime >= self.policy.settle
        shortest, longest = self.policy.bounds(self.attempt, was_up=was_up)
        return shortest + self._rng() * (longest - shortest)


@dataclass(frozen=True, slots=True)
class Wait:
    """A wait before a retry."""

    seconds: float
    attempt: int
    """The number of the retry since a connection last stayed open, from 1."""
    ending: Ending
    ticket: str = ""
    """The ticket that the retry will hand back, or an empty text."""

    @property
    def has_place(self) -> bool:
        """Whether the client has a place in the line."""
        return bool(self.ticket)


async def connections(
    uri: str,
    *,
    policy: RetryPolicy = RetryPolicy(),
    on_wait: Callable[[Wait], object] | None = None,
    rng: Callable[[], float] = random.random,
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
    **options: Any,
) -> AsyncIterator[ClientConnection]:
    """Iterate over connections to ``uri``, one after the other, each as soon as the server allows.

    A refusal may also appear as a connection that the server closes at once. The next step of the iteration closes a
    connection that is still open, and waits as after a loss. The iteration ends after a final close, such as 1000 from
    ``close()`` on either side. A final answer to the handshake raises the exception of ``websockets``. A client that
    has been up takes most answers for those of a restart, and tries again.

    ``on_wait`` is called before each wait, and may raise to end the iteration. ``options`` are those of ``websockets``'
    ``connect``.
    """
    retries = Retries(policy, rng)
    headers = Headers(options.pop("additional_headers", None) or ())
    while True:
        try:
            connection = await connect(uri, additional_headers=_with_ticket(headers, retries.ticket), **options)
        except (OSError, InvalidHandshake, *REDIRECTED) as error:
            ending = _failure(error)
            if retries.is_final(ending):
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
            on_wait(Wait(seconds, retries.attempt, ending, retries.ticket))
        await sleep(seconds)


def _with_ticket(headers: Headers, ticket: str) -> Headers:
    """A copy of ``headers`` with ``ticket`` instead of any other, or the same if there is none."""
    if not ticket:
        return headers
    sent = headers.copy()
    if TICKET_HEADER in sent:
        del sent[TICKET_HEADER]
    sent[TICKET_HEADER] = ticket
    return sent


async def _end_of(connection: ClientConnection, clock: Callable[[], float]) -> float:
    """Wait for the end of the connection, and return its time; the user may notice it much later."""
    await connection.wait_closed()
    return clock()


def _failure(error: Exception) -> Ending:
    """The end of a failed attempt to connect."""
    if isinstance(error, InvalidStatus):
        return Ending(error.response.status_code, advice(error.response), error=error)
    # The answer of a forward proxy has no hint of the server.
    return Ending(error.response.status_code if isinstance(error, InvalidProxyStatus) else None, error=error)


def advice(response: Response) -> str:
    """The hint of an HTTP response, with its ticket if it has one: its body if that ends with a hint, which has tenths
    of seconds, else the same from its headers.

    The least of several retry times counts, and the first of several tickets.
    """
    body = bytes(response.body or b"")[-MOST_TEXT:].decode(errors="replace")
    if HINT.search(body):
        return body
    seconds = min(filter(SECONDS.fullmatch, _values(response, "Retry-After")), key=float, default="")
    ticket = next(filter(TICKET.fullmatch, _values(response, TICKET_HEADER)), None)
    return f"ticket={ticket}; retry-after={seconds}" if ticket else f"retry-after={seconds}"


def _values(response: Response, header: str) -> list[str]:
    return [value.strip() for line in response.headers.get_all(header) for value in line.split(",")]

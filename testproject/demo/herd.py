"""A herd of light WebSocket clients: all are cut at once and reconnect by a rule, and every attempt is counted.

Each client is one real socket of this process at a time, without a task of its own. Seconds throughout.
"""

import asyncio
import ipaddress
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Self

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.http11 import Response
from websockets.typing import Origin
from websockets.uri import WebSocketURI, parse_uri

from channels_admission.client import Ending, advice

from .rules import POLICY, RULES, Rule

HANDSHAKE = 15.0
"""Within which an attempt must be answered."""
FAREWELL = 2.0
"""Within which the server must hang up after a close."""
SETTLED = 1.0
"""All are back when none was refused for so long."""
ARRIVING = 400
"""Clients that come in a second at first, before they are cut."""
LOOK = 0.1
"""Between two looks at who is back."""
ABORT = struct.pack("ii", 1, 0)
"""No lingering: an aborted socket sends a reset, and leaves no port behind."""


class WrongTarget(ValueError):
    """The target of a herd is not allowed."""


@dataclass(frozen=True, slots=True)
class Target:
    """The target of a herd: always this machine."""

    uri: WebSocketURI
    origin: Origin
    address: str

    @classmethod
    def at(cls, url: str) -> Self:
        """:exc:`WrongTarget` unless the URL is a plain one whose host has loopback addresses only."""
        uri = parse_uri(url)
        if uri.secure:
            raise WrongTarget("A herd goes to ws:// only.")
        addresses = [str(info[4][0]) for info in socket.getaddrinfo(uri.host, uri.port, type=socket.SOCK_STREAM)]
        if not all(ipaddress.ip_address(address).is_loopback for address in addresses):
            raise WrongTarget(f"A herd goes to loopback addresses only, and {uri.host} is none.")
        host = f"[{uri.host}]" if ":" in uri.host else uri.host
        return cls(uri, Origin(f"http://{host}:{uri.port}"), addresses[0])


@dataclass(slots=True)
class Count:
    """The attempts since a cut."""

    began: float
    attempts: list[float] = field(default_factory=list)
    """When each attempt began, from the cut on."""
    endings: Counter[int | None] = field(default_factory=Counter)
    """Attempts that failed, by close code or HTTP status."""
    answered: float | None = None
    """When the first attempt was, for the servers must bury the old connections first."""


@dataclass(frozen=True, slots=True)
class Return:
    """The return of a herd after a cut."""

    rule: Rule
    clients: int
    back: list[float]
    """When each of those who are back was in, from the cut on, in order."""
    attempts: list[float]
    endings: Counter[int | None]
    answered: float | None
    """When the first attempt was answered, from the cut on: until then the servers bury the old connections."""

    def until(self, share: float) -> float | None:
        """When that share of the herd was in; None if it never was."""
        needed = -int(-share * self.clients // 1)
        return self.back[needed - 1] if len(self.back) >= needed else None

    @property
    def per_client(self) -> float:
        return len(self.attempts) / self.clients

    @property
    def wasted(self) -> int:
        """Attempts that brought nobody back."""
        return len(self.attempts) - len(self.back)

    def per_second(self) -> list[int]:
        """Attempts in each whole second after the cut, in order."""
        seconds = Counter(int(moment) for moment in self.attempts)
        return [seconds[second] for second in range(max(seconds, default=-1) + 1)]

    def as_dict(self) -> dict[str, Any]:
        """The values that ``ws_herd --json`` prints."""
        per_second = self.per_second()
        return {
            "rule": self.rule.name,
            "clients": self.clients,
            "back": len(self.back),
            "seconds_to_answer": self.answered,
            "seconds_to_50": self.until(0.5),
            "seconds_to_99": self.until(0.99),
            "seconds_to_100": self.until(1.0),
            "attempts": len(self.attempts),
            "attempts_per_client": self.per_client,
            "wasted_attempts": self.wasted,
            "peak_attempts_per_second": max(per_second, default=0),
            "peak_after_first_second": max(per_second[1:], default=0),
            "failures": {str(code): number for code, number in self.endings.most_common()},
        }


class Member(asyncio.Protocol):
    """One client of a herd. It reconnects until :meth:`leave`."""

    def __init__(self, herd: "Herd") -> None:
        self.back_at: float | None = None
        """When its present connection was opened; None without one, or once it is being closed."""
        self._herd = herd
        self._loop = asyncio.get_running_loop()
        self._failures = 0
        self._timer: asyncio.TimerHandle | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._protocol = self._next = self._prepared()
        self._was_open = False
        self._ended_at = 0.0
        self._is_cut = False

    def cut(self) -> None:
        """Break its connection, or what it is about to do for one, and let it come back by the herd's rule."""
        self._is_cut = self._transport is not None
        self.leave()
        if not self._is_cut:
            self._come()

    def leave(self) -> None:
        """Stop reconnecting."""
        self.back_at = None
        if self._timer is not None:
            self._timer.cancel()
        if self._attempt is not None:
            self._attempt.cancel()
        if self._transport is not None:
            self._transport.abort()

    def _come(self) -> None:
        self._failures = 0
        self._come_after(random.uniform(*self._herd.rule.first))

    def _come_after(self, seconds: float) -> None:
        self._timer = self._loop.call_later(max(0.0, seconds), self._start)

    def _start(self) -> None:
        self._herd.note_attempt()
        self._attempt = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        target = self._herd.target
        try:
            async with asyncio.timeout(HANDSHAKE):
                await self._loop.create_connection(lambda: self, target.address, target.uri.port)
        except (OSError, TimeoutError):
            self._ended_at = self._loop.time()
            self._fail(Ending())

    # As a protocol of asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        self._transport, self._was_open, self._ended_at = transport, False, 0.0
        self._protocol = self._next
        self._flush()
        self._limit(HANDSHAKE)

    def data_received(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        self._react()

    def eof_received(self) -> None:
        self._protocol.receive_eof()
        self._react()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = self._attempt = None
        self._limit(None)
        if self._is_cut:
            self._is_cut = False
            self._come()
        elif not self._herd.is_over:
            self._end()
            self._fail(self._ending())

    def _react(self) -> None:
        for event in self._protocol.events_received():
            if isinstance(event, Response):
                self._herd.note_answer()
                self._was_open = self._protocol.handshake_exc is None
                if self._was_open:
                    self.back_at = self._loop.time()
                    self._limit(None)
                    self._next = self._prepared()
        if self._protocol.close_expected():
            self._end()
            self._limit(FAREWELL)
        self._flush()

    def _flush(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        for data in self._protocol.data_to_send():
            if data:
                self._transport.write(data)

    def _limit(self, seconds: float | None) -> None:
        """Let the connection do what it is about within so many seconds."""
        if self._timer is not None:
            self._timer.cancel()
        abort = self._transport.abort if self._transport else None
        self._timer = self._loop.call_later(seconds, abort) if seconds is not None and abort else None

    def _prepared(self) -> ClientProtocol:
        """The next handshake, made ready beforehand: clients of a real herd do not wait for each other."""
        protocol = ClientProtocol(self._herd.target.uri, origin=self._herd.target.origin)
        protocol.send_request(protocol.connect())
        return protocol

    # What follows from it

    def _end(self) -> None:
        """Note when the connection ended, which may be some time before it is lost."""
        self._ended_at = self._ended_at or self._loop.time()
        self.back_at = None

    def _ending(self) -> Ending:
        error = self._protocol.handshake_exc
        if isinstance(error, InvalidStatus):
            return Ending(error.response.status_code, advice(error.response))
        if error is not None:
            return Ending()
        close = self._protocol.close_rcvd
        return Ending(close.code, close.reason) if close else Ending()

    def _fail(self, ending: Ending) -> None:
        rule = self._herd.rule
        self._herd.note_failure(ending)
        if self._next is self._protocol:
            self._next = self._prepared()
        self._failures = 1 if rule.resets_on_open and self._was_open else self._failures + 1
        wait = rule.wait(self._failures, POLICY.hint(ending.reason), random.random())
        self._come_after(self._ended_at + wait - self._loop.time())


class Herd:
    """``count`` clients of one target, in the running event loop. Leaves with the context."""

    def __init__(self, target: Target, count: int) -> None:
        self.target = target
        self.rule = RULES["hint"]
        self.is_over = False
        self.members = [Member(self) for _ in range(count)]
        self._count = Count(0.0)
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.is_over = True
        for member in self.members:
            member.leave()
        await asyncio.sleep(LOOK)

    async def gather(self, seconds: float, on_look: Callable[[int], object]) -> Return:
        """Connect the missing clients by the server's hints, :data:`ARRIVING` per second."""
        away = [member for member in self.members if member.back_at is None]
        rule = replace(RULES["hint"], first=(0.0, len(away) / ARRIVING))
        return await self._cut(away, rule, seconds, on_look)

    async def cut(self, rule: Rule, seconds: float, on_look: Callable[[int], object]) -> Return:
        """Cut all at once, and watch them come back by ``rule`` until all are, or the seconds are over."""
        return await self._cut(self.members, rule, seconds, on_look)

    async def _cut(self, members: list[Member], rule: Rule, seconds: float, on_look: Callable[[int], object]) -> Return:
        self.rule, self._count = rule, Count(self._loop.time())
        for member in members:
            member.cut()
        return await self._watch(seconds, on_look)

    def note_attempt(self) -> None:
        self._count.attempts.append(self._loop.time() - self._count.began)

    def note_answer(self) -> None:
        if self._count.answered is None:
            self._count.answered = self._loop.time() - self._count.began

    def note_failure(self, ending: Ending) -> None:
        self._count.endings[ending.code] += 1

    async def _watch(self, seconds: float, on_look: Callable[[int], object]) -> Return:
        deadline = self._loop.time() + seconds
        while self._loop.time() < deadline:
            await asyncio.sleep(LOOK)
            back = [member.back_at for member in self.members if member.back_at is not None]
            on_look(len(back))
            if len(back) == len(self.members) and max(back) + SETTLED < self._loop.time():
                break
        return self._result()

    def _result(self) -> Return:
        count = self._count
        back = sorted(member.back_at - count.began for member in self.members if member.back_at is not None)
        return Return(self.rule, len(self.members), back, count.attempts, count.endings, count.answered)

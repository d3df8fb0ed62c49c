"""A herd of light WebSocket clients: all are cut at once and reconnect by a rule, and every attempt is counted.

Each client is one real socket of this process at a time, without a task of its own. Seconds throughout.
"""

import asyncio
import ipaddress
import random
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.http11 import Response
from websockets.typing import Origin
from websockets.uri import WebSocketURI, parse_uri

from channels_admission.client import Ending, advice

from .returns import Count, Return
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


class Member(asyncio.Protocol):
    """One client of a herd. It reconnects until :meth:`leave`."""

    def __init__(self, herd: "Herd", target: Target, name: str) -> None:
        self.back_at: float | None = None
        """When its present connection was opened; None without one, or once it is being closed."""
        self.has_given_up = False
        self.count = Count(RULES["hint"])
        """That of its rule."""
        self._herd = herd
        self._target = target
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._failures = 0
        self._timer: asyncio.TimerHandle | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._protocol = self._next = self._prepared()
        self._was_open = False
        self._ended_at = 0.0
        self._is_cut = False

    def cut(self, count: Count) -> None:
        """Break its connection, or what it is about to do for one, and let it come back by the rule of ``count``."""
        self.count, self.has_given_up = count, False
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
        self._come_after(random.uniform(*self.count.rule.first))

    def _come_after(self, seconds: float) -> None:
        self._timer = self._loop.call_later(max(0.0, seconds), self._start)

    def _start(self) -> None:
        self.count.attempts.append(self._herd.elapsed)
        self._attempt = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(HANDSHAKE):
                await self._loop.create_connection(lambda: self, self._target.address, self._target.uri.port)
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

    def _prepared(self, query: str = "") -> ClientProtocol:
        """The next handshake, made ready beforehand: clients of a real herd do not wait for each other."""
        uri = self._target.uri
        if query:
            uri = replace(uri, query=f"{uri.query}&{query}" if uri.query else query)
        protocol = ClientProtocol(uri, origin=self._target.origin)
        request = protocol.connect()
        request.headers["User-Agent"] = self._name  # clients that look alike count as one that hammers
        protocol.send_request(request)
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
        rule = self.count.rule
        self.count.endings[ending.code] += 1
        if rule.gives_up:
            self.has_given_up = True
            return
        query = rule.query(ending.reason)
        if query or self._next is self._protocol:
            self._next = self._prepared(query)
        self._failures = 1 if rule.resets_on_open and self._was_open else self._failures + 1
        wait = rule.wait(self._failures, POLICY.hint(ending.reason), random.random())
        self._come_after(self._ended_at + wait - self._loop.time())


class Herd:
    """``count`` clients of the targets in turn, in the running event loop. Leaves with the context."""

    def __init__(self, targets: Sequence[Target], count: int) -> None:
        self.is_over = False
        self.members = [Member(self, targets[each % len(targets)], f"client {each}") for each in range(count)]
        self._began = 0.0
        self._answered: float | None = None
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.is_over = True
        for member in self.members:
            member.leave()
        await asyncio.sleep(LOOK)

    async def gather(self, seconds: float, on_look: Callable[[int], object]) -> int:
        """Connect the missing clients by the server's hints, :data:`ARRIVING` per second. Gives how many are missing.

        The failures of these are in ``endings`` of their :attr:`Member.count`.
        """
        away = [member for member in self.members if member.back_at is None]
        rule = replace(RULES["ticket"], first=(0.0, len(away) / ARRIVING))
        await self._cut(away, [rule] * len(away), seconds, on_look)
        return sum(member.back_at is None for member in self.members)

    async def cut(self, rules: Sequence[Rule], seconds: float, on_look: Callable[[int], object]) -> list[Return]:
        """Cut all at once, and watch each come back by its rule until all are, or the seconds are over.

        Gives the clients of each rule by themselves.
        """
        return await self._cut(self.members, rules, seconds, on_look)

    async def _cut(
        self, members: Sequence[Member], rules: Sequence[Rule], seconds: float, on_look: Callable[[int], object]
    ) -> list[Return]:
        self._began, self._answered = self._loop.time(), None
        counts = {rule.name: Count(rule) for rule in rules}
        for member, rule in zip(members, rules, strict=True):
            member.cut(counts[rule.name])
        await self._watch(seconds, on_look)
        return [self._result(count) for count in counts.values()]

    @property
    def elapsed(self) -> float:
        """Seconds since the cut."""
        return self._loop.time() - self._began

    def note_answer(self) -> None:
        if self._answered is None:
            self._answered = self.elapsed

    async def _watch(self, seconds: float, on_look: Callable[[int], object]) -> None:
        while self.elapsed < seconds:
            await asyncio.sleep(LOOK)
            back = [member.back_at for member in self.members if member.back_at is not None]
            on_look(len(back))
            lost = sum(member.has_given_up for member in self.members)
            if len(back) + lost == len(self.members) and max(back, default=0.0) + SETTLED < self._loop.time():
                break

    def _result(self, count: Count) -> Return:
        members = [member for member in self.members if member.count is count]
        back = sorted(member.back_at - self._began for member in members if member.back_at is not None)
        return Return(count.rule, len(members), back, count.attempts, count.endings, self._answered)

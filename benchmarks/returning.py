"""Clients that come to real servers until they are in, each by a rule. They are as cheap as those of a crowd."""

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Sequence

from .crowd import CLOSE, HOST, LEAVE, OPEN, PING, PONG, Client, frame, request
from demo.rules import POLICY, Rule

STEADY = 1.0
"""Seconds without a loss after which all are taken to be back."""
OTHER_FILES = 200
REASON = slice(2, None)
"""The text of a close frame, after its code."""


class Connection(Client):
    """One attempt of one client."""

    def __init__(self, client: "Returning", asked: bytes) -> None:
        super().__init__(asked, hopes=True)
        self._client = client
        self._is_over = False

    def _tell(self, seen: str) -> None:
        if seen == OPEN:
            self._client.enter()
        super()._tell(seen)

    def _read(self, opcode: int, payload: bytes) -> None:
        if opcode == CLOSE:
            self._end(str(int.from_bytes(payload[:2], "big")), payload[REASON].decode(errors="replace"))
            self.abort()
        elif opcode == PING:
            self._transport.write(frame(PONG, payload))  # else the server closes it after a while
        else:
            super()._read(opcode, payload)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._end(self.told.result(), "")

    def _end(self, why: str, reason: str) -> None:
        if not self._is_over:
            self._is_over = True
            self._client.lose(why, reason)

    def abort(self) -> None:
        self._transport.abort()  # type: ignore[attr-defined]

    def close(self) -> None:
        """Say goodbye, and be gone."""
        self._is_over = True
        self._transport.write(LEAVE)


class Returning:
    """One client: comes until it is in, and leaves after the herd's ``stay``."""

    def __init__(self, herd: "Herd", rule: Rule, port: int) -> None:
        self.rule = rule
        self.attempts = 0
        self.back: float | None = None
        """When it was let in, unless it was closed after that."""
        self.has_given_up = False
        self._herd, self._port = herd, port
        self._connection: Connection | None = None
        self._failures, self._query = 0, ""
        self._timer: asyncio.TimerHandle | None = None

    async def come(self) -> None:
        self.attempts += 1
        self._herd.attempts[self.rule.name].append(self._herd.elapsed)
        port, path = self._herd.port(self._port), self._herd.path
        asked = request(port, f"{path}?{self._query}" if self._query else path)
        try:
            _, self._connection = await self._herd.loop.create_connection(lambda: Connection(self, asked), HOST, port)
        except OSError:
            self.lose("no connection", "")

    def enter(self) -> None:
        self.back = time.monotonic()
        if self._herd.stay is not None:
            self._timer = self._herd.loop.call_later(self._herd.stay, self._leave)

    def _leave(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def lose(self, why: str, reason: str) -> None:
        if self._herd.is_over:
            return
        self.back = None
        if self._timer is not None:
            self._timer.cancel()
        self._herd.refused[why] += 1
        if self.rule.gives_up:
            self.has_given_up = True
            return
        self._failures = 1 if self.rule.resets_on_open else self._failures + 1
        self._query = self.rule.query(reason)
        wait = self.rule.wait(self._failures, POLICY.hint(reason), random.random())
        self._herd.hints.append(wait)
        self._herd.loop.call_later(wait, self._again)

    def _again(self) -> None:
        self._task = self._herd.loop.create_task(self.come())

    def abort(self) -> None:
        if self._connection is not None:
            self._connection.abort()


class Herd:
    """A client for each of the ``rules``. All come at once, and again by their rules.

    Each keeps to one of the ports, or, with ``roams``, takes any at each attempt, as behind a balancer.
    """

    def __init__(
        self, ports: Sequence[int], path: str, rules: Sequence[Rule], *, stay: float | None = None, roams: bool = False
    ) -> None:
        self.path, self.stay = path, stay
        self.refused: Counter[str] = Counter()
        self.attempts: defaultdict[str, list[float]] = defaultdict(list)
        """When each attempt began, by the name of its rule."""
        self.hints: list[float] = []
        self.is_over = False
        self.loop = asyncio.get_running_loop()
        self._ports, self._roams = ports, roams
        self._began = 0.0
        self.clients = [Returning(self, rule, ports[each % len(ports)]) for each, rule in enumerate(rules)]

    @property
    def elapsed(self) -> float:
        """Seconds since all came."""
        return time.monotonic() - self._began

    def port(self, own: int) -> int:
        """The port of the next attempt of a client."""
        return random.choice(self._ports) if self._roams else own

    async def run(self, seconds: float) -> None:
        """Let them come until all are in, or the seconds are over."""
        self._began = time.monotonic()
        await asyncio.gather(*(client.come() for client in self.clients))
        while self.elapsed < seconds:
            await asyncio.sleep(0.1)
            back = [client.back for client in self.clients if not client.has_given_up]
            if None not in back and max(filter(None, back), default=0.0) < time.monotonic() - STEADY:
                break
        self.is_over = True
        for client in self.clients:
            client.abort()

    def times(self, rule: Rule | None = None) -> list[float]:
        """When each of those who are back was let in, in order; all clients, or those of one rule."""
        chosen = (client for client in self.clients if rule is None or client.rule is rule)
        return sorted(client.back - self._began for client in chosen if client.back is not None)

"""Herds against the package's own limiters, in virtual time: mixed herds, and ``connect()`` at a cost.

Each worker is an event loop with a limiter and its entrance, and all share a ledger in memory. So admission, retry
times and the entrance are the product's; simulated are the clients, the time that ``connect()`` takes of an event loop,
and a connected client of each worker that talks beside the herd. Monitors take no part. Seconds throughout.
"""

import asyncio
import itertools
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from operator import gt
from typing import Any

from django.test import override_settings

from channels_admission import conf
from channels_admission.conf import DEFAULT_POOL, Settings
from channels_admission.core.protocol import Refusal
from channels_admission.ledger.memory import MemoryLedger
from channels_admission.limiter.books.state import State
from channels_admission.limiter.connections.connection import Connection
from channels_admission.limiter.connections.refusal import messages
from channels_admission.limiter.limiter import Limiter
from channels_admission.runtime.identity import Worker as Identity

from .virtual import VirtualLoop, run_together
from demo.options import Mix, rules_of
from demo.returns import until
from demo.rules import POLICY, RULES, Rule

EPOCH = 1_700_000_000.0
SEED = 1013
PERIOD = 0.02
"""Between two messages of a client that is connected."""
HOPS = 3
"""Turns of the event loop from a message to its consumer, and from a handshake to its ``connect()``."""
LIMIT = 900.0
"""A herd that is not back by then is not back."""
PREFIXES = itertools.count()


@dataclass(frozen=True, slots=True)
class Scene:
    """A herd, and the servers it comes to."""

    groups: Mix
    settings: dict[str, Any] = field(default_factory=dict)
    workers: int = 4
    cost: float = 0.0
    """What ``connect()`` takes of the event loop."""
    arrive_within: float = 0.0
    """The first attempts are spread over so long, as servers and networks spread those of real clients."""
    stay: float | None = None
    """How long each stays; None for ever."""
    seed: int = SEED


@dataclass(slots=True)
class Group:
    """The clients of one rule, and how they came back."""

    rule: Rule
    clients: int
    back: list[float] = field(default_factory=list)
    """When each was in, in order."""
    attempts: int = 0
    entered: list[tuple[float, float]] = field(default_factory=list)
    """Of each client that came in with a ticket: when, and the place in the line that it was given."""

    @property
    def order(self) -> float:
        """The rank correlation between places and entries: 1 if all came in in the order of the line."""
        by_place = sorted(sorted(self.entered), key=lambda each: each[1])
        ranks = {entry: rank for rank, entry in enumerate(sorted(self.entered))}
        count = len(self.entered)
        distance = sum((rank - ranks[entry]) ** 2 for rank, entry in enumerate(by_place))
        return 1 - 6 * distance / (count * (count**2 - 1))

    def until(self, share: float) -> float | None:
        """When that share of the group was in; None if it never was."""
        return until(share, self.back, self.clients)

    @property
    def per_client(self) -> float:
        return self.attempts / self.clients


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a herd came back, and how long those who were connected waited for their answers."""

    groups: dict[str, Group]
    waits: list[float]
    """In order."""

    def until(self, share: float) -> float | None:
        """When that share of the herd was in; None if it never was."""
        return until(share, sorted(time for group in self.groups.values() for time in group.back), self._clients)

    @property
    def per_client(self) -> float:
        return sum(group.attempts for group in self.groups.values()) / self._clients

    @property
    def _clients(self) -> int:
        return sum(group.clients for group in self.groups.values())


class Worker:
    """An event loop with a limiter, unless admission is off, and one who is connected."""

    def __init__(self, settings: Settings) -> None:
        self.loop = VirtualLoop()
        self.limiter: Limiter | None = None
        self.waits: list[float] = []
        if settings.enabled:
            self.loop.run_until_complete(self._open(settings))
        self._talk = self.loop.create_task(self.talk())

    async def _open(self, settings: Settings) -> None:
        ledger = MemoryLedger(settings, self.loop.time, lambda: EPOCH + self.loop.time())
        self.limiter = Limiter(State(settings.pool(DEFAULT_POOL), Identity()), settings, ledger)

    async def talk(self) -> None:
        """Say something every :data:`PERIOD`, and note how long the answer takes."""
        due = self.loop.time()
        while True:
            await asyncio.sleep(due - self.loop.time())
            await hop()
            self.waits.append(self.loop.time() - due)
            due = max(due + PERIOD, self.loop.time())

    async def handshake(self, query: str, cost: float) -> Connection | Refusal | None:
        """An admitted connection after its ``connect()``, or a refusal; None without a limiter."""
        await hop()
        if self.limiter is None:
            self.loop.work(cost)
            return None
        scope = {"type": "websocket", "path": "/", "query_string": query.encode(), "headers": []}
        verdict = await self.limiter.enter(scope, self._receive, send)
        if isinstance(verdict, Connection):
            await hop()
            self.loop.work(cost)
            await verdict.send({"type": "websocket.accept"})
        return verdict

    def _receive(self) -> Any:
        """Nothing ever comes."""
        return self.loop.create_future()

    def close(self) -> None:
        self.loop.run_until_complete(self._end())
        self.loop.close()

    async def _end(self) -> None:
        if self.limiter is not None:
            for connection in list(self.limiter.connections):
                self.limiter.leave(connection)
            await self.limiter.aclose()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


async def hop() -> None:
    for _ in range(HOPS):
        await asyncio.sleep(0)


async def send(message: Any) -> None:
    pass


class Client:
    """One client of a herd. Every attempt goes to any worker."""

    __slots__ = ("_failures", "_herd", "_place", "_query", "group")

    def __init__(self, herd: "Herd", group: Group) -> None:
        self._herd, self.group = herd, group
        self._failures = 0
        self._query = ""
        self._place: float | None = None
        """By its first ticket."""

    def come_at(self, time: float) -> None:
        worker = random.choice(self._herd.workers)
        worker.loop.call_at(time, self._come, worker)

    def _come(self, worker: Worker) -> None:
        self.group.attempts += 1
        self._herd.tasks.add(task := worker.loop.create_task(self._attempt(worker)))
        task.add_done_callback(self._herd.tasks.discard)

    async def _attempt(self, worker: Worker) -> None:
        scene = self._herd.scene
        verdict = await worker.handshake(self._query, scene.cost)
        if isinstance(verdict, Refusal):
            self._follow(verdict, worker)
            return
        self.group.back.append(worker.loop.time())
        if self._place is not None:
            self.group.entered.append((worker.loop.time(), self._place))
        if scene.stay is not None and verdict is not None and worker.limiter is not None:
            worker.loop.call_later(scene.stay, worker.limiter.leave, verdict)

    def _follow(self, refusal: Refusal, worker: Worker) -> None:
        """Do what the rule says after a refusal."""
        rule = self.group.rule
        if rule.gives_up:
            self._herd.lost += 1
            return
        assert worker.limiter is not None
        reason = str(messages({}, refusal, worker.limiter.pool)[1]["reason"])
        self._failures = 1 if rule.resets_on_open else self._failures + 1
        self._query = rule.query(reason)
        if self._query and self._place is None:
            ticket = worker.limiter.places.read(refusal.ticket)
            self._place = ticket and ticket.place
        self.come_at(worker.loop.time() + rule.wait(self._failures, POLICY.hint(reason), random.random()))


class Herd:
    """The clients of a scene at its workers."""

    def __init__(self, scene: Scene, settings: Settings) -> None:
        self.scene = scene
        self.lost = 0
        """Clients that gave up."""
        self.tasks: set[asyncio.Task[None]] = set()
        self.workers = [Worker(settings) for _ in range(scene.workers)]
        self.groups = {name: Group(RULES[name], count) for name, count in scene.groups.items()}
        self._members = [Client(self, self.groups[rule.name]) for rule in rules_of(scene.groups)]

    def run(self) -> Outcome:
        for client in self._members:
            first = random.uniform(0, self.scene.arrive_within) + random.uniform(*client.group.rule.first)
            client.come_at(first)
        loops = [worker.loop for worker in self.workers]
        run_together(loops, self._is_over, LIMIT)
        before = self._answers()
        run_together(loops, lambda: all(map(gt, self._answers(), before)), math.inf)  # the last answers, too
        for group in self.groups.values():
            group.back.sort()
        return Outcome(self.groups, sorted(wait for worker in self.workers for wait in worker.waits))

    def _answers(self) -> list[int]:
        return [len(worker.waits) for worker in self.workers]

    def _is_over(self) -> bool:
        return sum(len(group.back) for group in self.groups.values()) + self.lost == len(self._members)

    def close(self) -> None:
        for worker in self.workers:
            worker.close()


def play(scene: Scene) -> Outcome:
    """Let the herd come."""
    random.seed(scene.seed)
    with _in_force(scene.settings) as settings:
        herd = Herd(scene, settings)
        try:
            return herd.run()
        finally:
            herd.close()


@contextmanager
def _in_force(keys: dict[str, Any]) -> Iterator[Settings]:
    """The settings, with a ledger in memory of their own."""
    prefix = f"herd-{next(PREFIXES)}"
    with override_settings(CHANNELS_ADMISSION={"LEDGER": "memory", "PREFIX": prefix, "MAX_CONNECTIONS": 10**6, **keys}):
        yield conf.current()

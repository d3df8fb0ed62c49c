"""A deterministic world for the limiter: real limiters and a real ledger, in virtual time, over a network that errs.

Each process has an event loop of its own whose time is the simulation's, so that it can be paused
or killed alone. Its limiters are the product's, and so are the ledger and its script; simulated are
the network between them, the clock of Redis, the table of processes and the clients. One seed
decides everything: the same seed gives the same run, call for call.
"""

import asyncio
import heapq
import itertools
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

from channels_admission.conf import DEFAULT_POOL, Settings
from channels_admission.core.overrides import EVERY_WORKER, Drain
from channels_admission.core.protocol import Neighbour, Reply, Report
from channels_admission.exceptions import LedgerUnavailable
from channels_admission.ledger.base import OutOfOrder
from channels_admission.limiter.books.state import State
from channels_admission.limiter.line import places
from channels_admission.runtime import identity

from support.judge import Judge, Outcome
from support.processes import Actor, Process
from support.stored import Stored, StoredInMemory, StoredInRedis
from support.tickets import Holders

Answer = asyncio.Future[Reply]

PROCESSES = 8
QUIET_POINTS = 10
FATES = {"arrives": 85, "request lost": 4, "reply lost": 4, "late": 4, "twice": 3}
"""What becomes of a call, per cent."""
LATEST = 20.0
"""Seconds after which a late or repeated request has arrived."""
HERD = 60
"""Handshakes that come to a new server together."""
EPOCH = 1_700_000_000.0
HOUR = 3600.0


@dataclass(frozen=True)
class Profile:
    """What goes wrong. ``faults`` are the seconds from one to the next of a kind, at the mean."""

    faults: Mapping[str, float]
    network: bool = False
    """Whether calls may be lost, late or repeated."""
    strict: bool = False
    """Whether the limit must hold throughout, but for the shares of workers born while data was lost."""
    rate: float | None = None
    """Admissions per second."""
    burst: int | None = None
    limit: int = 100
    """Slots."""
    pause: float = 0.4
    """Seconds at the mean between connections that come or go in a process."""


NET = Profile({"kill": 15, "stop": 30}, network=True, strict=True)
RUSH = Profile({"kill": 20, "stop": 40, "jump": 30, "outage": 60}, network=True, rate=8)
HERDS = Profile({**RUSH.faults, "herd": 5}, network=True, rate=20, burst=40, limit=1000, pause=3.0)
"""Between the herds there are tokens enough for reserves."""
LOSS = Profile({"flush": 12, "tear": 20, "rollback": 8, "damage": 8}, strict=True)
BIRTHS = Profile({**LOSS.faults, "kill": 10, "cold_start": 20}, strict=True)
ALL = Profile(
    {
        "kill": 20, "stop": 40, "pause": 25, "jump": 30, "outage": 60, "limit": 40,
        "flush": 40, "tear": 40, "rollback": 40, "damage": 10,
    },
    network=True,
)  # fmt: skip
ORDERS = Profile({"order": 20, "jump": 7, "kill": 15, "flush": 60, "tear": 60}, network=True)
EMBEDDED = Profile({"kill": 15, "stop": 20, "pause": 25, "limit": 40})
"""What can happen to event loops that share one process with their ledger."""


class Simulation:
    """One run. ``replaced`` are functions of the script, ``state`` the class of the workers' books."""

    def __init__(
        self,
        settings: Settings,
        profile: Profile,
        seed: int,
        *,
        replaced: dict[str, str] | None = None,
        state: type[State] = State,
    ) -> None:
        self.settings = settings
        self.profile = profile
        self.state = state
        self.pool = settings.pool(DEFAULT_POOL)
        self.rng = random.Random(seed)
        self.numbers = itertools.count(1000)
        self.outcome = Outcome(seed)
        self.now = 0.0
        self.offset = 0.0
        """What the clock of Redis has jumped, seconds."""
        self.events: list[tuple[float, int, Callable[[], object]]] = []
        self.processes: list[Process] = []
        self.quiet = False
        self.outage: str | None = None
        self.stuck: list[Callable[[], None]] = []
        """The calls that a stopped Redis has yet to read."""
        self.saved: list[tuple[float, list[bytes | None]]] = []
        if settings.ledger.host is None:
            self.ledger: Any = StoredInMemory(settings, self.time, self.redis_time)
        else:
            self.ledger = StoredInRedis(settings, self.redis_time, replaced)
        self.judge = Judge(self)
        self.holders = Holders(self)

    def time(self) -> float:
        return self.now

    def redis_time(self) -> float:
        return EPOCH + self.now + self.offset

    # The run

    def run(self, calls: int, *, until: Set[str] = frozenset()) -> Outcome:
        """Go on until the ledger has been called so often, with quiet points among the calls.

        The run ends earlier when it has found one of the violations of ``until``.
        """
        outcome = self.outcome
        with self._world():
            for _ in range(PROCESSES):
                self.start()
            for name, mean in self.profile.faults.items():
                self._repeat(mean, name)
            if "rollback" in self.profile.faults:
                self._save()
            for point in range(1, QUIET_POINTS + 1):
                while outcome.calls < calls * point / QUIET_POINTS:
                    self.step()
                    if until & outcome.violations.keys():
                        return outcome
                self._rest()
        return outcome

    @contextmanager
    def _world(self) -> Iterator[None]:
        logger = logging.getLogger("channels_admission")
        with ExitStack() as stack:
            stack.callback(random.setstate, random.getstate())
            stack.callback(setattr, logger, "disabled", logger.disabled)
            stack.callback(self.ledger.close)
            stack.callback(lambda: [process.kill() for process in self.processes])
            stack.enter_context(mock.patch.object(identity, "is_gone", self.is_gone))
            stack.enter_context(mock.patch.object(places, "time", SimpleNamespace(time=self.redis_time)))
            logger.disabled = True
            random.seed(self.outcome.seed)
            yield

    def is_gone(self, neighbour: Neighbour, locks: None) -> bool:
        """Whether neighbours see that the process has ended: every second one, as if the others were far."""
        pid = int(neighbour.worker.split(":")[1])
        return pid % 2 == 0 and all(process.pid != pid for process in self.processes)

    def later(self, delay: float, action: Callable[[], object]) -> None:
        heapq.heappush(self.events, (self.now + delay, next(self.numbers), action))

    def step(self) -> None:
        """Let the next thing happen, of all."""
        process = min(self.processes, key=lambda process: process.due)
        if self.events[0][0] < process.due:
            at, _, action = heapq.heappop(self.events)
            self.now = self.outcome.seconds = max(self.now, at)
            action()
        else:
            self.now = max(self.now, process.due)
            process.loop.run_forever()
            self.judge.see_truth()

    def _pass(self, seconds: float) -> None:
        over: list[bool] = []
        self.later(seconds, lambda: over.append(True))
        while not over:
            self.step()

    def _rest(self) -> None:
        """No more faults and no more clients, for as long as it takes to forget the dead."""
        self._end_outage()
        for process in self.processes:
            process.paused = False
        self.quiet = True
        self._pass(2.5 * self.settings.heartbeat)
        self.judge.see_equality()
        self.judge.damaged = False
        self._pass(self.settings.lease + 2 * self.settings.heartbeat)
        self.judge.see_no_ghosts()
        self.quiet = False

    # Processes and their clients

    def start(self) -> None:
        process = Process(self, self.pool)
        self.processes.append(process)
        self._load(process)

    def end(self, process: Process, seconds: float) -> None:
        """The process is no more; another one takes its place after ``seconds``."""
        process.kill()
        self.processes.remove(process)
        self.later(seconds, self.start)

    def _load(self, process: Process) -> None:
        """Connections come and go; rather more come, so that the pool is mostly full."""
        rng, count = self.rng, self.rng.randint(1, 5)
        if self.quiet:
            pass
        elif rng.random() < 0.6:
            timeout = rng.uniform(0, 0.01) if rng.random() < 0.1 else None
            process.do(lambda: process.open(count, timeout))
        else:
            process.do(lambda: process.shut(count))
        if process.alive:
            self.later(rng.expovariate(1 / self.profile.pause), lambda: self._load(process))

    # The network

    def send(self, actor: Actor, report: Report, answer: Answer) -> None:
        """A call sets out; ``answer`` gets the reply, a broken connection, or nothing at all."""
        fate = "arrives"
        if self.profile.network and not self.quiet:
            (fate,) = self.rng.choices(list(FATES), FATES.values())
        if fate != "arrives":
            self.outcome.faults[fate] += 1
        arrival = self._latency()
        if fate in ("arrives", "twice"):
            self.later(arrival, lambda: self._deliver(actor, report, answer))
        elif self.rng.random() < 0.5:
            self.later(self._latency(), lambda: self._break(actor, answer))
        if fate == "reply lost":
            self.later(arrival, lambda: self._deliver(actor, report))
        elif fate in ("late", "twice"):
            arrival += self.rng.uniform(0, LATEST)
            self.later(arrival, lambda: None if self.quiet else self._deliver(actor, report))

    def _latency(self) -> float:
        if self.profile.network and self.rng.random() < 0.03 and not self.quiet:
            return self.rng.uniform(0.05, 0.2)  # both ways together may be too long
        return min(0.02, self.rng.expovariate(500))

    def _deliver(self, actor: Actor, report: Report, answer: Answer | None = None) -> None:
        if self.outage == "refused":
            self._break(actor, answer)
        elif self.outage == "stopped":
            self.stuck.append(lambda: self._deliver(actor, report, answer))
        else:
            result = self._apply(actor, report, answer is not None and not answer.done())
            if answer is not None:
                self.later(self._latency(), lambda: actor.process.do(lambda: _resolve(answer, result)))

    def _apply(self, actor: Actor, report: Report, awaited: bool) -> Reply | OutOfOrder:
        self.outcome.calls += 1
        try:
            reply = self.ledger.apply(report)
        except OutOfOrder as error:
            self.judge.see_refusal(actor, awaited)
            return error
        self.judge.see_call(actor, report, reply)
        if self.outcome.calls % 500 == 0:
            self.judge.see_speed()
        return reply

    def _break(self, actor: Actor, answer: Answer | None) -> None:
        if answer is not None:
            actor.process.do(lambda: _resolve(answer, LedgerUnavailable("reset", reset=True)))

    # What goes wrong

    def _repeat(self, mean: float, name: str) -> None:
        def act() -> None:
            if not self.quiet:
                getattr(self, f"_{name}")()
                self.outcome.faults[name] += 1
            self._repeat(mean, name)

        self.later(self.rng.expovariate(1 / mean), act)

    def _any_running(self) -> list[Process]:
        """One process, as long as enough others run."""
        running = [process for process in self.processes if not process.paused and not process.leaving]
        return [self.rng.choice(running)] if len(running) > 2 else []

    def _kill(self) -> None:
        for process in self._any_running():
            self.end(process, self.rng.uniform(0, self.settings.lease))

    def _stop(self) -> None:
        for process in self._any_running():
            process.leaving = True
            process.do(lambda process=process: process.loop.create_task(process.leave()))

    def _pause(self) -> None:
        """Shorter than a lease, or longer."""
        for process in self._any_running():
            process.paused = True
            seconds = self.settings.lease * self.rng.uniform(0.1, 2.5)
            self.later(seconds, lambda process=process: setattr(process, "paused", False))

    def _jump(self) -> None:
        self.offset += self.rng.choice([-HOUR, HOUR])

    def _outage(self) -> None:
        """Redis is away: gone, or stopped, and then it reads later what was sent to it."""
        if self.outage is None:
            self.outage = self.rng.choice(["refused", "stopped"])
            self.later(self.settings.lease * self.rng.uniform(1, 4), self._end_outage)

    def _end_outage(self) -> None:
        self.outage = None
        stuck, self.stuck = self.stuck, []
        for call in stuck:
            call()

    def _limit(self) -> None:
        """Other settings come into force, in one process after the other."""
        self.pool = replace(self.pool, max_connections=self.rng.choice([60, 80, 100, 120]))
        for process in self.processes:
            self.later(
                self.rng.uniform(0, 2 * self.settings.heartbeat),
                lambda process=process: process.do(lambda: process.configure(self.pool)),
            )

    def _order(self) -> None:
        """An operator drains all who run, and they are replaced one after the other."""
        self.ledger.order(Drain(EVERY_WORKER, 1.0, "", 0.0))
        self.judge.ordered_at = self.now
        for process in self.processes:
            delay = self.rng.uniform(self.settings.heartbeat, 2 * self.settings.lease)
            self.later(delay, lambda process=process: self._replace(process))

    def _replace(self, process: Process) -> None:
        if process in self.processes and not self.quiet:
            self.end(process, 0)

    def _flush(self) -> None:
        self.ledger.forget()
        self.judge.see_loss(Stored())

    def _herd(self) -> None:
        """A herd comes to all servers at once."""
        for process in self.processes:
            process.do(lambda process=process: process.open(HERD // PROCESSES, None))

    def _cold_start(self) -> None:
        """Redis and a server start anew together, and a herd comes to that server first."""
        for process in self._any_running():
            self.end(process, 0)
            self._flush()
            self.later(0, lambda: self.processes[-1].do(lambda: self.processes[-1].open(HERD, None)))

    def _tear(self) -> None:
        self.ledger.tear(self.rng)
        self.judge.see_loss(Stored())

    def _damage(self) -> None:
        self.judge.tickets.forget()
        if self.ledger.damage(self.rng):
            self.judge.see_damage()

    def _save(self) -> None:
        if not self.judge.damaged:
            self.saved = [*self.saved[-30:], (self.now, self.ledger.save())]
        self.later(self.settings.heartbeat, self._save)

    def _rollback(self) -> None:
        """Back to what was saved before anybody's last heartbeat."""
        old = [dumps for at, dumps in self.saved if at < self.now - 1.2 * self.settings.heartbeat]
        if old:
            self.ledger.restore(self.rng.choice(old))
            self.judge.see_loss(self.ledger.state)


def _resolve(answer: Answer, result: Reply | Exception) -> None:
    if answer.done():
        return
    if isinstance(result, Exception):
        answer.set_exception(result)
    else:
        answer.set_result(result)

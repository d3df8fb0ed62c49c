"""Server processes of a simulation: an event loop in virtual time, with the product's limiters on it."""

import asyncio
import math
import selectors
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from channels_admission.conf import PoolSettings
from channels_admission.core.protocol import Ask, Reply, Report
from channels_admission.limiter.books.state import State
from channels_admission.limiter.limiter import Limiter, Slot
from channels_admission.runtime.identity import Worker

if TYPE_CHECKING:
    from support.simulation import Simulation


class _Selector(selectors.SelectSelector):
    """Waits for nothing: stops the loop when there is nothing left to do now, noting until when."""

    loop: "VirtualLoop"

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None or timeout > 0:
            self.loop.due = math.inf if timeout is None else self.loop.time() + timeout
            self.loop.stop()
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is given, run one turn at a time."""

    def __init__(self, clock: Callable[[], float]) -> None:
        selector = _Selector()
        selector.loop = self
        self.time = clock
        self.due = 0.0
        """When it next has something to do."""
        super().__init__(selector)


class Actor:
    """A limiter with its link to the ledger, and what the ledger knows of it."""

    kind = address = "simulated"

    def __init__(self, process: "Process", pool: PoolSettings) -> None:
        simulation = process.simulation
        worker = Worker(pid=process.pid, born=1, nonce=f"{next(simulation.numbers):08x}")
        self.process = process
        self.id = worker.id
        state = self._watched(simulation.state(pool, worker))
        self.limiter = Limiter(state, simulation.settings, self, on_end=process.part)
        self.slots: list[Slot] = []
        self.sent = 0
        """The number of its newest report."""
        self.applied = 0
        """The number of its newest report that the ledger ever applied."""
        self.heard = False
        """Whether the ledger got its newest report, or an older one that counts as much, and has not lost it since."""
        self.leased_at = 0.0
        """When its lease was last renewed, on the pool's clock."""
        self.born = 0.0
        self.clocks: dict[int, float] = {}
        """By the pool's clock, when its reports were applied."""
        self._granted = 0
        """Handshakes that enter now by what its last report was granted."""

    def _watched(self, state: State) -> State:
        """The books, which show the judge each entry by the ledger's word; one is at the time of its grant."""
        admit, settle = state.admit, state.settle
        at = 0.0

        def watch_settle(report: Report, reply: Reply) -> None:
            nonlocal at
            settle(report, reply)
            self._granted, at = reply.granted, self.clocks.get(report.seq, 0.0)
            self.process.loop.call_soon(end)

        def watch_admit(ask: Ask | None = None) -> None:
            admit(ask)
            if not (state.away or self.limiter.decisions._is_closed):
                judge = self.process.simulation.judge
                judge.entries.append(at if self._granted > 0 else judge.clock)
            self._granted -= 1

        def end() -> None:
            self._granted = 0

        state.settle, state.admit = watch_settle, watch_admit  # type: ignore[method-assign]
        return state

    @property
    def held(self) -> int:
        return self.limiter.state.held

    async def reconcile(self, pool: str, report: Report) -> Reply:
        self.sent = report.seq
        answer = self.process.loop.create_future()
        self.process.simulation.send(self, report, answer)
        return await answer

    async def connect(self, text: str) -> None:
        """A handshake that shows a ticket, or none, as :meth:`Limiter.enter` has it without an entrance."""
        simulation, places = self.process.simulation, self.limiter.places
        ticket = places.read(text) if text else None
        verdict = await self.limiter.acquire(ticket=ticket)
        given, reason = None, ""
        if isinstance(verdict, Slot):
            self.slots.append(verdict)
            if ticket is not None:
                places.redeem(ticket)
        else:
            given, reason = simulation.holders.keep(verdict), verdict.reason
        simulation.judge.tickets.see_verdict(ticket, given, reason)

    async def aclose(self) -> None:
        pass


class Process:
    """A server process: an event loop with a limiter, and retired limiters beside it while they hold slots."""

    def __init__(self, simulation: "Simulation", pool: PoolSettings) -> None:
        self.simulation = simulation
        self.pid = next(simulation.numbers)
        self.loop = VirtualLoop(simulation.time)
        self.actors: list[Actor] = []
        self.asking: set[asyncio.Task[None]] = set()
        """Handshakes that have no verdict yet."""
        self.alive = True
        self.leaving = False
        self.paused = False
        self.do(lambda: self.configure(pool))

    @property
    def due(self) -> float:
        return math.inf if self.paused else self.loop.due

    def do(self, action: Callable[[], object]) -> None:
        """Have it do something in its next turn, which comes at once unless it is paused."""
        if self.alive:
            self.loop.call_soon(action)
            self.loop.due = 0.0

    def configure(self, pool: PoolSettings) -> None:
        """A new limiter serves from now on, as when settings have changed."""
        for actor in self.actors:
            actor.limiter.retire()
        actor = Actor(self, pool)
        self.actors.append(actor)
        self.simulation.judge.see_birth(actor)

    def open(self, handshakes: int, timeout: float | None) -> None:
        """So many handshakes arrive together; one client goes away after ``timeout`` seconds."""
        tasks = [self.knock(self.simulation.holders.of_newcomer()) for _ in range(handshakes)]
        if timeout is not None and (first := tasks[0]):
            self.simulation.later(timeout, lambda: self.do(first.cancel))

    def knock(self, ticket: str) -> asyncio.Task[None] | None:
        """One handshake arrives, unless the process is about to end."""
        if not self.actors or self.leaving:
            return None
        task = self.loop.create_task(self.actors[-1].connect(ticket))
        self.asking.add(task)
        task.add_done_callback(self.asking.discard)
        return task

    def shut(self, connections: int) -> None:
        """So many connections end, any of them."""
        owners = [actor for actor in self.actors for _ in actor.slots]
        for actor in self.simulation.rng.sample(owners, min(connections, len(owners))):
            actor.slots.pop().release()

    async def part(self, limiter: Limiter) -> None:
        self.actors = [actor for actor in self.actors if actor.limiter is not limiter]

    async def leave(self) -> None:
        """End in good order."""
        self.shut(10**6)
        for actor in list(self.actors):
            await actor.limiter.aclose()
        self.simulation.later(0, lambda: self.simulation.end(self, 1.0))

    def kill(self) -> None:
        """End at once, saying nothing to anybody."""
        if self.alive:
            for actor in self.actors:
                actor.limiter.close = _do_nothing
                actor.limiter.reconciler._say_goodbye = actor.limiter.end = _say_nothing
            self.alive, self.leaving = False, True
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            self.loop.run_forever()
            self.loop.close()


def _do_nothing() -> None:
    pass


async def _say_nothing() -> None:
    pass

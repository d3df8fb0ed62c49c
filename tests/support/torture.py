"""Worker processes under every fault that loses no data, one after the other, and a judge that never looks away.

An episode is one fault of the network between workers and Redis, or of Redis itself, together with one of a
worker's process. An episode and the pause after it together stay within a lease, so no lease may run out.
"""

import asyncio
import json
import random
import signal
import sys
import threading
import time
from pathlib import Path
from subprocess import Popen

import psutil

from demo.servers import Redis, end, environment, spawn
from support import tortured
from support.clients import look
from support.proxy import Proxy
from support.tortured import WORKERS, Cells
from support.waiting import eventually

LATENCY = 0.1
"""Seconds each way: less than the ledger's timeout for a call, and more for a call over a new connection."""
PAUSE = 0.6
"""Seconds after an episode in which everybody gets to report."""


class Judge(threading.Thread):
    """Looks at the cells a thousand times a second.

    What may be held, and why: let T be the ledger's total and L the limit. A worker with the ledger holds at most what
    is counted for it. One without holds at most what is counted for it and its part of the room that it saw free in
    its last reply: its debt. Slots are granted only while T stays within L, so what is held passes L only by debts:
    those of workers still without the ledger, and those that were reported, and so are in T, since T was last within
    L. Until then nothing is granted, and each reply shows no room, so a worker that loses the ledger again incurs no
    new debt. Hence the sum held never passes L plus the sum of debts, each counted from the loss of the ledger until
    its worker sees T, with all that it holds, within L; with ``freeze`` there are none.
    :class:`tortured.Borrower` notes them.
    """

    def __init__(self, cells: Cells, limit: int) -> None:
        super().__init__(daemon=True)
        self.cells, self.limit = cells, limit
        self.samples = self.most = self.most_allowed = 0
        """How often it looked, the most ever held, and what was allowed at that moment."""
        self.over: list[str] = []
        """What it saw whenever more was held than allowed."""
        self._stopped = threading.Event()

    def run(self) -> None:
        while not self._stopped.wait(0.001):
            self.look()

    def look(self) -> None:
        # Debts are noted before they are used: one noted in between explains what was seen, and none is missed.
        before, held, after = self.cells.borrowed, sum(self.cells.held), self.cells.borrowed
        allowed = self.limit + sum(map(max, before, after))
        self.samples += 1
        if held > allowed:
            self.over.append(f"{held} of {allowed} at {time.monotonic():.3f}")
        if held > self.most:
            self.most, self.most_allowed = held, allowed

    def stop(self) -> None:
        self._stopped.set()
        self.join()


class Torture:
    """Eight workers that reach ``redis`` over ``proxy``; ``folder`` takes their logs. One seed, one order of faults."""

    def __init__(self, redis: Redis, proxy: Proxy, keys: dict[str, object], seed: int, folder: Path) -> None:
        self.redis, self.proxy, self.seed, self.folder = redis, proxy, seed, folder
        self.keys = {**keys, "LEDGER": proxy.url}
        self.rng = random.Random(seed)
        self.cells = Cells.create(folder / "cells")
        self.judge = Judge(self.cells, int(str(keys["MAX_CONNECTIONS"])))
        self.workers: dict[int, Popen[bytes]] = {}
        self.logs: list[Path] = []
        self.faults: list[str] = []

    async def __aenter__(self) -> "Torture":
        self.judge.start()
        for number in range(WORKERS):
            self._start(number)
        await eventually(lambda: all(self.cells.held), seconds=30)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.judge.stop()
        for worker in self.workers.values():
            worker.send_signal(signal.SIGCONT)
        await asyncio.to_thread(end, list(self.workers.values()))

    async def run(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        networks: list = []
        while time.monotonic() < until:
            networks = networks or self.rng.sample(NETWORK, len(NETWORK))
            network, process = networks.pop(), self.rng.choice(PROCESS)
            await asyncio.gather(self._inflict(network), self._inflict(process))
            await asyncio.sleep(PAUSE)

    async def _inflict(self, fault) -> None:
        self.faults.append(fault.__name__)
        await asyncio.sleep(self.rng.uniform(0, 0.5))
        await fault(self)

    async def rest(self) -> None:
        """Let the clients stay as they are, and wait until the ledger counts for each worker what it holds."""
        self.cells.be_quiet()
        await eventually(self._is_equal)

    async def _is_equal(self) -> bool:
        pool = await look()
        counted = {worker.pid: worker.held for worker in pool.workers}
        truth = {self.workers[number].pid: held for number, held in enumerate(self.cells.held)}
        return counted == truth and pool.held == sum(truth.values())

    def log(self) -> str:
        return "".join(log.read_text() for log in self.logs)

    def _start(self, number: int) -> None:
        life = len(self.logs)
        self.logs.append(self.folder / f"{life}.log")
        arguments = [str(self.folder / "cells"), str(number), f"{self.seed} {life}", json.dumps(self.keys)]
        command = [sys.executable, tortured.__file__, *arguments]
        self.workers[number] = spawn(command, self.logs[-1], environment(self.redis.url, None))

    # Faults of a worker's process

    async def kill(self) -> None:
        """SIGKILL, and another worker in its place. Stopped first: what it holds is gone before it is free."""
        number = self.rng.randrange(WORKERS)
        worker = self.workers[number]
        worker.send_signal(signal.SIGSTOP)
        await eventually(lambda: psutil.Process(worker.pid).status() == psutil.STATUS_STOPPED)
        self.cells.clear(number)
        worker.kill()
        worker.wait()
        await asyncio.sleep(self.rng.uniform(0, 1))
        self._start(number)

    async def stop(self) -> None:
        worker = self.workers[self.rng.randrange(WORKERS)]
        worker.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self.rng.uniform(0.5, 2))
        worker.send_signal(signal.SIGCONT)

    # Faults of the network, and of Redis

    async def resets(self) -> None:
        for _ in range(10):
            self.proxy.reset()
            await asyncio.sleep(self.rng.uniform(0, 0.2))

    async def lost_replies(self) -> None:
        with self.proxy.swallowing_replies():
            await self._while()

    async def black_hole(self) -> None:
        with self.proxy.cut():
            await self._while()

    async def latency(self) -> None:
        with self.proxy.slow(LATENCY):
            await self._while()

    async def paused_redis(self) -> None:
        self.redis.pause()
        await self._while()
        self.redis.resume()

    async def _while(self) -> None:
        await asyncio.sleep(self.rng.uniform(0.5, 1.5))


NETWORK = [Torture.resets, Torture.lost_replies, Torture.black_hole, Torture.latency, Torture.paused_redis]
PROCESS = [Torture.kill, Torture.stop]

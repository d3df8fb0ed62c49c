"""Where limiters live: one registry for each event loop, opened at the first handshake there."""

import asyncio
import atexit
import multiprocessing
import os
from contextlib import suppress
from functools import partial
from multiprocessing.util import Finalize
from typing import Any

from .. import conf
from ..conf import Settings
from ..conf.ledger import MEMORY
from ..core.herd.window import START
from ..ledger import open_ledger
from ..overload.manager import OverloadManager
from ..runtime import daphne, uvicorn
from ..runtime.descriptors import spares
from ..runtime.faults import Faults
from ..runtime.identity import Worker
from ..runtime.locks import locks_in
from ..runtime.servers import name_of
from ..runtime.shutdown import aside, drain_first, leave_first
from .books.state import State
from .entrance.entrance import Entrance
from .limiter import Limiter

EXIT_TIMEOUT = 0.5
"""Seconds the end of the process waits for a goodbye."""


class Registry:
    """The limiters of one event loop: one identity, one ledger, a limiter for each pool in use."""

    def __init__(self, settings: Settings, server: str) -> None:
        self.settings = settings
        self._server = server
        spares.open()
        try:
            self._open()
        except BaseException:
            spares.close()
            raise

    def _open(self) -> None:
        settings, server = self.settings, self._server
        self._worker = worker = Worker()
        worker.locks = locks_in(settings.lock_dir, worker.process)
        self._faults = Faults("this worker")
        self._ledger = open_ledger(settings)
        self._limiters: dict[str, Limiter] = {}
        if server == daphne.NAME:
            daphne.before_exit(partial(self.aclose, exiting=True))
        if uvicorn.before_exit(_leave_here, _drain_here):
            self._server = uvicorn.NAME  # in a lifespan, or where another framework wraps its messages, not known yet
        if settings.drain_on_stop is not None:
            drain_first(self.drain)
        leave_first(_leave_at_once)
        _leave_with_a_child()
        self._entrance = Entrance(settings.entrance_wait, self._faults)
        self._overload = OverloadManager(settings, self._present, self._is_spreading)

    @property
    def limiters(self) -> tuple[Limiter, ...]:
        return tuple(self._limiters.values())

    def limiter(self, pool: str) -> Limiter:
        limiter = self._limiters.get(pool)
        if limiter is None or limiter.task.done():  # one may end before it has begun
            state = State(self.settings.pool(pool), self._worker, self._server)
            limiter = Limiter(
                state, self.settings, self._ledger, self._overload, on_end=self._left, entrance=self._entrance
            )
            self._limiters[pool] = limiter
        return limiter

    def _present(self) -> int:
        return sum([limiter.present for limiter in self._limiters.values()])

    def _is_spreading(self) -> bool:
        """Whether a herd is on its way in, which the entrance spreads."""
        crowds = (len(limiter.decisions.queue) > START for limiter in self._limiters.values())
        return self._entrance.is_spreading or any(crowds)

    def retire(self) -> None:
        for limiter in self._limiters.values():
            limiter.retire()

    async def drain(self) -> None:
        """Empty the limiters within ``DRAIN_ON_STOP``; those that take longer are left to the server.

        For ``DRAIN_DELAY`` before that they go on, for balancers to notice that the worker is not ready.
        """
        seconds = self.settings.drain_on_stop or 0.0
        delay = 0.0 if all(limiter.state.draining for limiter in self.limiters) else self.settings.drain_delay
        # Also those that no client has come to so far, unless the worker has said goodbye.
        others = self.settings.pools if self in _registries.values() else ()
        for pool in [*self._limiters, *others]:
            self.limiter(pool).drain(seconds)
        with suppress(TimeoutError):
            await asyncio.sleep(delay)
            async with asyncio.timeout(seconds + EXIT_TIMEOUT):
                while any(limiter.state.held for limiter in self.limiters):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)

    async def aclose(self, *, exiting: bool = False) -> None:
        """End all limiters, at once."""
        await asyncio.gather(*(self._end(limiter, exiting=exiting) for limiter in self.limiters))

    async def _end(self, limiter: Limiter, *, exiting: bool) -> None:
        with self._faults.spare("the end of a limiter"):
            await limiter.aclose(exiting=exiting)

    async def leave(self) -> None:
        """Say goodbye at the end of the process, which does not wait longer than :data:`EXIT_TIMEOUT`."""
        with suppress(Exception):
            async with asyncio.timeout(EXIT_TIMEOUT):
                await self.aclose(exiting=True)

    async def leave_from_outside(self) -> None:
        """The same from another event loop, over a connection of its own: the own one never runs again."""
        ledger = open_ledger(self.settings)
        reports = [(limiter.pool.name, limiter.last_report()) for limiter in self.limiters]
        await asyncio.gather(*(ledger.reconcile(*report) for report in reports), return_exceptions=True)

    async def _left(self, limiter: Limiter) -> None:
        """Drop a limiter that has ended. With the last one close all that was opened; the next handshake opens anew."""
        del self._limiters[limiter.pool.name]
        if self._limiters:
            return
        for loop in [loop for loop, registry in list(_registries.items()) if registry is self]:
            del _registries[loop]
        spares.close()
        with self._faults.spare("the end of the monitors"):
            await self._overload.aclose()
        with self._faults.spare("the end of the ledger"):
            await self._ledger.aclose()


_registries: dict[asyncio.AbstractEventLoop, Registry] = {}
_children: set[int] = set()
"""This process, where :func:`_leave_with_a_child` has prepared its end."""

if hasattr(os, "register_at_fork"):
    # A child has neither its parent's sockets nor its event loop.
    os.register_at_fork(after_in_child=_registries.clear)


def limiter_of(pool: str, send: Any = None) -> Limiter:
    """The running event loop's limiter to ``pool``, opened at its first use; ``send`` tells the server.

    When the settings have changed since, a new limiter takes over, and the old one ends with its last slot.
    """
    loop = asyncio.get_running_loop()
    settings = conf.current()
    registry = _registries.get(loop)
    if registry is None or registry.settings is not settings:
        if registry is not None:
            registry.retire()
        for closed in [other for other in _registries if other.is_closed()]:
            del _registries[closed]
            spares.close()
        registry = _registries[loop] = Registry(settings, name_of(send))
    return registry.limiter(pool)


def open_limiters() -> tuple[Limiter, ...]:
    """The limiters of the running event loop, or where it has none, those of the whole process; opens none."""
    with suppress(RuntimeError):
        if here := _registries.get(asyncio.get_running_loop()):
            return here.limiters
    return living_limiters()


def living_limiters() -> tuple[Limiter, ...]:
    """The limiters of all event loops of the process that are not closed."""
    return tuple(
        limiter for loop, registry in list(_registries.items()) if not loop.is_closed() for limiter in registry.limiters
    )


async def close_limiters(*, exiting: bool = False) -> None:
    """Say goodbye for every limiter of the running event loop; ``exiting`` at the end of its process."""
    registry = _registries.pop(asyncio.get_running_loop(), None)
    if registry is not None:
        await registry.aclose(exiting=exiting)


async def _drain_here() -> None:
    """Drain the limiters of the running event loop, if ``DRAIN_ON_STOP`` is set."""
    registry = _registries.get(asyncio.get_running_loop())
    if registry is not None and registry.settings.drain_on_stop is not None:
        with registry._faults.spare("a drain"):
            await registry.drain()


async def _leave_here() -> None:
    """Say goodbye for the running event loop, within :data:`EXIT_TIMEOUT`."""
    registry = _registries.get(asyncio.get_running_loop())
    if registry is not None:
        await registry.leave()


@atexit.register
def _leave() -> None:
    """Say goodbye where the server let its event loop be: stopped and never closed, or running in another thread.

    Best effort: an event loop that was closed has said it, and what cannot be said in time the lease tells.
    """
    for loop, registry in list(_registries.items()):
        with suppress(Exception):
            if loop.is_running():
                asyncio.run_coroutine_threadsafe(registry.leave(), loop).result(EXIT_TIMEOUT)
            elif not loop.is_closed():
                loop.run_until_complete(registry.leave())


def _leave_with_a_child() -> None:
    """Have a process that ``multiprocessing`` started say goodbye at its end, which no ``atexit`` hears of."""
    if multiprocessing.parent_process() is not None and os.getpid() not in _children:
        _children.add(os.getpid())
        Finalize(None, _leave, exitpriority=0)


def _leave_at_once() -> None:
    """Say goodbye from a handler of the signal that kills the process next, within ``LEDGER_TIMEOUT``.

    The event loop that the signal interrupted does not go on, so its word is said beside it.
    """
    here = asyncio._get_running_loop()
    registries = [
        (loop, registry) for loop, registry in list(_registries.items()) if registry.settings.ledger.backend != MEMORY
    ]
    if registries:
        aside(
            lambda: asyncio.run(_all_leave(registries, here)),
            max(registry.settings.ledger_timeout for _, registry in registries),
        )


async def _all_leave(registries: list[tuple[asyncio.AbstractEventLoop, Registry]], stopped: Any) -> None:
    await asyncio.gather(
        *(
            asyncio.wrap_future(asyncio.run_coroutine_threadsafe(registry.leave(), loop))
            if loop.is_running() and loop is not stopped
            else registry.leave_from_outside()
            for loop, registry in registries
        ),
        return_exceptions=True,
    )

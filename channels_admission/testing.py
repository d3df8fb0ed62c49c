"""For the tests of sites: settings for one test, a full pool, and what a refused client is told.

::

    @override_admission(MAX_CONNECTIONS=10)
    async def test_a_full_site_refuses():
        async with fill():
            refusal = await refused(WebsocketCommunicator(application, "/ws/chat/"))
        assert refusal.code == 1013

The counts are in the memory of the test's process, where :mod:`.controls` work as well. The pytest plugin
:mod:`.pytest_plugin` sees to this for whole test runs, and :class:`AdmissionRunner` for ``manage.py test``.
"""

import asyncio
import os
import re
import uuid
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from asgiref.sync import async_to_sync
from channels.testing import WebsocketCommunicator
from django.conf import settings as django_settings
from django.test.runner import DiscoverRunner
from django.test.utils import TestContextDecorator, override_settings

from . import conf
from .conf import DEFAULT_POOL, NAME
from .conf.keys import MAX_LEASE
from .conf.overload import BUILT_IN
from .core.guard import guarding
from .core.overrides import Controls
from .ledger import open_ledger
from .ledger.memory import MemoryLedger
from .limiter.books.state import State
from .limiter.connections.tickets import HEADER
from .limiter.registry import living_limiters
from .runtime.identity import Worker

QUIET: dict[str, Any] = {
    "ENABLED": True,
    "ALERTS": {},
    "HEARTBEAT": 0.1,
    "LEASE": MAX_LEASE,
    "LEDGER_TIMEOUT": 4,
    "PRESSURE": dict.fromkeys(BUILT_IN),
    "REFUSAL_HOLD": 0,
}
"""What :class:`override_admission` sets besides: no alert, no monitor that refuses, no refused client that is kept, and
no time that a slow machine exceeds."""
SECONDS = 1.0
"""The default timeout of :func:`refused`, as in ``WebsocketCommunicator``; the longest wait for a worker's report."""
HINT = re.compile(r"(?:; ticket=(?P<ticket>[A-Za-z0-9_-]{24}))?; retry-after=(?P<seconds>\d+(?:\.\d)?)\Z", re.ASCII)
"""The end of the reason of every refusal."""

_filled: set[str] = set()
"""The workers of each :class:`fill` in force."""


class override_admission(TestContextDecorator):  # noqa: N801, as override_settings of Django
    """Put settings in force for a test: a decorator of functions, coroutines and test cases, and a context manager.

    They are set on top of those of the project and of :data:`QUIET`. All pools begin empty. The counts are in memory;
    only an explicit ``LEDGER`` is used as it is. Wrong settings raise :exc:`~.exceptions.ConfigurationError`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self._given = settings
        self._stacks: list[ExitStack] = []

    def enable(self) -> None:
        settings = {
            **getattr(django_settings, NAME, {}), **QUIET, "PREFIX": f"test-{uuid.uuid4().hex[:12]}", **self._given,
        }  # fmt: skip
        with ExitStack() as stack:
            stack.enter_context(guarding(os.environ, on="LEDGER" not in self._given))
            stack.enter_context(override_settings(**{NAME: settings}))
            conf.current()
            self._stacks.append(stack.pop_all())

    def disable(self) -> None:
        self._stacks.pop().close()
        conf.current.cache_clear()


class fill:  # noqa: N801, as override_admission
    """Hold the free slots of a pool, except ``free`` of them: a context manager, ``async with`` in coroutines.

    It gives the number of slots that it holds. They count against no rate, quota or class.
    """

    def __init__(self, pool: str = DEFAULT_POOL, *, free: int = 0) -> None:
        self._pool = pool
        self._free = free

    async def __aenter__(self) -> int:
        settings = conf.current()
        self._state = State(settings.pool(self._pool), Worker())
        self._ledger = open_ledger(settings)
        await _settle(self._pool)
        (reading,) = await self._ledger.read((self._pool,))
        order = reading.controls.limit
        limit = self._state.pool.max_connections if order is None else order.value
        self._state.held = max(0, limit - self._free - sum(worker.held for worker in reading.workers))
        _filled.add(self._state.worker.id)
        await self._report()
        return self._state.held

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._state.held = 0
        await self._report(goodbye=True)
        await self._ledger.aclose()
        _filled.discard(self._state.worker.id)
        await _settle(self._pool)

    async def _report(self, *, goodbye: bool = False) -> None:
        report = self._state.begin_report(heartbeat=True, goodbye=goodbye)
        self._state.settle(report, await self._ledger.reconcile(self._pool, report))

    def __enter__(self) -> int:
        return async_to_sync(self.__aenter__)()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        async_to_sync(self.__aexit__)(kind, error, at)


@dataclass(frozen=True, slots=True)
class Refused:
    """What a refused client is told."""

    code: int
    """The close code, or the HTTP status with ``"REFUSE_WITH": "http"``."""
    reason: str
    """The close reason, or the body of the HTTP response, without the ticket and the retry time."""
    retry_after: float
    """Seconds."""
    ticket: str
    """The place in the line, or an empty text."""


async def refused(communicator: WebsocketCommunicator, timeout: float = SECONDS) -> Refused:  # noqa: ASYNC109
    """Connect, unless that is done, and return the refusal; an ``AssertionError`` if there is none.

    ``communicator.connect()`` returns ``(True, None)`` for a refused client: it is accepted, and then closed with the
    code and the reason. For a refusal with HTTP 503, add ``{"websocket.http.response": {}}`` as ``extensions`` to the
    scope of the communicator.
    """
    if communicator.response_headers is None:
        await communicator.send_input({"type": "websocket.connect"})
        first = await communicator.receive_output(timeout)
        if first["type"] == "websocket.http.response.start":
            body = await communicator.receive_output(timeout)
            return _read(first["status"], body["body"].decode())
        if first["type"] != "websocket.accept":
            raise AssertionError(f"Not refused by admission: the application answered {first}.")
        communicator.response_headers = first.get("headers", [])
    if await communicator.receive_nothing(timeout):
        raise AssertionError(f"Not refused: the connection is open, and nothing came within {timeout:g} s.")
    last = await communicator.receive_output(timeout)
    if last["type"] != "websocket.close":
        raise AssertionError(f"Not refused: the connection is open, and the application sent {last}.")
    return _read(last.get("code", 1000), last.get("reason") or "")


def _read(code: int, text: str) -> Refused:
    hint = HINT.search(text)
    if hint is None:
        raise AssertionError(f"Not refused by admission: the application answered {code} with {text!r}.")
    return Refused(code, text[: hint.start()], float(hint["seconds"]), hint["ticket"] or "")


def returning(ticket: str) -> list[tuple[bytes, bytes]]:
    """The headers of a client that comes back with its ticket, for ``WebsocketCommunicator``."""
    return [(HEADER.lower().encode(), ticket.encode())]


class LedgerForTests(MemoryLedger):
    """The ledger of a guarded process. Overrides are known to the workers of the event loop when they are set."""

    async def control(self, pool: str, controls: Controls, replaced: int) -> bool:
        is_done = await super().control(pool, controls, replaced)
        if is_done:
            (reading,) = await self.read((pool,))
            await _settle(pool, reading.controls.version)
        return is_done


class AdmissionRunner(DiscoverRunner):
    """``TEST_RUNNER = "channels_admission.testing.AdmissionRunner"``: the guard of the pytest plugin for ``test``."""

    def run_tests(self, *arguments: Any, **options: Any) -> int:
        with guarding(os.environ):
            conf.current.cache_clear()
            return super().run_tests(*arguments, **options)


def tidy() -> None:
    """Forget the workers in memory whose event loop is gone, and the pools that have no other."""
    living = _filled | {limiter.state.worker.id for limiter in living_limiters()}
    MemoryLedger.keep_only(living)


async def _settle(pool: str, version: int = 0) -> None:
    """Let the workers of this event loop know the pool's ``version``, reuse no slot, and ask for every handshake."""
    here = asyncio.get_running_loop()
    limiters = [
        limiter
        for limiter in living_limiters()
        if limiter.pool.name == pool and limiter.task.get_loop() is here and not limiter.task.done()
    ]
    states = [limiter.state for limiter in limiters]
    for limiter in limiters:
        limiter.report_now()
    with suppress(TimeoutError):
        async with asyncio.timeout(SECONDS / 2):  # less than a change of controls may take
            while any(state.unreported or state.controls.version < version for state in states):  # noqa: ASYNC110
                await asyncio.sleep(0.002)
    for limiter in limiters:
        limiter.decisions.shortage.forget()

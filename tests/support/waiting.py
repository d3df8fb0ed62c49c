"""Waiting for what another task or process does, and how long the tests themselves could not run meanwhile."""

import asyncio
import time
from inspect import Parameter, isfunction, signature
from typing import Self

TICK = 0.01


class PatientClock:
    """A clock that stops while this process waits for a processor; ``async with`` lets it go.

    So a decision that is timed on a busy machine takes as long as on a quiet one. What the process computes counts.
    """

    def __init__(self) -> None:
        self._waited = 0.0
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()

    @property
    def waited(self) -> float:
        """Seconds for which it stood still."""
        return self._waited

    def time(self) -> float:
        """Seconds."""
        return time.monotonic() - self._waited

    async def _watch(self) -> None:
        while True:
            due, computed = time.monotonic() + TICK, time.process_time()
            await asyncio.sleep(TICK)
            late = time.monotonic() - due
            self._waited += max(late - (time.process_time() - computed), 0)


async def eventually(holds, seconds: float = 5.0, every: float = 0.01):
    """Wait until ``holds()``, or the awaited result of it, is true; fail after ``seconds``.

    Those do not count for which this process waited for a processor: whatever it waits for did so too.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    async with PatientClock() as clock:
        while True:
            value = holds()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            if loop.time() > deadline + clock.waited:
                raise AssertionError(f"still not true after {seconds} s")
            await asyncio.sleep(every)


TIMEOUT = 30.0
"""Seconds that tests wait for what comes at once on a machine that is not busy."""


def be_patient_with(*owners: type) -> None:
    """Have methods that wait for one second by default wait for :data:`TIMEOUT`."""
    for owner in owners:
        for function in vars(owner).values():
            if isfunction(function) and "timeout" in (parameters := signature(function).parameters):
                known = [each for each in parameters.values() if each.default is not Parameter.empty]
                patient = [TIMEOUT if (each.name, each.default) == ("timeout", 1) else each.default for each in known]
                function.__defaults__ = tuple(patient)

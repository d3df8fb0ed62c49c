"""Calls that are answered late."""

import asyncio
import time

import pytest

from channels_admission.ledger.base import done_within
from channels_admission.limiter.calls import late
from channels_admission.limiter.calls.late import LateCall

from support.waiting import eventually


@pytest.fixture
def told():
    return []


@pytest.fixture
def late_call(told):
    return LateCall(told.append)


def pending() -> tuple[asyncio.Future, asyncio.Task]:
    """What a call waits for, and the call."""
    answer = asyncio.get_running_loop().create_future()

    async def call():
        return await answer

    return answer, asyncio.ensure_future(call())


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_an_answer_that_comes_late_is_timed(late_call, told):
    answer, call = pending()
    late_call.leave(call, now() - 3)
    answer.set_result(None)
    await eventually(lambda: told)
    assert 3 <= told[0] < 4


async def test_of_two_late_calls_the_older_one_goes_on(late_call, told):
    answers, calls = zip(*(pending() for _ in range(2)), strict=True)
    for call in calls:
        late_call.leave(call, now())
    await eventually(calls[1].cancelled)
    answers[0].set_result(None)
    await eventually(lambda: len(told) == 1)
    _, third = pending()
    late_call.leave(third, now())
    await asyncio.sleep(0)
    assert not third.cancelled()
    late_call.cancel()
    await eventually(third.cancelled)
    assert len(told) == 1


async def test_a_late_call_ends_at_last(late_call, told, monkeypatch):
    monkeypatch.setattr(late, "LONGEST", 0.01)
    _, call = pending()
    late_call.leave(call, now())
    await eventually(call.cancelled)
    assert told == []


async def test_a_late_fault_is_no_answer(late_call, told):
    answer, call = pending()
    late_call.leave(call, now())
    answer.set_exception(OSError())
    await eventually(call.done)
    await asyncio.sleep(0)
    assert told == []


async def test_a_busy_event_loop_is_no_silent_task():
    """Nine of ten ticks are still to come when the event loop has been busy for all of the time."""
    answer, call = pending()
    asyncio.get_running_loop().call_later(0.001, keep_busy, answer)
    assert await done_within((call,), 0.1)
    _, silent = pending()
    assert not await done_within((silent,), 0.01)
    assert not silent.cancelled()
    silent.cancel()


def keep_busy(answer: asyncio.Future) -> None:
    time.sleep(0.2)
    asyncio.get_running_loop().call_later(0.01, answer.set_result, None)

"""Turns of the event loop and of the thread that runs sync code."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from asgiref.sync import SyncToAsync

from channels_admission.limiter.entrance import turns
from channels_admission.limiter.entrance.turns import BEHIND, TICK, Turns
from channels_admission.runtime.faults import Faults

from support.waiting import eventually


@pytest.fixture
def thread(monkeypatch):
    with ThreadPoolExecutor(1) as thread:
        monkeypatch.setattr(SyncToAsync, "single_thread_executor", thread)
        yield thread


async def test_a_turn_tells_by_how_much_the_event_loop_was_late(thread):
    took = asyncio.get_running_loop().create_future()
    each = Turns(asyncio.get_running_loop(), took.set_result, Faults("tests"))
    each.begin()
    each.begin()
    time.sleep(0.05)
    assert 0.05 - TICK <= await took < 1.0


async def test_a_turn_waits_for_the_calls_before_it_in_the_thread(thread):
    release, over = threading.Event(), []
    each = Turns(asyncio.get_running_loop(), over.append, Faults("tests"))
    try:
        each.begin()
        for _ in range(1 + BEHIND):
            thread.submit(release.wait)
        await eventually(lambda: thread._work_queue.qsize() == 1 + BEHIND)
        assert over == []
    finally:
        release.set()
    await eventually(lambda: len(over) == 1)


@pytest.mark.parametrize("is_needless", [False, True])
async def test_a_turn_does_not_wait_for_a_thread_that_was_behind_before_it(thread, monkeypatch, is_needless):
    monkeypatch.setattr(turns, "LONGEST_TURN", 60.0)
    release, asked, over = threading.Event(), [], []
    each = Turns(asyncio.get_running_loop(), over.append, Faults("tests"), lambda: bool(asked.append(1)) or is_needless)
    each.begin()  # with an idle thread
    await eventually(lambda: asked and (is_needless or over))
    over.clear()
    is_needless = False
    for _ in range(1 + 2 * BEHIND):
        thread.submit(release.wait)
    try:
        await eventually(lambda: thread._work_queue.qsize() == 2 * BEHIND)
        each.begin()
        await eventually(lambda: len(over) == 1)
        assert thread._work_queue.qsize() == 2 * BEHIND  # no empty call
        each.begin(newcomers=BEHIND)  # of whom as many calls may be
        await eventually(lambda: thread._work_queue.qsize() == 1 + 2 * BEHIND)
        assert len(over) == 1
    finally:
        release.set()
    await eventually(lambda: len(over) == 2)


async def test_a_thread_that_falls_behind_in_turns_that_follow_each_other_is_waited_for(thread, monkeypatch):
    monkeypatch.setattr(turns, "LONGEST_TURN", 60.0)
    release, over = threading.Event(), []

    def go_on(took):
        over.append(took)
        if len(over) <= BEHIND:
            thread.submit(release.wait)
            each.begin()

    each = Turns(asyncio.get_running_loop(), go_on, Faults("tests"))
    try:
        thread.submit(release.wait)
        await eventually(lambda: thread._work_queue.qsize() == 0)
        each.begin()
        await eventually(lambda: thread._work_queue.qsize() == BEHIND + 1)  # with the empty call
        assert len(over) == BEHIND
    finally:
        release.set()
    await eventually(lambda: len(over) == BEHIND + 1)


async def test_a_turn_ends_without_a_thread_that_takes_too_long(thread, monkeypatch):
    monkeypatch.setattr(turns, "LONGEST_TURN", 0.05)
    release, over = threading.Event(), []
    try:
        each = Turns(asyncio.get_running_loop(), over.append, Faults("tests"))
        each.begin()
        for _ in range(1 + BEHIND):
            thread.submit(release.wait)
        await eventually(lambda: len(over) == 1)
        assert over[0] >= 0.05
        each.begin(newcomers=1 + BEHIND)
        await eventually(lambda: len(over) == 2)
        assert thread._work_queue.qsize() == 1 + BEHIND  # no second empty call
    finally:
        release.set()


async def test_a_turn_ends_even_where_the_thread_cannot_be_asked(monkeypatch):
    faults, over = Faults("tests"), []
    noted = []
    monkeypatch.setattr(faults, "note", lambda part, error: noted.append((part, error)))
    monkeypatch.setattr(SyncToAsync, "single_thread_executor", SimpleNamespace(_threads={1}, _work_queue=None))
    Turns(asyncio.get_running_loop(), over.append, faults).begin()
    await eventually(lambda: len(over) == 1)
    assert [(part, type(error)) for part, error in noted] == [("the turn of the thread", AttributeError)]


async def test_a_needless_turn_is_left_out_unless_the_event_loop_is_late():
    loop, asked, over = asyncio.get_running_loop(), [], []
    each = Turns(loop, over.append, Faults("tests"), lambda: bool(asked.append(loop.time())) or True)
    each.begin()
    await asyncio.sleep(2 * TICK)
    assert (len(asked), over) == (1, [])
    each.begin()
    time.sleep(2 * TICK)
    await eventually(lambda: len(over) == 1)
    assert len(asked) == 1


async def test_a_turn_goes_on_where_its_need_cannot_be_told(monkeypatch):
    faults, over, noted = Faults("tests"), [], []
    monkeypatch.setattr(faults, "note", lambda part, error: noted.append((part, type(error))))
    Turns(asyncio.get_running_loop(), over.append, faults, lambda: 1 / 0).begin()
    await eventually(lambda: len(over) == 1)
    assert noted == [("the need of a turn", ZeroDivisionError)]

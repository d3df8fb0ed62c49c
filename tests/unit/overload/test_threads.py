"""The monitor of the thread that runs sync code."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from asgiref.sync import sync_to_async

from channels_admission.overload.threads import EVERY, Threads, shared_thread

from support.reports import Clock
from support.waiting import eventually


def test_a_site_without_sync_code_waits_for_nothing():
    assert Threads(lambda: None).read() == 0.0


def test_a_job_waits_until_the_thread_is_free_and_the_reading_with_it():
    clock, free = Clock(), threading.Event()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(free.wait)
        threads, start = Threads(lambda: executor, clock), clock.now
        readings = []
        for clock.now in (start, start + 0.25, start + 12.5):
            readings.append(threads.read())
        assert readings == [0.0, 0.25, 12.5]
        free.set()
        executor.submit(int).result(10)
        assert threads._waited == 12.5
        clock.now += EVERY
        threads.read()
        executor.submit(int).result(10)
        assert threads.read() == 0.0


def test_the_jobs_that_wait_and_the_busy_threads_are_counted_without_its_own_job():
    clock, free, began = Clock(), threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(int).result(10)
        threads = Threads(lambda: executor, clock)
        threads.read()
        executor.submit(int).result(10)
        counted = [(threads.jobs, threads.busy)]
        executor.submit(lambda: began.set() or free.wait(10))
        jobs = [executor.submit(int) for _ in range(3)]
        assert began.wait(10)
        for _ in range(2):  # with its own job in the queue at the second reading
            clock.now += EVERY
            threads.read()
            counted.append((threads.jobs, threads.busy))
        free.set()
        jobs[-1].result(10)
        assert counted == [(0, 0), (3, 1), (3, 1)]


def test_one_job_at_a_time_measures():
    clock, free = Clock(), threading.Event()
    with ThreadPoolExecutor(1) as executor:
        executor.submit(free.wait)
        threads = Threads(lambda: executor, clock)
        for _ in range(20):
            clock.now += EVERY
            threads.read()
        assert executor._work_queue.qsize() == 1
        free.set()


def test_at_the_end_of_the_process_it_is_unknown():
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    assert Threads(lambda: executor).read() is None


async def test_the_thread_is_that_of_sync_consumers_and_the_orm():
    free, began = threading.Event(), threading.Event()

    def block() -> None:
        began.set()
        free.wait(10)

    job = asyncio.create_task(sync_to_async(block)())
    await eventually(began.is_set)
    assert shared_thread() is not None
    threads = Threads()
    try:
        assert await eventually(lambda: (threads.read() or 0) > 0.01)
    finally:
        free.set()
        await job

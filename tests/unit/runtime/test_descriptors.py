"""The reserve of file descriptors: its users, what it lends, and when it is filled again."""

import asyncio
import errno
import os
import resource
import subprocess
import sys
from contextlib import contextmanager, suppress

import pytest

from channels_admission.exceptions import LedgerUnavailable
from channels_admission.ledger import open_ledger
from channels_admission.ledger.memory import MemoryLedger
from channels_admission.runtime import descriptors
from channels_admission.runtime.descriptors import (
    ACCEPT_FAILED,
    FOR_REDIS,
    SIZE,
    SpareDescriptors,
    accept_failures,
    spares,
)

from support.limiters import limiter_over
from support.reports import Reporter
from support.waiting import eventually

FULL = OSError(errno.EMFILE, "Too many open files")


@pytest.fixture
def ours():
    """A reserve of the test, with one user."""
    ours = SpareDescriptors()
    ours.open()
    yield ours
    ours.let_go()


@pytest.fixture
def the_process(monkeypatch):
    """The reserve of the process, with one user: tests before may have left event loops that they never closed."""
    monkeypatch.setattr(spares, "_users", 0)
    spares.let_go()
    spares.open()
    yield spares
    spares.close()


def test_the_first_user_fills_it_and_the_last_one_frees_it():
    ours = SpareDescriptors()
    ours.fill()
    assert (len(ours), ours.is_short) == (0, False)
    ours.open()
    kept = list(ours._kept)
    assert all(os.fstat(each) for each in kept)
    ours.open()
    ours.close()
    assert (ours._kept, len(ours), ours.is_short) == (kept, SIZE, False)
    ours.close()
    assert (len(ours), ours.is_short) == (0, False)
    for each in kept:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(each)


def test_it_is_short_until_what_was_freed_is_taken_again(ours):
    ours.let_go(3)
    assert (len(ours), ours.is_short) == (SIZE - 3, True)
    ours.fill()
    assert (len(ours), ours.is_short) == (SIZE, False)
    ours.let_go(SIZE + 1)
    assert (len(ours), ours.is_short) == (0, True)


def test_it_is_filled_as_far_as_descriptors_are_free(ours, monkeypatch):
    ours.let_go()
    opened, free = os.open, iter([True] * 5)

    def open_one_of_five(*args):
        if not next(free, False):
            raise FULL
        return opened(*args)

    with monkeypatch.context() as patch:
        patch.setattr(descriptors.os, "open", open_one_of_five)
        ours.fill()
    assert (len(ours), ours.is_short) == (5, True)
    ours.fill()
    assert (len(ours), ours.is_short) == (SIZE, False)


@pytest.mark.parametrize("needed", range(4))
def test_it_lends_one_after_the_other_and_keeps_those_for_redis(ours, needed):
    seen = []

    def call(word):
        seen.append(len(ours))
        if len(ours) > SIZE - needed:
            raise FULL
        return word

    if SIZE - needed < FOR_REDIS:
        with pytest.raises(OSError, match="Too many open files"):
            ours.lend(call, "done")
    else:
        assert ours.lend(call, "done") == "done"
    assert seen == list(range(SIZE, max(SIZE - needed, FOR_REDIS) - 1, -1))
    assert len(ours) == SIZE


@pytest.mark.parametrize("before", [[], [FULL]])
def test_it_lends_nothing_to_a_call_that_fails_for_another_reason(ours, before):
    errors = [*before, PermissionError("no rights"), FULL]

    def call():
        raise errors.pop(0)

    with pytest.raises(PermissionError):
        ours.lend(call)
    assert errors == [FULL]
    assert len(ours) == SIZE


async def test_it_is_filled_again_before_each_call_to_the_ledger_where_it_is_short(admission, the_process):
    settings = admission(HEARTBEAT=60, LEASE=600)
    limiter = limiter_over(settings, MemoryLedger(settings))
    try:
        await eventually(lambda: limiter.state.calls.made)
        the_process.let_go(2)
        limiter.report_now()
        await eventually(lambda: limiter.state.calls.made == 2)
        assert len(the_process) == SIZE
    finally:
        await limiter.aclose()


EXHAUSTED = """
import os, resource, sys
from pathlib import Path
from channels_admission.overload.memory import Memory
from channels_admission.runtime.descriptors import SIZE, is_exhausted, spares
from channels_admission.core.protocol import Neighbour
from channels_admission.runtime.identity import Worker, is_gone
spares.open()
dead = Neighbour(f"host:{sys.argv[1]}:ab", 1)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
taken = []
try:
    while True:
        taken.append(os.open("/dev/null", os.O_RDONLY))
except OSError as error:
    assert is_exhausted(error)
assert 0 < Memory(2**40).read() < 1
assert is_gone(dead)
assert not is_gone(Neighbour(Worker().id, Worker().born))
assert len(spares) == SIZE
spares.let_go()
assert len(spares) == 0 and spares.is_short
taken += [os.open("/dev/null", os.O_RDONLY) for _ in range(SIZE - 2)]
spares.fill()
assert len(spares) == 2 and spares.is_short
for each in taken: os.close(each)
spares.fill()
assert len(spares) == SIZE and not spares.is_short
spares.close()
assert len(spares) == 0 and not spares.is_short
"""


async def test_an_accept_that_fails_again_and_again_is_told_of_once_in_a_while(monkeypatch, caplog):
    monkeypatch.setattr("channels_admission.runtime.descriptors.LOGGED_EVERY", 3600.0)
    loop, failed = asyncio.get_running_loop(), {"message": ACCEPT_FAILED, "exception": OSError(errno.EMFILE, "full")}
    monkeypatch.setattr(spares, "_users", 0)  # tests before may have left event loops that they never closed
    spares.open()
    try:
        for _ in range(2):
            monkeypatch.setattr(accept_failures, "_next", 0.0)
            for _ in range(1024):
                loop.call_exception_handler(failed)
                loop.call_exception_handler({"message": "something else"})
    finally:
        spares.close()
    loop.call_exception_handler(failed)
    lines = [record.getMessage().partition("\n")[0] for record in caplog.records if record.name == "asyncio"]
    assert (lines.count(ACCEPT_FAILED), lines.count("something else")) == (3, 2048)


def test_what_the_package_needs_itself_has_descriptors_when_all_others_are_taken():
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    subprocess.run([sys.executable, "-c", EXHAUSTED, str(gone.pid)], check=True, timeout=30)


@contextmanager
def exhausted():
    """No further file can be opened by this process, unless it closes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.open(os.devnull, os.O_RDONLY)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 20, hard))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in taken:
            os.close(each)


async def test_a_connection_to_redis_has_a_descriptor_when_all_others_are_taken(admission, redis_server, monkeypatch):
    settings = admission(LEDGER=redis_server.url)
    first, second = open_ledger(settings), open_ledger(settings)
    spares.open()
    kept = len(spares)
    with exhausted():
        assert (await Reporter(first, "ab").say(1)).total == 1
        assert len(spares) == kept - 1
        with monkeypatch.context() as patch, pytest.raises(LedgerUnavailable, match="Too many open files"):
            patch.setattr(spares, "let_go", lambda most: None)
            await Reporter(second, "cd").say(1)
    await first.aclose()
    await second.aclose()
    spares.fill()
    assert len(spares) == SIZE
    spares.close()


def test_a_forked_child_has_no_reserve_of_its_parent(the_process):
    kept = list(the_process._kept)
    child = os.fork()
    if not child:
        closed = [each for each in kept if not os.path.exists(f"/proc/self/fd/{each}")]
        os._exit(0 if len(closed) == SIZE and len(the_process) == 0 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(the_process) == SIZE

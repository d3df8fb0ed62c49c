"""Lock files: a process whose lock is held is never gone, and one that has ended is, in every namespace."""

import itertools
import logging
import os
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from channels_admission.core.protocol import Neighbour
from channels_admission.ledger.memory import MemoryLedger
from channels_admission.limiter.books.state import State
from channels_admission.limiter.registry import close_limiters, limiter_of
from channels_admission.runtime import locks as locks_module
from channels_admission.runtime.identity import Worker, host, host_token, is_gone
from channels_admission.runtime.locks import KEPT, Locks, locks_in
from channels_admission.status.snapshot import collect

from support.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell kernels apart")

HOLD = """
import sys
from channels_admission.runtime.identity import Worker, host_token
from channels_admission.runtime.locks import locks_in
worker = Worker()
worker.locks = locks_in(sys.argv[1], worker.process)
print(worker.id, worker.born, host_token(worker.locks), flush=True)
input()
"""
"""Another worker with a lock in the directory, until its standard input ends."""
LOOK = """
import sys
from channels_admission.runtime.locks import Locks
print(Locks(sys.argv[1], f"looker:{sys.argv[3]}:1").is_gone(sys.argv[2]))
"""
ELSEWHERE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc") if os.geteuid() == 0 else ()
"""In a process namespace of its own, which only root may make."""
OTHER = f"{host()}:7:7"
NUMBERS = itertools.count(1)


def is_gone_for_others(folder: Path, process: str) -> bool:
    """What another process sees."""
    command = [sys.executable, "-c", LOOK, str(folder), process, str(next(NUMBERS))]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout == "True\n"


class Other:
    """The process of another worker."""

    def __init__(self, folder: Path, *launcher: str) -> None:
        command = [*launcher, sys.executable, "-c", HOLD, str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        worker, born, self.token = self.process.stdout.readline().split()
        self.neighbour = Neighbour(worker, int(born))

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def begin(tmp_path):
    others = []

    def begin(*launcher: str) -> Other:
        others.append(Other(tmp_path, *launcher))
        return others[-1]

    yield begin
    for other in others:
        other.kill()


@pytest.fixture(autouse=True)
def _own(monkeypatch):
    """No lock of a test before or after."""
    monkeypatch.setattr(locks_module, "_open", {})
    yield
    for each in locks_module._open.values():
        each.close()


@pytest.fixture
def ours(tmp_path) -> Locks:
    return locks_in(str(tmp_path), Worker().process)


def test_a_worker_with_a_lock_is_gone_once_it_is_killed(begin, ours):
    other = begin()
    assert not is_gone(other.neighbour, ours)
    other.kill()
    assert is_gone(other.neighbour, ours)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a process namespace")
def test_its_end_is_seen_from_another_process_namespace_with_the_same_token(begin, ours):
    other = begin(*ELSEWHERE)
    assert other.neighbour.worker.split(":")[1] == "1"
    assert other.token == host_token(ours)
    assert not is_gone(other.neighbour, ours)
    other.kill()
    deadline = time.monotonic() + 10  # the death of the namespace follows that of its maker
    while not is_gone(other.neighbour, ours) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert is_gone(other.neighbour, ours)


def test_the_tokens_of_other_directories_and_of_workers_without_locks_differ(tmp_path, ours):
    other = tmp_path / "other"
    other.mkdir()
    assert len({host_token(), host_token(ours), host_token(Locks(str(other), OTHER))}) == 3


def test_another_kernel_is_another_host(tmp_path, ours, monkeypatch):
    boot = tmp_path / "boot"
    boot.write_text("another\n")
    monkeypatch.setattr(locks_module, "BOOT_ID", boot)
    assert host_token(Locks(str(tmp_path), OTHER)) != host_token(ours)


def test_a_worker_that_never_had_a_lock_here_is_not_gone(ours):
    assert not is_gone(Neighbour(f"{host()}:7:abc", 7), ours)


@pytest.mark.parametrize("name", ["../x:7:abc", "/etc/passwd:7:abc", "..:7:7", ".", ""])
def test_no_name_leads_out_of_the_directory(tmp_path, name):
    folder = tmp_path / "locks"
    folder.mkdir()
    (tmp_path / "x:7:7").touch()
    assert not is_gone(Neighbour(name, 7), Locks(str(folder), OTHER))


HELD = 5


async def leave_slots_of(other: Other, settings) -> None:
    """Count the other worker in the ledger."""
    ours = State(settings.pool("default"), Worker()).begin_report()
    worker, born = other.neighbour.worker, other.neighbour.born
    report = replace(ours, worker=worker, born=born, host=other.token, held=HELD)
    await MemoryLedger(settings).reconcile("default", report)


async def test_the_next_worker_gives_back_the_slots_of_one_that_was_killed_with_its_first_two_calls(
    admission, begin, tmp_path
):
    settings, other = admission(LOCK_DIR=str(tmp_path), HEARTBEAT=600, LEASE=3600), begin()
    await leave_slots_of(other, settings)
    other.kill()
    limiter = limiter_of("default")
    await eventually(lambda: limiter.state.calls.made == 2)
    (pool,) = (await collect(settings)).pools
    assert (pool.held, len(pool.workers)) == (0, 1)
    await close_limiters()


async def test_the_next_worker_leaves_the_slots_of_one_that_lives_in_the_same_directory(admission, begin, tmp_path):
    """Without its lock, a process of another namespace would seem gone: its number is that of another one here."""
    settings, other = admission(LOCK_DIR=str(tmp_path), HEARTBEAT=600, LEASE=3600), begin(*ELSEWHERE)
    await leave_slots_of(other, settings)
    limiter = limiter_of("default")
    await eventually(lambda: limiter.state.calls.made == 1)
    limiter.report_soon()
    await eventually(lambda: limiter.state.calls.made == 2)
    (pool,) = (await collect(settings)).pools
    assert (pool.held, len(pool.workers)) == (HELD, 2)
    await close_limiters()


def test_two_event_loops_of_a_process_have_one_lock_and_never_drop_it(tmp_path, ours):
    """To close the own file after a look would drop a lock of POSIX."""
    worker = Worker()
    assert locks_in(str(tmp_path), worker.process) is ours
    assert not is_gone(Neighbour(worker.id, worker.born), ours)
    assert not is_gone_for_others(tmp_path, worker.process)


def test_a_forked_child_has_a_lock_of_its_own_and_leaves_its_parent_s(tmp_path, ours):
    ready, done = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        with suppress(BaseException):
            own = locks_in(str(tmp_path), Worker().process)
            os.write(ready[1], b"1" if own is not ours else b"0")
            os.close(done[1])
            os.read(done[0], 1)
        os._exit(0)
    assert os.read(ready[0], 1) == b"1"
    of_child = f"{host()}:{child}:"
    (file,) = (name for name in os.listdir(tmp_path) if name.startswith(of_child))
    assert not is_gone_for_others(tmp_path, file)
    os.close(done[1])
    os.waitpid(child, 0)
    assert is_gone_for_others(tmp_path, file)
    assert not is_gone_for_others(tmp_path, Worker().process)
    for each in (*ready, done[0]):
        os.close(each)


def test_a_name_that_is_taken_is_not_locked_twice(tmp_path, begin):
    other = begin()
    name = f"{other.neighbour.worker.rpartition(':')[0]}:{other.neighbour.born}"
    with pytest.raises(FileExistsError):
        Locks(str(tmp_path), name)
    assert not is_gone_for_others(tmp_path, name)


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_without_a_directory_there_is_no_lock_and_the_log_says_so(tmp_path, caplog, folder):
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING, "channels_admission"):
        assert locks_in(str(tmp_path / folder), Worker().process) is None
    (line,) = caplog.messages
    assert line.startswith(f"No lock file in LOCK_DIR '{tmp_path / folder}'")
    assert locks_in(None, Worker().process) is None


def test_the_files_of_the_gone_are_kept_for_a_day_after_they_are_found(tmp_path, begin):
    other = begin()
    name = f"{other.neighbour.worker.rpartition(':')[0]}:{other.neighbour.born}"
    other.kill()
    Locks(str(tmp_path), OTHER).close()
    found = (tmp_path / name).stat().st_mtime
    assert time.time() - found < 60
    Locks(str(tmp_path), f"{OTHER}1").close()
    assert (tmp_path / name).stat().st_mtime == found
    os.utime(tmp_path / name, (found - KEPT, found - KEPT))
    Locks(str(tmp_path), f"{OTHER}2").close()
    assert not (tmp_path / name).exists()


def test_files_of_the_living_and_of_others_stay(tmp_path, begin):
    other = begin()
    name = f"{other.neighbour.worker.rpartition(':')[0]}:{other.neighbour.born}"
    for each in (name, "README"):
        (tmp_path / each).touch()
        os.utime(tmp_path / each, (1, 1))
    Locks(str(tmp_path), OTHER).close()
    assert {path.name for path in tmp_path.iterdir()} == {name, "README", OTHER}

"""Who a worker is, and when its neighbours may call it gone."""

import os
import re
import subprocess
import sys
from dataclasses import replace

import psutil
import pytest

from channels_admission.core.protocol import Neighbour
from channels_admission.runtime import identity
from channels_admission.runtime.identity import LOOKED_AT, Worker, birth, gone_of, is_gone
from channels_admission.runtime.servers import name_of


@pytest.fixture
def child():
    """A process that waits for its standard input to end."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def neighbour(process) -> Neighbour:
    return Neighbour(f"host:{process.pid}:abc", birth(psutil.Process(process.pid)))


def test_the_living_are_not_gone(child):
    assert not is_gone(neighbour(child))
    assert not is_gone(Neighbour(Worker().id, Worker().born))


def test_a_zombie_is_gone_before_its_parent_looks(child):
    known = neighbour(child)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert is_gone(known)


def test_a_process_that_ended_is_gone(child):
    known = neighbour(child)
    child.kill()
    child.wait()
    assert is_gone(known)


def test_another_process_under_the_same_number_does_not_hide_that_it_is_gone(child):
    assert is_gone(replace(neighbour(child), born=neighbour(child).born - 1))


def others(count) -> list[Neighbour]:
    return [Neighbour(f"host:{number}:abc", 1) for number in range(count)]


@pytest.fixture
def looks(monkeypatch):
    """The neighbours that were looked at; those whose number ends with 7 are gone."""
    seen = []

    def look(neighbour, locks):
        seen.append(neighbour)
        return neighbour.worker.split(":")[1].endswith("7")

    monkeypatch.setattr(identity, "is_gone", look)
    return seen


def test_of_few_neighbours_each_is_looked_at(looks):
    assert gone_of(others(LOOKED_AT)) == ("host:7:abc",)
    assert len(looks) == LOOKED_AT


def test_of_many_neighbours_some_are_looked_at(looks):
    living = [each for each in others(300) if "7:" not in each.worker]
    assert gone_of(living) == ()
    assert len(looks) == len(set(looks)) == LOOKED_AT
    first = set(looks)
    gone_of(living)
    assert set(looks) > first


def test_where_one_of_these_is_gone_all_are_looked_at(looks, monkeypatch):
    monkeypatch.setattr(identity.random, "sample", lambda all_of_them, count: all_of_them[:count])
    assert gone_of(others(40)) == tuple(f"host:{number}:abc" for number in (7, 17, 27, 37))


def test_a_process_that_cannot_be_seen_is_not_gone(child, monkeypatch):
    known = neighbour(child)

    def hidden(pid):
        raise psutil.NoSuchProcess(pid)

    monkeypatch.setattr(identity.psutil, "Process", hidden)
    assert not is_gone(known)
    monkeypatch.setattr(identity.psutil, "Process", lambda pid: (_ for _ in ()).throw(psutil.AccessDenied(pid)))
    assert not is_gone(known)


def test_an_identity_is_host_process_and_a_nonce_of_its_own():
    one, two = Worker(), Worker()
    assert re.fullmatch(rf"[A-Za-z0-9._-]{{1,32}}:{os.getpid()}:[0-9a-f]{{8}}", one.id)
    assert len({one.id, two.id, one.renamed().id}) == 3
    assert one.renamed().started == one.started


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("web-1.example.org", "web-1.example.org"),
        ("a:b|c\n\x1b{}", "a_b_c____"),
        ("x" * 32, "x" * 32),
        ("x" * 33, "x" * 23 + "-456d0837"),
        ("", "unknown"),
    ],
)
def test_a_host_name_is_reduced_to_what_is_safe_everywhere(monkeypatch, name, shown):
    monkeypatch.setattr(identity.socket, "gethostname", lambda: name)
    assert identity.host.__wrapped__() == shown


def test_long_names_that_begin_alike_are_not_the_same_and_a_worker_s_name_of_its_host_is_its_own():
    pods = [f"site-production-workers-7d9f8b6c54-{pod}" for pod in ("x2x4z", "k8k9l")]
    names = [identity.host_name(pod) for pod in pods]
    assert len(set(names)) == 2
    assert all(re.fullmatch(r"site-production-workers-[0-9a-f]{8}", name) for name in names)
    assert [identity.host_name(name) for name in names] == names


def test_another_process_namespace_is_another_host(monkeypatch):
    here = identity.host_token.__wrapped__()
    monkeypatch.setattr(identity.os, "readlink", lambda path: "pid:[1]")
    assert identity.host_token.__wrapped__() != here
    assert re.fullmatch(r"[0-9a-f]{12}", here)


def test_an_unknown_server_has_no_name():
    async def send(message):
        pass

    assert name_of(send) == ""

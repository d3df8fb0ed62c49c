"""Look-ups of host names."""

import asyncio
import os
import socket
import ssl
import threading

import pytest

from channels_admission.exceptions import LedgerUnavailable
from channels_admission.ledger import open_ledger
from channels_admission.ledger.redis.names import LookUps, look_ups

from support.proxy import Proxy
from support.redises import AUTHORITY, certify
from support.reports import Reporter
from support.waiting import eventually


@pytest.fixture
def silent(monkeypatch):
    class Names(list):
        """The names that were asked for, of a name server that answers when the test says so."""

        answers = threading.Event()

    names, found = Names(), socket.getaddrinfo
    names.answers.clear()

    def look_up(name, *args, **options):
        if name.endswith(".example"):
            names.append(name)
            names.answers.wait(10)
            name = "127.0.0.1"
        return found(name, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield names
    names.answers.set()


async def test_a_silent_name_server_takes_one_thread_and_none_of_the_application(admission, redis_server, silent):
    settings = admission(LEDGER_TIMEOUT=0.05, LEDGER=f"redis://redis.example:{redis_server.port}")
    ledgers = [open_ledger(settings) for _ in range(3)]
    for _ in range(3):
        for ledger in ledgers:
            with pytest.raises(LedgerUnavailable, match="no connection"):
                await Reporter(ledger, "ab").say()
    assert silent == ["redis.example"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("asyncio_")]
    silent.answers.set()
    for ledger in ledgers:
        await eventually(lambda ledger=ledger: ledger._connections._idle or ledger._connections._begin().done())
        await ledger.aclose()


async def test_a_name_is_looked_up_again_once_it_was_found(silent):
    silent.answers.set()
    names = LookUps()
    assert await names.addresses("a.example", 1) == ("127.0.0.1",)
    assert await names.addresses("a.example", 1) == ("127.0.0.1",)
    assert silent == ["a.example", "a.example"]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "fe80::1%lo"])
async def test_an_address_is_not_looked_up(address, silent):
    assert await LookUps().addresses(address, 1) == (address,)
    assert silent == []


async def test_a_name_that_is_not_known_is_an_outage(admission):
    ledger = open_ledger(admission(LEDGER="redis://nothing.invalid:6379"))
    with pytest.raises(LedgerUnavailable, match=r"nothing\.invalid"):
        await Reporter(ledger, "ab").say()
    await ledger.aclose()


async def test_a_look_up_for_which_no_thread_can_be_started_is_an_outage(monkeypatch):
    def fail(thread):
        raise RuntimeError("can't start new thread")

    names = LookUps()
    monkeypatch.setattr(threading.Thread, "start", fail)
    for _ in range(2):
        with pytest.raises(OSError, match="no thread"):
            await names.addresses("a.example", 1)


async def test_a_certificate_must_be_for_the_name_and_not_for_its_address(admission, redis_server, silent, tmp_path):
    silent.answers.set()
    certify(tmp_path)  # for 127.0.0.1
    secret = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    secret.load_cert_chain(tmp_path / "server.pem")
    async with Proxy(redis_server.port, secret) as tls:
        for host, problem in (("127.0.0.1", None), ("redis.example", "Hostname mismatch")):
            url = f"rediss://{host}:{tls.port}?ssl_ca_certs={tmp_path / AUTHORITY}&ssl_check_hostname=true"
            ledger = open_ledger(admission(LEDGER=url))
            if problem is None:
                await Reporter(ledger, "ab").say()
            else:
                with pytest.raises(LedgerUnavailable, match=problem):
                    await Reporter(ledger, "ab").say()
            await ledger.aclose()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_a_forked_child_waits_for_no_thread_of_its_parent(silent):
    waiting = asyncio.ensure_future(look_ups.addresses("a.example", 1))
    await eventually(lambda: silent == ["a.example"])
    assert look_ups._running
    pid = os.fork()
    if pid == 0:
        os._exit(len(look_ups._running))
    assert os.waitpid(pid, 0)[1] == 0
    silent.answers.set()
    assert await waiting == ("127.0.0.1",)

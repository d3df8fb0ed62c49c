"""The help for the tests of sites, used as a site would: in coroutines, functions and test cases of Django."""

import asyncio
import os
import unittest

import pytest
from asgiref.sync import async_to_sync
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import URLRouter
from channels.testing import WebsocketCommunicator
from django.test import SimpleTestCase, override_settings
from django.urls import path

from channels_admission import conf, controls
from channels_admission.consumers import AdmissionMixin
from channels_admission.core.guard import VARIABLE, is_guarded
from channels_admission.core.herd.tickets import WRITTEN
from channels_admission.exceptions import ConfigurationError
from channels_admission.ledger.memory import MemoryLedger
from channels_admission.limiter.registry import living_limiters
from channels_admission.middleware import AdmissionMiddleware
from channels_admission.testing import LedgerForTests, Refused, fill, override_admission, refused, returning, tidy

REDIS = {"default": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": ["redis://127.0.0.1:1"]}}}


class Echo(AsyncWebsocketConsumer):
    async def receive(self, text_data=None, bytes_data=None):
        await self.send(text_data)


class Chat(AdmissionMixin, Echo):
    admission_pool = "chat"


class Closing(Echo):
    async def connect(self):
        await self.accept()
        await self.close(4001, "not today")


class Rejecting(Echo):
    async def connect(self):
        await self.close()


class Greeting(Echo):
    async def connect(self):
        await self.accept()
        await self.send("hello")


ROUTES = [path("ws/echo/", Echo.as_asgi()), path("ws/closing/", Closing.as_asgi())]
ROUTES += [path("ws/rejecting/", Rejecting.as_asgi()), path("ws/greeting/", Greeting.as_asgi())]
application = AdmissionMiddleware(URLRouter(ROUTES))


def client(where="echo", headers=(), inner=application):
    return WebsocketCommunicator(inner, f"/ws/{where}/", headers=list(headers))


async def admitted(communicator):
    """Whether the client is admitted: it gets its own words back."""
    assert await communicator.connect() == (True, None)
    await communicator.send_to(text_data="x")
    return (await communicator.receive_output())["type"] == "websocket.send"


@override_admission(MAX_CONNECTIONS=10)
async def test_a_full_pool_refuses_and_tells_what_a_client_sees():
    async with fill() as held:
        assert held == 10
        refusal = await refused(client())
    assert (refusal.code, refusal.reason) == (1013, "Try Again Later")
    assert 0 < refusal.retry_after <= 60
    assert WRITTEN.fullmatch(refusal.ticket)
    assert await admitted(client())


@override_admission(MAX_CONNECTIONS=10)
async def test_the_refusal_is_also_read_after_connect_which_says_accepted():
    async with fill():
        communicator = client()
        assert await communicator.connect() == (True, None)
        assert (await refused(communicator)).code == 1013


@override_admission(MAX_CONNECTIONS=10)
async def test_room_is_found_at_once_after_a_full_pool_however_slow_the_machine_is():
    first = client()
    assert await admitted(first)
    (limiter,) = living_limiters()
    async with fill():
        limiter.state.calls.lately = 1.0  # so that it takes the pool to be full for seconds
        assert (await refused(client())).code == 1013
    assert await admitted(client())


@override_admission(MAX_CONNECTIONS=1, REFUSE_WITH="http", CLOSE_REASON="Full")
async def test_a_refusal_with_503_is_read_from_the_response():
    async with fill():
        communicator = client()
        communicator.scope["extensions"] = {"websocket.http.response": {}}
        refusal = await refused(communicator)
    assert (refusal.code, refusal.reason, refusal.retry_after > 0) == (503, "Full", True)
    assert WRITTEN.fullmatch(refusal.ticket)


@override_admission(MAX_CONNECTIONS=1, RETRY_AFTER=(0.5, 0.5))
async def test_a_client_that_comes_back_with_its_ticket_gets_the_slot_that_is_kept_for_it():
    async with fill():
        refusal = await refused(client())
    await asyncio.sleep(refusal.retry_after)
    assert await admitted(client(headers=returning(refusal.ticket)))


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("echo", "Not refused: the connection is open, and nothing came within 0.1 s."),
        ("closing", "Not refused by admission: the application answered 4001 with 'not today'."),
        ("rejecting", "Not refused by admission: the application answered {'type': 'websocket.close'"),
        ("greeting", "Not refused: the connection is open, and the application sent {'type': 'websocket.send'"),
    ],
)
@override_admission(MAX_CONNECTIONS=10)
async def test_a_client_that_is_not_refused_is_an_error_that_says_what_it_saw(where, told):
    with pytest.raises(AssertionError) as error:
        await refused(client(where), timeout=0.1)
    assert str(error.value).startswith(told)


@override_admission(MAX_CONNECTIONS=10, CONNECT_RATE=1)
async def test_a_pool_is_filled_beside_open_connections_without_regard_to_a_rate():
    first = client()
    assert await admitted(first)
    async with fill() as held:
        assert held == 9
        assert (await refused(client())).code == 1013
    async with fill(free=2) as held:
        assert held == 7


@override_admission(MAX_CONNECTIONS=2)
async def test_a_slot_that_was_just_released_is_filled_as_well():
    communicator = client()
    assert await admitted(communicator)
    await communicator.disconnect()
    async with fill() as held:
        assert held == 2
        assert (await refused(client())).reason == "Try Again Later"


@override_admission(MAX_CONNECTIONS=10, QUOTAS=[{"key": "address", "max": 1}], POOLS={"chat": {"MAX_CONNECTIONS": 3}})
async def test_a_pool_with_quotas_and_another_pool_are_filled():
    async with fill(), fill("chat") as held:
        assert held == 3
        assert (await refused(client())).code == 1013
        assert (await refused(client("chat", inner=Chat.as_asgi()))).code == 1013


def test_an_unknown_pool_is_named():
    with override_admission(), pytest.raises(ConfigurationError, match="no admission pool 'caht'"), fill("caht"):
        pass


@override_admission(MAX_CONNECTIONS=5)
def test_a_pool_is_filled_in_a_function():
    with fill() as held:
        assert held == 5
        assert async_to_sync(refused)(client()).code == 1013
    assert async_to_sync(admitted)(client())


@override_admission(MAX_CONNECTIONS=2)
async def test_controls_work_in_the_process_of_the_test_and_at_once():
    communicator = client()
    assert await admitted(communicator)
    await controls.achange("default", by="ann", paused=True)
    assert (await refused(client())).code == 1013
    await controls.achange("default", by="ann", paused=False)
    second = client()
    assert await admitted(second)
    (change,) = await controls.achange("default", by="ann", limit=1)
    assert str(change) == "Pool default: limit from 2 by the settings to 1"
    assert (await refused(client())).code == 1013


@override_admission(MAX_CONNECTIONS=2)
def test_controls_work_before_the_first_connection():
    controls.change("default", by="ann", limit=7)
    assert "limit 7" in controls.describe("default")[0]
    with fill() as held:
        assert held == 7


@override_admission()
async def test_a_drain_closes_the_connections_of_the_test():
    communicator = client()
    assert await admitted(communicator)
    await controls.adrain(controls.ALL_WORKERS, by="ann", over=0)
    assert (await communicator.receive_output())["code"] == 1012


@override_admission(MAX_CONNECTIONS=7)
class InATestCase(SimpleTestCase):
    """Each test begins with an empty pool."""

    def test_in_a_function(self):
        with fill() as held:
            assert held == 7

    async def test_in_a_coroutine(self):
        async with fill() as held:
            assert held == 7
            assert (await refused(client())).code == 1013

    def test_that_leaves_a_connection_open(self):
        async_to_sync(admitted)(client())
        with fill() as held:
            assert held in (6, 7)


def test_a_test_case_has_a_pool_of_its_own_for_each_test():
    seen = []

    @override_admission(MAX_CONNECTIONS=7)
    class Case(unittest.TestCase):
        def test_one(self):
            seen.append(conf.current().prefix)

        def test_two(self):
            seen.append(conf.current().prefix)

    result = unittest.defaultTestLoader.loadTestsFromTestCase(Case).run(unittest.TestResult())
    assert (result.wasSuccessful(), len(set(seen))) == (True, 2)


@override_settings(
    CHANNELS_ADMISSION={"POOLS": {"chat": {"MAX_CONNECTIONS": 3}}, "ALERTS": {"MAIL_ADMINS": True}, "ENABLED": False}
)
def test_the_settings_of_the_project_stand_below_and_are_quiet():
    with override_admission(MAX_CONNECTIONS=4):
        settings = conf.current()
        assert (settings.enabled, settings.pools["chat"].max_connections) == (True, 3)
        assert settings.pools["default"].max_connections == 4
        assert settings.alerts == conf.KEYS[[key.name for key in conf.KEYS].index("ALERTS")].read({})
        assert {watch.thresholds for watch in settings.pressure.values()} == {None}
        with override_admission(MAX_CONNECTIONS=5):
            assert conf.current().pools["default"].max_connections == 5
        assert conf.current() == settings
    assert conf.current().enabled is False


@override_settings(CHANNEL_LAYERS=REDIS)
def test_the_redis_of_the_site_is_not_used_and_another_one_only_by_its_name(redis_server):
    assert conf.current().ledger.host is not None
    with override_admission():
        assert conf.current().ledger == conf.ledger.LedgerSettings("channels_admission.testing.LedgerForTests", None)
        assert is_guarded(os.environ)
        with override_admission(LEDGER=redis_server.url):
            assert conf.current().ledger.backend == conf.ledger.REDIS
        assert conf.current().ledger.host is None
    assert (VARIABLE in os.environ, conf.current().ledger.host is not None) == (False, True)


def test_wrong_settings_are_told_at_once_and_nothing_stays_in_force():
    before = conf.current()
    with pytest.raises(ConfigurationError, match="no key 'MAX_CONNECTION'"), override_admission(MAX_CONNECTION=3):
        pass
    assert (conf.current(), VARIABLE in os.environ) == (before, False)


@override_admission(MAX_CONNECTIONS=3)
def test_what_a_closed_event_loop_has_left_behind_is_forgotten():
    async def leave_open():
        assert await admitted(client())

    with override_admission(MAX_CONNECTIONS=3), fill("default", free=1):
        before = set(MemoryLedger._pools)
        (pool,) = MemoryLedger._pools.values()
        filling = set(pool.entries)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(leave_open())
        loop.close()
        assert pool.entries.keys() > filling
        tidy()
        assert set(MemoryLedger._pools) == before != set()
        assert pool.entries.keys() == filling
    tidy()
    assert MemoryLedger._pools == {}
    assert living_limiters() == ()


def test_the_ledger_for_tests_is_the_one_in_memory():
    assert issubclass(LedgerForTests, MemoryLedger)
    assert LedgerForTests.kind == "memory"
    assert Refused(1013, "Try Again Later", 1.5, "").code == 1013

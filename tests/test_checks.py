"""The system checks: exactly which messages each situation gives."""

import gc
import sys
import weakref
from io import StringIO
from types import SimpleNamespace

import pytest
from channels.consumer import SyncConsumer
from channels.generic.websocket import AsyncWebsocketConsumer
from django.core import checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError

from channels_admission import checks as ours
from channels_admission import conf
from channels_admission.consumers import AdmissionMixin
from channels_admission.middleware import AdmissionMiddleware

REDIS = {"LEDGER": "redis://127.0.0.1:6390/0"}
LAYER = "channels_redis.core.RedisChannelLayer"


@pytest.fixture(autouse=True)
def _quiet(settings, monkeypatch):
    """A project about which there is nothing to say, in a process without Daphne."""
    settings.CHANNELS_ADMISSION = REDIS
    settings.CHANNEL_LAYERS = {}
    settings.ASGI_APPLICATION = None
    monkeypatch.delitem(sys.modules, "daphne.ws_protocol", raising=False)


def messages() -> list[checks.CheckMessage]:
    return checks.run_checks(tags=[ours.TAG])


def ids() -> list[str]:
    return [message.id.removeprefix("channels_admission.") for message in messages()]


def test_nothing_to_say():
    assert messages() == []


def test_the_test_project_is_sound(settings):
    settings.ASGI_APPLICATION = "project.asgi.application"
    assert messages() == []


def test_no_id_is_used_twice():
    used = [
        *(f"channels_admission.{key.id}" for key in conf.KEYS),
        *(f"channels_admission.{check}" for check in ("E001", "E002", conf.TERMS_ID, conf.POOLS_ID)),
        ours.MEMORY_IN_PRODUCTION,
        ours.LAYER_WITHOUT_TIMEOUT,
        ours.DAPHNE_NOT_EXTENDED,
        ours.MIXIN_ON_THE_RIGHT,
        ours.PACE_WITHOUT_RATE,
    ]
    assert len(used) == len(set(used))


# Settings


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, []),
        ({"MAX_CONNECTIONS": 0, "POOLS": {"chat": {"MAX_CONNECTIONS": 10}}}, []),
        ({"NO_SUCH": 1}, ["E002"]),
        ({"ENABLED": 1}, ["E003"]),
        ({"LEDGER": "nowhere"}, ["E004"]),
        ({"PREFIX": ""}, ["E005"]),
        ({"LEASE": 0}, ["E006"]),
        ({"BEAT": 0}, ["E007"]),
        ({"LEDGER_TIMEOUT": 0}, ["E008"]),
        ({"LEASE": 5}, ["E009"]),
        ({"MAX_CONNECTIONS": -1}, ["E010"]),
        ({"WARN_AT": 0}, ["E011"]),
        ({"WHEN_LEDGER_DOWN": "no"}, ["E012"]),
        ({"EXPECTED_WORKERS": 0}, ["E013"]),
        ({"RETRY_AFTER": 5}, ["E014"]),
        ({"REFUSE_WITH": "no"}, ["E015"]),
        ({"CLOSE_CODE": 1006}, ["E016"]),
        ({"CLOSE_REASON": 5}, ["E017"]),
        ({"POOLS": 5}, ["E018"]),
        ({"POOLS": {"chat": {"WARN_AT": 2, "WARN": 1}}, "BEAT": 6, "LIMIT": 1}, ["E002", "E002", "E011", "E009"]),
    ],
)
def test_settings(settings, keys, expected):
    settings.CHANNELS_ADMISSION = {**REDIS, **keys}
    assert ids() == expected
    assert all(message.is_serious() and message.hint for message in messages())


def test_settings_that_are_no_dict(settings):
    settings.CHANNELS_ADMISSION = "redis://h"
    assert ids() == ["E001"]


def test_a_command_shows_message_hint_and_id(settings):
    settings.CHANNELS_ADMISSION = {**REDIS, "MAX_CONNECTION": 5}
    with pytest.raises(SystemCheckError) as caught:
        call_command("check", tags=[ours.TAG], stdout=StringIO(), stderr=StringIO())
    told = str(caught.value)
    assert "(channels_admission.E002) CHANNELS_ADMISSION has no key 'MAX_CONNECTION'." in told
    assert "Did you mean 'MAX_CONNECTIONS'?" in told
    assert "HINT: Keys: BEAT, CLOSE_CODE" in told


# The memory ledger in production


@pytest.mark.parametrize(
    ("debug", "keys", "expected"),
    [
        (False, {"LEDGER": "memory"}, ["W001"]),
        (False, {}, ["W001"]),
        (False, {"LEDGER": {"BACKEND": "memory"}}, ["W001"]),
        (False, {"LEDGER": {"BACKEND": "redis"}}, []),
        (False, {"LEDGER": "memory", "ENABLED": False}, []),
        (False, {"LEDGER": "memory", "WARN_AT": 5}, ["E011"]),
        (True, {"LEDGER": "memory"}, []),
        (True, {}, []),
    ],
)
def test_the_memory_ledger_is_for_development(settings, debug, keys, expected):
    settings.DEBUG = debug
    settings.CHANNELS_ADMISSION = keys
    assert ids() == expected


def test_a_channel_layer_in_redis_is_enough(settings):
    settings.CHANNELS_ADMISSION = {}
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer"}}
    assert messages() == []


# A channel layer that loses its idle consumers

WITHOUT = "redis://h"
WITH = {"address": "redis://h", "socket_timeout": None}


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ([WITHOUT], ["W002"]),
        ([("h", 6379)], ["W002"]),
        ([{"address": WITHOUT}], ["W002"]),
        ([{"host": "h", "port": 6379}], ["W002"]),
        ([WITH, WITHOUT], ["W002"]),
        ([], ["W002"]),
        (None, ["W002"]),
        ([WITH], []),
        ([WITH, {"host": "h", "socket_timeout": 20}], []),
        (["redis://h?socket_timeout=20"], []),
        ([{"address": "redis://h?socket_timeout=20"}], []),
    ],
)
def test_redis_py_8_needs_a_timeout_of_ones_own(settings, monkeypatch, hosts, expected):
    monkeypatch.setattr(ours, "version", {"redis": "8.1.0"}.__getitem__)
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": LAYER, "CONFIG": {"hosts": hosts}}}
    assert ids() == expected
    assert not any(message.is_serious() for message in messages())


@pytest.mark.parametrize(("version", "expected"), [("7.4.0", []), ("8.0.0", ["W002"]), ("10.0.1", ["W002"])])
def test_an_older_redis_py_needs_none(settings, monkeypatch, version, expected):
    monkeypatch.setattr(ours, "version", {"redis": version}.__getitem__)
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": LAYER}}
    assert ids() == expected


@pytest.mark.parametrize(
    "layers",
    [
        {},
        {"other": {"BACKEND": LAYER}},
        {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
        {"default": {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"hosts": [WITHOUT]}}},
    ],
)
def test_other_channel_layers_need_none(settings, monkeypatch, layers):
    monkeypatch.setattr(ours, "version", {"redis": "8.1.0"}.__getitem__)
    settings.CHANNEL_LAYERS = layers
    assert messages() == []


# The mixin


@pytest.fixture
def classes():
    """A list for classes that a test defines; afterwards they are gone."""
    defined: list[type] = []
    yield defined
    left = [weakref.ref(cls) for cls in defined]
    defined.clear()
    gc.collect()
    assert [cls() for cls in left] == [None] * len(left)


@pytest.mark.parametrize("consumer", [AsyncWebsocketConsumer, SyncConsumer])
def test_the_mixin_on_the_right_limits_nothing(classes, consumer):
    classes.append(type("Chat", (consumer, AdmissionMixin), {"__module__": "shop.consumers"}))
    (message,) = messages()
    assert message.id == "channels_admission.E020"
    assert message.is_serious()
    assert message.msg == "shop.consumers.Chat is not limited: AdmissionMixin stands right of the consumer class."
    assert message.hint == "Write class Chat(AdmissionMixin, …Consumer), the mixin first."
    del message


def test_the_mixin_on_the_left_is_right(classes):
    classes.append(type("Chat", (AdmissionMixin, AsyncWebsocketConsumer), {}))
    classes.append(type("Room", (classes[0],), {}))
    classes.append(type("Base", (AdmissionMixin,), {}))
    assert messages() == []


def test_every_class_is_named_once(classes):
    classes.append(type("One", (AdmissionMixin,), {}))
    classes.append(type("Two", (AdmissionMixin,), {}))
    classes.append(type("Chat", (AsyncWebsocketConsumer, classes[0], classes[1]), {}))
    classes.append(type("Room", (classes[2],), {}))
    found = messages()
    assert [message.id for message in found] == ["channels_admission.E020"] * 2
    assert sorted(message.hint.split("(")[0] for message in found) == ["Write class Chat", "Write class Room"]


def test_consumers_are_found_through_the_asgi_application(classes, settings, monkeypatch, tmp_path):
    (tmp_path / "served_chat.py").write_text(
        "from channels.generic.websocket import AsyncWebsocketConsumer\n"
        "from channels_admission.consumers import AdmissionMixin\n"
        "class Chat(AsyncWebsocketConsumer, AdmissionMixin): pass\n"
        "application = Chat.as_asgi()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert messages() == []
    settings.ASGI_APPLICATION = "served_chat.application"
    assert ids() == ["E020"]
    classes.append(sys.modules.pop("served_chat").Chat)


@pytest.mark.parametrize("source", ["import no_such_module\n", "raise RuntimeError\n", "", None])
def test_an_application_that_cannot_be_imported_is_for_the_server_to_tell(settings, monkeypatch, tmp_path, source):
    if source is not None:
        (tmp_path / "broken_app.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    settings.ASGI_APPLICATION = "broken_app.application"
    assert messages() == []
    sys.modules.pop("broken_app", None)


def test_the_middleware_is_no_consumer():
    AdmissionMiddleware(None)
    assert messages() == []


# Daphne


@pytest.fixture
def protocol(monkeypatch):
    """The protocol class of a Daphne that is loaded, and that closes without a reason."""

    class WebSocketProtocol:
        STATE_CONNECTING = 0

        def serverClose(self, code=None):  # noqa: N802
            pass

        def sendCloseFrame(self, code, reasonUtf8):  # noqa: N802, N803
            pass

        def handle_reply(self, message):
            pass

    monkeypatch.setitem(sys.modules, "daphne.ws_protocol", SimpleNamespace(WebSocketProtocol=WebSocketProtocol))
    monkeypatch.setattr(ours, "version", {"daphne": "9.9.9"}.__getitem__)
    return WebSocketProtocol


def test_a_daphne_like_the_known_one_is_extended(protocol):
    assert messages() == []


def test_a_daphne_that_can_close_with_a_reason_is_left_alone(protocol):
    def server_close(self, code=None, reason=None):
        pass

    protocol.serverClose = server_close
    del protocol.sendCloseFrame
    assert messages() == []
    assert protocol.serverClose is server_close


@pytest.mark.parametrize("missing", ["sendCloseFrame", "handle_reply", "STATE_CONNECTING"])
def test_another_daphne_is_told(protocol, missing):
    delattr(protocol, missing)
    (message,) = messages()
    assert message.id == "channels_admission.W003"
    assert not message.is_serious()
    assert message.msg == ("Daphne 9.9.9 cannot be taught to send close code 1013: clients see 1011 without a reason.")
    assert "['CLOSE_CODE'] to a private code such as 4013" in message.hint


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"RAMP": 10}, ["W004"]),
        ({"CONNECT_BURST": 10}, ["W004"]),
        ({"RAMP": 10, "CONNECT_BURST": 10, "CONNECT_RATE": 10}, []),
        ({"RAMP": 10, "CONNECT_RATE": 10, "POOLS": {"chat": {"CONNECT_RATE": None}}}, ["W004"]),
        ({"CONNECT_RATE": 10}, []),
    ],
)
def test_a_ramp_or_a_burst_without_a_rate(settings, keys, expected):
    settings.CHANNELS_ADMISSION = {**REDIS, **keys}
    assert ids() == expected

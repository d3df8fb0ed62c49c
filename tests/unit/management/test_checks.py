"""The system checks: exactly which messages each situation gives."""

import gc
import re
import subprocess
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

from channels_admission import conf
from channels_admission.consumers import AdmissionMixin
from channels_admission.management import checks as ours
from channels_admission.management import layers as of_layers
from channels_admission.management import memory, routing
from channels_admission.middleware import AdmissionMiddleware
from channels_admission.overload import monitors

from demo.servers import TESTPROJECT, environment

ROOT = TESTPROJECT.parent
REDIS = {"LEDGER": "redis://127.0.0.1:6390/0"}
LAYER = "channels_redis.core.RedisChannelLayer"


@pytest.fixture(autouse=True)
def _quiet(settings, monkeypatch):
    """A project about which there is nothing to say, in a process without Daphne."""
    settings.CHANNELS_ADMISSION = REDIS
    settings.CHANNEL_LAYERS = {}
    settings.ASGI_APPLICATION = None
    settings.ROOT_URLCONF = "urls"
    monkeypatch.delitem(sys.modules, "daphne.ws_protocol", raising=False)
    monkeypatch.setattr(memory.Memory, "total", lambda self: 1 << 40)
    allow(monkeypatch, None, None)


def allow(monkeypatch, soft: int | None, hard: int | None, greatest: int | None = 1_048_576) -> None:
    """Let this be the limits of open files."""
    for name, value in {"allowed": soft, "ceiling": hard, "greatest": greatest}.items():
        monkeypatch.setattr(monitors.Descriptors, name, lambda self, value=value: value)


def messages(deploy: bool = False) -> list[checks.CheckMessage]:
    return checks.run_checks(tags=[ours.TAG], include_deployment_checks=deploy)


def ids(deploy: bool = False) -> list[str]:
    return [message.id.removeprefix("channels_admission.") for message in messages(deploy)]


@pytest.mark.parametrize("name", ["CHANNEL_ADMISSION", "CHANNELS_ADMISION", "CHANNELS_ADMISSIONS"])
def test_a_setting_of_another_name_is_told(settings, name):
    del settings.CHANNELS_ADMISSION
    assert "W023" not in ids()
    setattr(settings, name, REDIS)
    (message,) = (message for message in messages() if message.id == "channels_admission.W023")
    assert message.msg == f"The settings have {name}, but no CHANNELS_ADMISSION: all defaults are in force."
    assert message.hint == "Name it CHANNELS_ADMISSION."
    settings.CHANNELS_ADMISSION = REDIS
    assert messages() == []


def test_nothing_to_say():
    assert messages() == []


def test_the_test_project_is_sound(settings):
    settings.ASGI_APPLICATION = "project.asgi.application"
    assert messages() == []


def test_a_quota_that_closes_the_oldest_needs_a_rate(settings):
    oldest = {"key": "user", "max": 3, "full": "oldest"}
    settings.CHANNELS_ADMISSION = {**REDIS, "QUOTAS": [oldest], "POOLS": {"chat": {"QUOTAS": [{**oldest, "rate": 1}]}}}
    (message,) = messages()
    assert message.id == "channels_admission.W070"
    assert "'user' of the pool 'default'" in message.msg


def test_no_id_is_used_twice_and_each_is_in_the_documents():
    used = [
        *(f"channels_admission.{key.id}" for key in conf.KEYS),
        *(f"channels_admission.{check}" for check in ("E001", "E002", conf.TERMS_ID, conf.POOLS_ID)),
        ours.MEMORY_IN_PRODUCTION,
        of_layers.LAYER_WITHOUT_TIMEOUT,
        ours.DAPHNE_NOT_EXTENDED,
        routing.MIXIN_ON_THE_RIGHT,
        routing.POOL_UNKNOWN,
        routing.USER_UNKNOWN,
        routing.SLOT_FOR_EACH_STREAM,
        routing.POOL_WITHOUT_SLOTS,
        ours.PACE_WITHOUT_RATE,
        ours.SOFT_LIMIT_TOO_LOW,
        ours.HARD_LIMIT_TOO_LOW,
        memory.MEMORY_TOO_SMALL,
        of_layers.LAYER_IN_MEMORY,
        of_layers.LAYER_ENDS_CONSUMERS,
        ours.METRICS_WITHOUT_LIBRARY,
        ours.FILES_NOT_COLLECTED,
        ours.SHARES_WITHOUT_CLASSES,
        ours.MAIL_WITHOUT_ADMINS,
        ours.OLDEST_WITHOUT_RATE,
    ]
    assert len(used) == len(set(used))
    texts = "".join(page.read_text() for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")))
    missing = [each for each in used if f"`{each.removeprefix('channels_admission.')}`" not in texts]
    assert missing == []


# Settings


@pytest.mark.parametrize(
    ("old", "new"), [("BEAT", "HEARTBEAT"), ("RAMP", "SLOW_START"), ("SHED_PER_BEAT", "SHED_PER_HEARTBEAT")]
)
def test_an_earlier_name_of_a_key_is_answered_with_the_one_it_has_now(settings, old, new):
    settings.CHANNELS_ADMISSION = {**REDIS, old: 3}
    (message,) = messages()
    assert message.id == "channels_admission.E002"
    assert f"has no key {old!r}: it was renamed {new!r}." in message.msg


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, []),
        ({"NO_SUCH": 1}, ["E002"]),
        ({"ENABLED": 1}, ["E003"]),
        ({"LEDGER": "nowhere"}, ["E004"]),
        ({"PREFIX": ""}, ["E005"]),
        ({"LEASE": 0}, ["E006"]),
        ({"HEARTBEAT": 0}, ["E007"]),
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
        ({"POOLS": {"chat": {"WARN_AT": 2, "WARN": 1}}, "HEARTBEAT": 6, "LIMIT": 1}, ["E002", "E002", "E011", "E009"]),
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
    assert "HINT: Known keys: ACCEPT_DEADLINE, ALERTS, BALANCER_RETRIES, CLASSIFY, " in told


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
    monkeypatch.setattr(of_layers, "version", {"redis": "8.1.0"}.__getitem__)
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": LAYER, "CONFIG": {"hosts": hosts}}}
    assert ids() == expected
    assert not any(message.is_serious() for message in messages())


@pytest.mark.parametrize(("version", "expected"), [("7.4.0", []), ("8.0.0", ["W002"]), ("10.0.1", ["W002"])])
def test_an_older_redis_py_needs_none(settings, monkeypatch, version, expected):
    monkeypatch.setattr(of_layers, "version", {"redis": version}.__getitem__)
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
    monkeypatch.setattr(of_layers, "version", {"redis": "8.1.0"}.__getitem__)
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
    assert message.msg == "shop.consumers.Chat is not limited: AdmissionMixin comes after the consumer class."
    assert message.hint == "Write class Chat(AdmissionMixin, …Consumer), with the mixin first."
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
    assert message.msg == "Daphne 9.9.9 cannot be patched to send close code 1013: clients get 1011 without a reason."
    assert "['CLOSE_CODE'] to a private code that this Daphne can send, such as 4013" in message.hint


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"SLOW_START": 10}, ["W004"]),
        ({"CONNECT_BURST": 10}, ["W004"]),
        ({"SLOW_START": 10, "CONNECT_BURST": 10, "CONNECT_RATE": 10}, []),
        ({"SLOW_START": 10, "CONNECT_RATE": 10, "POOLS": {"chat": {"CONNECT_RATE": None}}}, ["W004"]),
        ({"CONNECT_RATE": 10}, []),
    ],
)
def test_a_ramp_or_a_burst_without_a_rate(settings, keys, expected):
    settings.CHANNELS_ADMISSION = {**REDIS, **keys}
    assert ids() == expected


def test_what_is_without_effect_is_named_and_nothing_else(settings):
    settings.CHANNELS_ADMISSION = {**REDIS, "CONNECT_BURST": 10}
    (message,) = messages()
    assert message.msg == "CONNECT_BURST without effect in the pool 'default': it has no CONNECT_RATE."


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"SHARES": {"member": 0.9}}, ["W010"]),
        ({"SHARES": {"member": 0.9}, "CLASSIFY": f"{__name__}.ids"}, []),
        ({"SHARES": {}}, []),
        ({"POOLS": {"chat": {"SHARES": {"member": 0.9}}}}, ["W010"]),
    ],
)
def test_shares_without_classes(settings, keys, expected):
    settings.CHANNELS_ADMISSION = {**REDIS, **keys}
    assert ids() == expected


@pytest.mark.parametrize(
    ("alerts", "admins", "expected"),
    [
        ({"MAIL_ADMINS": True}, [], ["W013"]),
        ({"MAIL_ADMINS": True}, [("Ann", "ann@example.org")], []),
        ({"MAIL_ADMINS": False}, [], []),
        ({"WEBHOOK": "https://example.org"}, [], []),
    ],
)
def test_alerts_by_mail_without_recipients(settings, alerts, admins, expected):
    settings.CHANNELS_ADMISSION = {**REDIS, "ALERTS": alerts}
    settings.ADMINS = admins
    assert ids() == expected


# Open files

NEEDED = 6018
"""For 5,000 connections."""


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        (1024, 524_288, ["W005"]),
        (NEEDED - 1, NEEDED, ["W005"]),
        (1024, None, ["W005"]),
        (1024, NEEDED - 1, ["W006"]),
        (1024, 1024, ["W006"]),
        (NEEDED, NEEDED, []),
        (None, None, []),
        (None, 1024, []),
    ],
)
def test_open_files_for_a_worker_s_part(settings, monkeypatch, soft, hard, expected):
    allow(monkeypatch, soft, hard)
    assert ids() == expected
    settings.DEBUG = True
    assert ids() == []


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"ENABLED": False}, []),
        ({"MAX_CONNECTIONS": -1}, ["E010"]),
        ({"EXPECTED_WORKERS": 7}, []),
        ({"EXPECTED_WORKERS": 6}, ["W005"]),
        ({"PRESSURE": {"descriptors": None}, "MAX_CONNECTIONS": 1024 - 115}, []),
        ({"PRESSURE": {"descriptors": None}, "MAX_CONNECTIONS": 1025 - 115}, ["W005"]),
        ({"MAX_CONNECTIONS": 500, "POOLS": {"a": {}, "b": {}}}, []),
        ({"MAX_CONNECTIONS": 500, "POOLS": {"a": {"MAX_CONNECTIONS": 1000}}}, ["W005"]),
    ],
)
def test_a_part_is_of_the_greatest_pool_by_the_workers(settings, monkeypatch, keys, expected):
    allow(monkeypatch, 1024, 524_288)
    settings.CHANNELS_ADMISSION = {**REDIS, **keys}
    assert ids() == expected


def test_the_hint_has_the_lines_to_write(monkeypatch):
    allow(monkeypatch, 1024, 524_288)
    (message,) = messages()
    assert not message.is_serious()
    assert message.msg == (
        "A process may open at most 1,024 files here, but a worker needs 6,018 for its part of the limit, 5,000 "
        "connections. It will refuse clients while the pool has room."
    )
    assert message.hint.startswith(
        "Write LimitNOFILE=6144 under [Service] in the workers' systemd unit, or 'www-data soft nofile 6144' and "
        "'www-data hard nofile 6144' in /etc/security/limits.conf"
    )


@pytest.mark.parametrize(
    ("greatest", "first"),
    [(6143, "Set fs.nr_open = 6144 with sysctl first. Write LimitNOFILE=6144"), (6144, "Write LimitN"), (None, "Wr")],
)
def test_a_hard_limit_may_have_one_of_the_system_above_it(monkeypatch, greatest, first):
    allow(monkeypatch, 1024, 4096, greatest)
    (message,) = messages()
    assert message.msg.startswith(
        "A process may open at most 4,096 files here, even with its soft limit raised, but a worker needs 6,018"
    )
    assert message.hint.startswith(first)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of open files are read on Linux")
@pytest.mark.parametrize(
    ("limit", "debug", "expected"),
    [("-n 256", False, {"W006"}), ("-Sn 256", False, {"W005"}), ("-n 256", True, set()), ("-n 512", False, set())],
)
def test_a_process_under_a_real_limit(tmp_path, limit, debug, expected):
    (tmp_path / "production.py").write_text(f"from project.settings import *\nDEBUG = {debug}\n")
    env = environment("redis://127.0.0.1:1/0", {"MAX_CONNECTIONS": 300})
    env = {**env, "PYTHONPATH": f"{tmp_path}:{env['PYTHONPATH']}", "DJANGO_SETTINGS_MODULE": "production"}
    command = f"ulimit {limit} && exec {sys.executable} manage.py check --tag channels_admission"
    told = subprocess.run(["bash", "-c", command], cwd=TESTPROJECT, env=env, capture_output=True, text=True, check=True)
    assert set(re.findall(r"\(channels_admission\.(\w+)\)", told.stderr)) == expected
    assert ("LimitNOFILE=1024" in told.stderr) == bool(expected)


# Static files


@pytest.fixture
def storage(settings, tmp_path):
    """Uses a storage of static files by its name, with nothing collected."""

    def use(name: str) -> None:
        settings.STORAGES = {
            **settings.STORAGES,
            "staticfiles": {"BACKEND": f"django.contrib.staticfiles.storage.{name}"},
        }

    settings.STATIC_ROOT = tmp_path
    return use


def test_a_manifest_without_the_files_of_the_package(settings, storage):
    storage("ManifestStaticFilesStorage")
    (told,) = (message for message in messages(deploy=True) if message.id == "channels_admission.W012")
    assert told.msg == (
        "The manifest of static files has no 'channels_admission/admission-socket.classic.js': a page with "
        "{% admission_socket %} fails, or its browser says 'AdmissionSocket is not defined'. The status page in the "
        "admin lacks its files as well."
    )
    assert told.hint == (
        "Run manage.py collectstatic where the site is built. If the site uses neither, add 'channels_admission.W012' "
        "to SILENCED_SYSTEM_CHECKS."
    )
    assert "W012" not in ids()
    settings.DEBUG = True
    assert "W012" not in ids(deploy=True)


def test_collected_files_and_storages_without_a_manifest_are_sound(storage):
    storage("ManifestStaticFilesStorage")
    call_command("collectstatic", interactive=False, verbosity=0)
    # As another process does, which reads the manifest when it starts.
    for name in ("ManifestStaticFilesStorage", "StaticFilesStorage"):
        storage(name)
        assert "W012" not in ids(deploy=True)


def test_a_manifest_that_cannot_be_read_is_left_to_django(storage, tmp_path):
    (tmp_path / "staticfiles.json").write_text("{")
    storage("ManifestStaticFilesStorage")
    assert "W012" not in ids(deploy=True)


# A channel layer that ends its consumers with its Redis


@pytest.mark.parametrize(
    ("hosts", "keys", "debug", "expected"),
    [
        (["redis://h/1"], {}, False, ["W011"]),
        ([("127.0.0.1", 6390)], REDIS, False, ["W011"]),
        (["redis://other:6390", {"address": "redis://:secret@127.0.0.1:6390/7"}], REDIS, False, ["W011"]),
        (["unix:///run/redis"], {"LEDGER": "unix:///run/redis?db=3"}, False, ["W011"]),
        (None, {}, False, ["W011"]),
        ([{"sentinels": [("h", 26379)], "master_name": "main"}], {}, False, ["W011"]),
        ([("127.0.0.1", 6391)], REDIS, False, []),
        ([("h", 6390)], REDIS, False, []),
        (["not a host"], REDIS, False, []),
        (["redis://h/1"], {"LEDGER": "memory"}, True, []),
        (["redis://h/1"], {"ENABLED": False}, False, []),
        (["redis://h/1"], {}, True, []),
    ],
)
def test_a_layer_in_the_ledger_s_redis(settings, monkeypatch, hosts, keys, debug, expected):
    monkeypatch.setattr(of_layers, "version", {"redis": "7.0.0"}.__getitem__)
    settings.CHANNELS_ADMISSION, settings.DEBUG = {"MAX_CONNECTIONS": 50, **keys}, debug
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": LAYER, "CONFIG": {"hosts": hosts}}}
    assert ids(deploy=True) == expected
    assert ids() == []
    settings.CHANNEL_LAYERS["default"]["BACKEND"] = "channels_redis.pubsub.RedisPubSubChannelLayer"
    assert "W011" not in ids(deploy=True)


# A channel layer in memory

IN_MEMORY = {"BACKEND": "channels.layers.InMemoryChannelLayer"}


@pytest.mark.parametrize(
    ("layers", "keys", "debug", "expected"),
    [
        ({"default": IN_MEMORY}, {"EXPECTED_WORKERS": 2}, False, ["W008"]),
        ({"default": IN_MEMORY}, {"POOLS": {"chat": {"EXPECTED_WORKERS": 2}}}, False, ["W008"]),
        ({"default": {"BACKEND": LAYER}, "a": IN_MEMORY, "b": IN_MEMORY}, {"EXPECTED_WORKERS": 2}, False, ["W008"] * 2),
        ({"default": IN_MEMORY}, {"EXPECTED_WORKERS": 2}, True, []),
        ({"default": IN_MEMORY}, {}, False, []),
        ({"default": IN_MEMORY}, {"EXPECTED_WORKERS": -1}, False, ["E013"]),
        ({"default": {"BACKEND": LAYER}}, {"EXPECTED_WORKERS": 2}, False, []),
        ({}, {"EXPECTED_WORKERS": 2}, False, []),
    ],
)
def test_groups_that_end_at_each_process(settings, monkeypatch, layers, keys, debug, expected):
    monkeypatch.setattr(of_layers, "version", {"redis": "7.0.0"}.__getitem__)
    settings.CHANNELS_ADMISSION = {**REDIS, **keys}
    settings.CHANNEL_LAYERS = layers
    settings.DEBUG = debug
    assert ids() == expected
    assert all(message.hint for message in messages())

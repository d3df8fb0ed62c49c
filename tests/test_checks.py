"""What ``manage.py check`` says, id by id."""

import gc
import subprocess
import sys
import textwrap

import pytest
from channels.generic.websocket import AsyncWebsocketConsumer
from django.core import checks

from channels_admission.checks import TAG
from channels_admission.consumers import AdmissionMixin
from channels_admission.servers import daphne

from demo.servers import TESTPROJECT, environment

LAYER = "channels_redis.core.RedisChannelLayer"


def found() -> list[str]:
    return [message.id.removeprefix("channels_admission.") for message in checks.run_checks(tags=[TAG])]


def test_good_settings_are_quiet(admission, settings):
    settings.DEBUG = True
    admission()
    assert found() == []


def test_every_problem_has_the_id_of_its_key_and_a_hint(settings):
    settings.DEBUG = True
    settings.CHANNELS_ADMISSION = {"MAX_CONECTIONS": 5, "WARN_AT": 70, "CLOSE_CODE": 1006}
    messages = checks.run_checks(tags=[TAG])
    assert [message.id[-4:] for message in messages] == ["E002", "E011", "E016"]
    assert "Did you mean 'MAX_CONNECTIONS'?" in messages[0].msg
    assert all(message.hint for message in messages)


@pytest.mark.parametrize(
    ("debug", "ledger", "enabled", "expected"),
    [
        (False, "memory", True, ["W001"]),
        (True, "memory", True, []),
        (False, "memory", False, []),
        (False, "redis://127.0.0.1", True, []),
    ],
)
def test_the_memory_ledger_in_production(admission, settings, debug, ledger, enabled, expected):
    settings.DEBUG = debug
    admission(LEDGER=ledger, ENABLED=enabled)
    assert found() == expected


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ({"BACKEND": LAYER}, ["W002"]),
        ({"BACKEND": LAYER, "CONFIG": {"hosts": ["redis://127.0.0.1"]}}, ["W002"]),
        ({"BACKEND": LAYER, "CONFIG": {"hosts": [{"address": "redis://127.0.0.1"}]}}, ["W002"]),
        ({"BACKEND": LAYER, "CONFIG": {"hosts": [{"address": "redis://127.0.0.1", "socket_timeout": None}]}}, []),
        ({"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer"}, []),
        ({"BACKEND": "channels.layers.InMemoryChannelLayer"}, []),
    ],
)
def test_a_channel_layer_whose_reads_end_with_its_waits(admission, settings, monkeypatch, layer, expected):
    settings.DEBUG = True
    settings.CHANNEL_LAYERS = {"default": layer}
    admission()
    monkeypatch.setattr("channels_admission.checks.version", lambda name: "8.1.0")
    assert found() == expected
    monkeypatch.setattr("channels_admission.checks.version", lambda name: "7.4.0")
    assert found() == []


def test_a_mixin_on_the_right_is_an_error(admission, settings):
    settings.DEBUG = True
    admission()

    class Wrong(AsyncWebsocketConsumer, AdmissionMixin):
        pass

    (message,) = checks.run_checks(tags=[TAG])
    assert message.id == "channels_admission.E020"
    assert f"{Wrong.__qualname__} is not limited" in message.msg
    assert "class Wrong(AdmissionMixin, …Consumer)" in message.hint
    del Wrong
    gc.collect()
    assert found() == []


def test_a_daphne_that_cannot_be_extended_is_a_warning(admission, settings, monkeypatch):
    settings.DEBUG = True
    admission()
    monkeypatch.setattr(daphne, "is_loaded", lambda: True)
    monkeypatch.setattr(daphne, "extend", lambda: False)
    assert found() == ["W003"]
    monkeypatch.setattr(daphne, "extend", lambda: True)
    assert found() == []


def test_the_command_line_names_the_id_and_the_hint(tmp_path):
    env = environment("redis://127.0.0.1:1/0", {"MAX_CONNECTIONS": "many"}, tmp_path / "db.sqlite3")
    command = [sys.executable, "manage.py", "check"]
    ended = subprocess.run(command, cwd=TESTPROJECT, env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "(channels_admission.E010) CHANNELS_ADMISSION['MAX_CONNECTIONS'] must be a whole number" in ended.stderr
    assert "HINT: " in ended.stderr


def test_the_check_finds_consumers_that_only_the_application_imports(tmp_path):
    (tmp_path / "wrong_asgi.py").write_text(
        textwrap.dedent("""
            from channels.generic.websocket import WebsocketConsumer
            from channels_admission.consumers import AdmissionMixin

            class Chat(WebsocketConsumer, AdmissionMixin):
                pass

            application = Chat.as_asgi()
        """)
    )
    (tmp_path / "wrong_settings.py").write_text(
        "from project.settings import *\nASGI_APPLICATION = 'wrong_asgi.application'\n"
    )
    env = environment("redis://127.0.0.1:1/0", {}, tmp_path / "db.sqlite3")
    env |= {"DJANGO_SETTINGS_MODULE": "wrong_settings", "PYTHONPATH": f"{tmp_path}:{env['PYTHONPATH']}"}
    command = [sys.executable, "manage.py", "check"]
    ended = subprocess.run(command, cwd=TESTPROJECT, env=env, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "(channels_admission.E020) wrong_asgi.Chat is not limited" in ended.stderr


class TestDaphne:
    """The extension of the Daphne that is installed, on its class alone."""

    @pytest.fixture
    def protocol(self, monkeypatch):
        """A class that Daphne's could be, in its place."""
        ws_protocol = pytest.importorskip("daphne.ws_protocol")
        original = ws_protocol.WebSocketProtocol

        class Protocol:
            STATE_CONNECTING = 1
            state = 3
            handle_reply = original.handle_reply

            def __init__(self):
                self.frames = []

            def serverClose(self, code=None):  # noqa: N802
                raise AssertionError("the close without a reason")

            def sendCloseFrame(self, code, reasonUtf8):  # noqa: N802, N803
                self.frames.append((code, reasonUtf8))

        monkeypatch.setattr(ws_protocol, "WebSocketProtocol", Protocol)
        return Protocol

    def test_codes_and_reasons_pass(self, protocol):
        assert not daphne.can_close_with_reason()
        assert daphne.extend()
        assert daphne.extend()
        connection = protocol()
        connection.handle_reply({"type": "websocket.close", "code": 1013, "reason": "ä" * 100})
        connection.handle_reply({"type": "websocket.close"})
        assert connection.frames == [(1013, ("ä" * 61).encode()), (1000, b"")]
        with pytest.raises(ValueError, match="invalid close code 1006"):
            connection.handle_reply({"type": "websocket.close", "code": 1006})

    def test_an_unknown_daphne_is_left_alone(self, protocol):
        del protocol.sendCloseFrame
        before = protocol.handle_reply
        assert not daphne.extend()
        assert protocol.handle_reply is before

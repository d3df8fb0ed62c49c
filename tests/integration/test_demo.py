"""The demo does what the README says, with every server."""

import os
import re
import shlex
import subprocess
import sys

import psutil
import pytest
import redis

from demo.servers import SERVING, TESTPROJECT


def demo_once(*args, **env):
    """The output of ``demo --once``, which has ended well."""
    command = [sys.executable, "manage.py", "demo", "--once", *args]
    env = {**os.environ, **env}
    ended = subprocess.run(command, cwd=TESTPROJECT, env=env, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "closed with 1013 Try Again Later; retry-after=N   150" in ended.stdout
    assert "50 of 50 slots held, 0 free" in ended.stdout
    assert "✓ The limit held" in ended.stdout
    return ended.stdout


@pytest.mark.parametrize("server", ["hypercorn", "granian"])
def test_the_demo_ends_by_itself_with_the_limit_held(server):
    assert "Starting redis-server and 3" in demo_once("--server", server)


def test_the_demo_uses_a_given_redis_and_leaves_no_key_of_its_own_behind(redis_server, tmp_path):
    said = demo_once("--server", "daphne", "--redis", redis_server.url, PATH=str(tmp_path))
    assert "Starting 3 daphne workers" in said
    with redis.Redis.from_url(redis_server.url, decode_responses=True) as client:
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] > 0
        assert list(client.scan_iter(match="demo-*")) == []


def test_the_list_of_servers_is_the_one_that_is_tested():
    assert set(SERVING) == {"uvicorn", "daphne", "hypercorn", "granian"}


def test_the_demo_goes_on_without_a_worker_that_was_killed_and_prints_a_herd_that_comes_back():
    small = ["--workers", "2", "--clients", "10", "--limit", "5", "--herd-limit", "60", "--rate", "100"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    # As narrow as a terminal is: the command is one line all the same.
    command, env = [sys.executable, "-u", "manage.py", "demo", *small], {**os.environ, "COLUMNS": "80"}
    with subprocess.Popen(command, cwd=TESTPROJECT, env=env, text=True, **pipes) as demo:
        lines = iter(demo.stdout.readline, "")
        printed = next(line for line in lines if line.startswith("A herd"))
        next(line for line in lines if line.startswith("Ctrl-C"))
        herd = shlex.split(printed.removeprefix("A herd"))
        assert herd[2:] == ["ws_herd", herd[3], "--clients", "40", "--rate", "100"]
        came = subprocess.run(herd, cwd=TESTPROJECT, env=env, capture_output=True, text=True, timeout=120)
        assert (came.returncode, came.stderr, "…" in came.stdout) == (0, "", False)
        assert re.findall(r"^(\S+) +40 .* \d+\.\d s +\d+ +\d+ +\d+ *$", came.stdout, re.MULTILINE) == [
            "hint", "full-jitter", "doubling",
        ]  # fmt: skip
        workers = [child for child in psutil.Process(demo.pid).children() if "uvicorn" in child.cmdline()]
        for left, worker in enumerate(workers[::-1]):
            worker.kill()
            told = f"Worker {worker.pid} has ended, and its slots come back. Workers left: {1 - left}.\n"
            assert next(lines) == told
        _, error = demo.communicate(timeout=30)
        assert demo.returncode == 1
        assert error.startswith("CommandError: Every worker has ended.")

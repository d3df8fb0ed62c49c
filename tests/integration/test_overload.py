"""Ten times as many clients as there are slots keep knocking: those inside hardly notice."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager

import psutil
import pytest
import redis

from demo.servers import Workers
from support import TESTS
from support.clients import look

LIMIT = 50
KNOCKING = 10 * LIMIT
"""Clients, each of which opens a WebSocket once a second."""
ECHOES = 4
"""A second and client."""
CALLS = 60
"""To the ledger, a second and worker."""
GROWTH = 20 * 2**20
LOAD = TESTS / "support" / "load.py"
OURS = "admission: "
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"ours": {"format": f"{OURS}%(message)s"}},
    "handlers": {
        "all": {"class": "logging.StreamHandler"},
        "ours": {"class": "logging.StreamHandler", "formatter": "ours"},
    },
    "loggers": {
        "uvicorn.error": {"level": "INFO", "handlers": ["all"]},
        "channels_admission": {"level": "INFO", "handlers": ["ours"], "propagate": False},
    },
}
pytestmark = [pytest.mark.fault, pytest.mark.alone]


@contextmanager
def load(*arguments: object, nice: int = 0):
    """A process of load.py, ended with the block."""
    command = [sys.executable, str(LOAD), *map(str, arguments)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, preexec_fn=lambda: os.nice(nice), **pipes) as process:
        try:
            yield process
        finally:
            process.kill()


def heard(process: subprocess.Popen) -> object:
    return json.loads(process.stdout.readline())


def measured(echo: subprocess.Popen, seconds: float) -> dict[str, float]:
    echo.stdin.write(f"{seconds}\n")
    echo.stdin.flush()
    return heard(echo)


@pytest.fixture
def workers(admission, prefix, redis_server, tmp_path):
    keys = {"MAX_CONNECTIONS": LIMIT, "LEDGER": redis_server.url, "PREFIX": prefix}
    admission(**keys)
    logging = tmp_path / "logging.json"
    logging.write_text(json.dumps(LOGGING))
    args = ["--ws", "websockets-sansio", "--log-config", str(logging)]
    with Workers("uvicorn", 2, redis_url=redis_server.url, settings=keys, args=args, shared_port=False) as workers:
        yield workers


@pytest.fixture
def calls(redis_server):
    """``calls()``: how often any ledger script has run so far."""
    with redis.Redis.from_url(redis_server.url) as client:
        yield lambda: client.info("commandstats")["cmdstat_evalsha"]["calls"]


@pytest.mark.parametrize("seconds", [5, pytest.param(30, marks=pytest.mark.long)])
async def test_those_inside_are_served_while_ten_times_as_many_knock(workers, calls, figures, seconds):
    ports = ",".join(map(str, workers.ports))
    processes = [psutil.Process(pid) for pid in workers.pids]
    with load("echo", ports, LIMIT, ECHOES) as echo:
        assert heard(echo) == "open"
        idle = measured(echo, seconds)
        # Two cores are shared by the workers, Redis and their clients; what matters is the workers' part.
        with load("storm", ports, KNOCKING, seconds + 4, nice=10) as storm:
            time.sleep(2)
            started, before = time.monotonic(), calls()
            memory = [process.memory_info().rss for process in processes]
            lines = [log.read_text().count(OURS) for log in workers.logs]
            busy = measured(echo, seconds)
            made = calls() - before
            growth = max(process.memory_info().rss - size for process, size in zip(processes, memory, strict=True))
            lines = max(log.read_text().count(OURS) - count for log, count in zip(workers.logs, lines, strict=True))
            elapsed = time.monotonic() - started  # with all that was counted
            rate = made / elapsed / workers.count
            codes = heard(storm)
    pool = await look()
    figures.note(
        f"{codes.get('1013', 0) / (seconds + 4):.0f} handshakes a second knock at {LIMIT} full slots for {seconds} s",
        f"echo p99 at most 3 × idle, {CALLS} ledger calls a second and worker, 20 MB and one log line a second more",
        f"echo p50 {idle['p50']:.1f} ms and p99 {idle['p99']:.1f} ms idle, {busy['p50']:.1f} and {busy['p99']:.1f} ms "
        f"meanwhile; {rate:.0f} calls, {growth / 2**20:.1f} MB, {lines / elapsed:.1f} lines a second",
    )
    assert set(codes) == {"1013"}
    assert pool.admitted == LIMIT
    assert rate <= CALLS
    assert growth <= GROWTH
    assert lines <= elapsed + 1
    if seconds > 5:  # a promise of time is for a machine of its own
        assert busy["p99"] <= 3 * idle["p99"]

"""The demo does what the README says, with every server."""

import subprocess
import sys

import psutil
import pytest

from demo.servers import SERVING, TESTPROJECT


@pytest.mark.parametrize("server", SERVING)
def test_the_demo_ends_by_itself_with_the_limit_held(server):
    command = [sys.executable, "manage.py", "demo", "--once", "--server", server]
    ended = subprocess.run(command, cwd=TESTPROJECT, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "closed with 1013 Try Again Later; retry-after=N   150" in ended.stdout
    assert "50 of 50 slots held, 0 free" in ended.stdout
    assert "✓ The limit held" in ended.stdout


def test_the_demo_goes_on_without_a_worker_that_was_killed():
    command = [sys.executable, "-u", "manage.py", "demo", "--workers", "2", "--clients", "10", "--limit", "5"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=TESTPROJECT, text=True, **pipes) as demo:
        lines = iter(demo.stdout.readline, "")
        next(line for line in lines if line.startswith("Ctrl-C"))
        workers = [child for child in psutil.Process(demo.pid).children() if "uvicorn" in child.cmdline()]
        for left, worker in enumerate(workers[::-1]):
            worker.kill()
            told = f"Worker {worker.pid} has ended, and its slots come back. Workers left: {1 - left}.\n"
            assert next(lines) == told
        _, error = demo.communicate(timeout=30)
        assert demo.returncode == 1
        assert error.startswith("CommandError: Every worker has ended.")

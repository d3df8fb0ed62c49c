"""``python -m benchmarks.starving PID SHARE``: let a process have a small share of a core, by SIGSTOP and SIGCONT.

It ends with its standard input, and then lets the process run. Linux only. It is a process of its own, since a thread
would wait for the interpreter, and the other process would stop or run for too long meanwhile.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TICK = 0.001
MOST = 0.005
"""Seconds of a processor that are saved up at the most, as in a control group."""
LEAST = 0.002
"""Those with which the process goes on."""


def used(pid: int) -> float:
    """Seconds of a processor that the process has used."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


@contextmanager
def starved(pid: int, share: float) -> Iterator[None]:
    """Let the process have ``share`` of a core."""
    command = [sys.executable, "-m", "benchmarks.starving", str(pid), str(share)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout
        process.stdout.readline()
        try:
            yield
        finally:
            process.communicate()


def _starve(pid: int, share: float) -> None:
    credit, at, before, runs = MOST, time.monotonic(), used(pid), True
    while not select.select([sys.stdin], [], [], TICK)[0]:
        now, cost = time.monotonic(), used(pid)
        credit = min(MOST, credit + share * (now - at)) - (cost - before)
        at, before = now, cost
        if runs is (credit < (0 if runs else LEAST)):
            runs = not runs
            os.kill(pid, signal.SIGCONT if runs else signal.SIGSTOP)


def main() -> None:
    pid = int(sys.argv[1])
    print(flush=True)
    try:
        _starve(pid, float(sys.argv[2]))
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


if __name__ == "__main__":
    main()

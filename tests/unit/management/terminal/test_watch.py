"""``ws_status --watch``: what it shows, what it remembers, and how a terminal is after it."""

import asyncio
import codecs
import io
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from channels_admission import conf
from channels_admission.core.levels import Level
from channels_admission.ledger import open_ledger
from channels_admission.management.terminal.watch import KEPT, Frames, Sparkline, fitting
from channels_admission.status.history import History, Series
from channels_admission.status.values import Health, LedgerSnapshot, PoolSnapshot, Snapshot, WorkerSnapshot

from demo.servers import TESTPROJECT, Redis, environment
from support.reports import Reporter
from support.screen import WIDTH, printed

ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"
TOP_LEFT = "\x1b[H"
ROWS = 24
HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)

POOL = PoolSnapshot(
    name="default", held=0, limit=50, free=50, share=0.0, warn_at=0.7, level=Level.CALM, admitted=0,
    refused={}, shed=0, workers=(),
)  # fmt: skip
UP = LedgerSnapshot("redis", "redis://127.0.0.1:6390/0", Health.OK)
DOWN = replace(UP, health=Health.DOWN, error="ConnectionError: nobody there")


def look(second: float, held: int = 0, refused: int = 0, name: str = "default") -> Snapshot:
    pool = replace(POOL, name=name, held=held, free=50 - held, refused={"full": refused})
    return Snapshot(NOON + timedelta(seconds=second), True, UP, (pool,))


def outage(second: float) -> Snapshot:
    return Snapshot(NOON + timedelta(seconds=second), True, DOWN, ())


def shown(*looks: Snapshot, **options) -> list[str]:
    """The last frame of several looks, line by line."""
    seen = Frames()
    frames = [seen.frame(each) for each in looks]
    return printed(frames[-1], **options).splitlines()


def test_the_bars_are_what_was_held_and_what_was_refused_a_second():
    lines = shown(look(0), look(2, 25), look(4, 50, 10), look(6, 40, 50), look(8, 0, 50))
    assert lines[0].split() == ["Every", "2", "s,", "Ctrl-C", "to", "end", "12:00:08", "UTC"]
    assert lines[-5:-2] == [
        "0 admitted and 50 refused so far (50 pool full)",
        f"{'held       ▁▅█▇▁':73}most 50",
        f"{'refused/s   ▁▃█▁':71}most 20.0",
    ]


def test_an_outage_is_a_gap_beside_the_last_numbers_and_ends():
    before = shown(look(0, 25, 5), outage(2))
    assert before[1:4] == [
        "The ledger at redis://127.0.0.1:6390/0 cannot be read: ConnectionError: nobody",
        "there",
        "The numbers below are from 12:00:00 UTC.",
    ]
    assert "25 of 50 slots held, 25 free" in before
    assert any(re.fullmatch(r"Ledger .* Down", line) for line in before)
    after = shown(look(0, 25, 5), outage(2), look(4, 25, 9), look(6, 25, 9))
    assert not any("cannot be read" in line for line in after)
    assert next(line for line in after if line.startswith("held")).split()[1:3] == ["▅", "▅▅"]
    assert next(line for line in after if line.startswith("refused/s")).split()[1:2] == ["▁"]


def test_a_ledger_that_was_never_up_is_told():
    lines = shown(outage(0))
    assert lines[2:] == [
        "The ledger at redis://127.0.0.1:6390/0 cannot be read: ConnectionError: nobody",
        "there",
    ]


def test_counters_that_start_over_are_no_refusals():
    lines = shown(look(0, 0, 500), look(2, 0, 3), look(4, 0, 7))
    assert next(line for line in lines if line.startswith("refused/s")) == f"{'refused/s    █':72}most 2.0"


def test_a_terminal_full_of_looks_is_remembered_and_no_more():
    seen = Frames()
    for second in range(KEPT + 100):
        seen.frame(look(second, 1))
    assert len(seen._trends["default"].samples) == KEPT


def test_each_pool_has_its_own_bars():
    both = [replace(look(second, held), pools=(*look(second, held).pools, *look(second, 50, name="chat").pools))
            for second, held in ((0, 0), (2, 0))]  # fmt: skip
    bars = [line.split()[1] for line in shown(*both) if line.startswith("held")]
    assert bars == ["▁▁", "██"]


def past(step: int, held: list[int | None], full: list[int]) -> Series:
    return Series(step, int(NOON.timestamp()) - step * len(held), tuple(held), (50,) * len(held), (), {"full": full})


def recalled(every: float) -> Frames:
    seen = Frames(every)
    seconds = past(1, [None, None, 10, 20, 25, 25, 50, 50], [0, 0, 0, 0, 4, 0, 2, 2])
    minutes = past(60, [10, 50], [0, 60])
    seen.recall(look(0, 50, 108).pools[0], History("default", int(NOON.timestamp()), seconds, minutes))
    return seen


@pytest.mark.parametrize(
    ("every", "held", "refused"),
    [
        (0.1, [10, 20, 25, 25, 50, 50], [None, 0, 4, 0, 2, 2]),
        (2, [20, 25, 50], [None, 2, 2]),
        (3, [25, 50], [None, 4 / 3]),
        (60, [10, 50], [None, 1]),
        (3600, [], []),
    ],
)
def test_the_bars_begin_with_what_the_ledger_remembers(every, held, refused):
    seen = recalled(every)
    trend = seen._trends["default"]
    assert (trend.held(), trend.refused()) == (held, refused)
    seen.frame(look(2, 50, 112))
    assert trend.held()[-1] == 50
    assert trend.refused()[-1] == (2 if held else None)


@pytest.mark.parametrize(
    ("values", "top", "width", "bars"),
    [
        ([0, 1, 49, 50, 60], 50, 10, "▁▁▇██"),
        ([25, None, 25], 50, 10, "▅ ▅"),
        ([0, 0], 0, 10, "▁▁"),
        (range(100), 100, 4, "▇▇▇▇"),
        ([], 5, 4, ""),
    ],
)
def test_a_whole_bar_is_the_top_and_the_latest_fit_the_width(values, top, width, bars):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(Sparkline(list(values), top))
    assert console.file.getvalue() == f"{bars}\n"


def test_a_terminal_that_knows_only_ascii_gets_ascii():
    raw = io.BytesIO()
    console = Console(file=io.TextIOWrapper(raw, encoding="ascii"), width=10, color_system=None)
    console.print(Sparkline([0, 25, 50, None], 50))
    console.file.flush()
    assert raw.getvalue() == b"_=# \n"


# As a process

SESSION = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
"""Makes a terminal the controlling one, so that Ctrl-C is a signal, and goes on as another command."""


class Terminal:
    """``ws_status --watch`` on a terminal of eighty columns."""

    def __init__(self, url: str, *args: str, prefix: str, **env: str) -> None:
        self.ours, self.theirs = pty.openpty()
        termios.tcsetwinsize(self.theirs, (ROWS, WIDTH))
        self.before = termios.tcgetattr(self.theirs)
        command = [sys.executable, "-c", SESSION, sys.executable, "manage.py", "ws_status", "--watch", "0.2", *args]
        settings = {"LEDGER": url, "PREFIX": prefix, "MAX_CONNECTIONS": 50}
        more = {"TERM": "xterm", **env}
        for name in ("COLUMNS", "LINES", "NO_COLOR"):
            os.environ.pop(name, None)
        self.process = subprocess.Popen(
            command, cwd=TESTPROJECT, env=environment(url, settings, more=more),
            stdin=self.theirs, stdout=self.theirs, stderr=self.theirs, start_new_session=True,
        )  # fmt: skip
        self.written = ""
        # What is read may end in the middle of a bar.
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        os.set_blocking(self.ours, False)

    def until(self, pattern: str, seconds: float = 15) -> None:
        """Read on until what was written since the last such call has the pattern."""
        deadline, start = time.monotonic() + seconds, len(self.written)
        while not re.search(pattern, self.written[start:]):
            if time.monotonic() > deadline:
                raise AssertionError(f"no {pattern!r} in {self.written[start:]!r}")
            self._read()
            time.sleep(0.01)

    def end(self) -> int:
        code = self.process.wait(15)
        self._read()
        return code

    def _read(self) -> None:
        with suppress(BlockingIOError):
            while read := os.read(self.ours, 1 << 20):
                self.written += self._decoder.decode(read)


@contextmanager
def terminal(url: str, *args: str, prefix: str, **env: str):
    screen = Terminal(url, *args, prefix=prefix, **env)
    try:
        yield screen
        assert termios.tcgetattr(screen.theirs) == screen.before
    finally:
        if screen.process.poll() is None:
            screen.process.kill()
            screen.process.wait()
        os.close(screen.ours)
        os.close(screen.theirs)


def tell(admission, url: str, prefix: str, held: int) -> None:
    admission(LEDGER=url, PREFIX=prefix, MAX_CONNECTIONS=50)

    async def report():
        ledger = open_ledger(conf.current())
        await Reporter(ledger, f"{time.monotonic_ns():x}", limit=50).say(held)
        await ledger.aclose()

    asyncio.run(report())


@pytest.mark.integration
@pytest.mark.parametrize(("how", "code"), [("key", 0), ("INT", 0), ("TERM", 143)])
def test_a_terminal_is_as_before_when_it_ends(admission, redis_server, prefix, how, code):
    with terminal(redis_server.url, prefix=prefix) as screen:
        screen.until("0 of 50 slots held")
        tell(admission, redis_server.url, prefix, 7)
        screen.until("7 of 50 slots held")
        if how == "key":
            os.write(screen.ours, b"\x03")
        else:
            screen.process.send_signal(signal.Signals[f"SIG{how}"])
        assert screen.end() == code
        assert screen.written.count(ENTER) == screen.written.count(LEAVE) == 1
        assert screen.written.rindex(SHOW) > screen.written.rindex(HIDE)
        assert "Traceback" not in screen.written
        assert "\x1b[1;32m" in screen.written


def test_a_screen_shows_the_form_that_fits():
    one = look(0, 50)
    workers = tuple(WorkerSnapshot(f"h:{number}:ab", "h", number, "", 1, 0.1, 9.0) for number in range(30))
    pools = tuple(replace(one.pools[0], name=f"pool-{number}", workers=workers) for number in range(3))
    many = replace(one, pools=pools)

    def fitted(height: int, seen: Snapshot) -> list[str]:
        console = Console(file=io.StringIO(), width=WIDTH, height=height, color_system=None)
        return printed(fitting(console, Frames().forms(seen))).splitlines()

    assert sum("of 50 slots held" in line for line in fitted(80, many)) == 3
    for height in (24, 10):
        overview = fitted(height, many)
        assert [line.split()[0] for line in overview[5:8]] == ["pool-0", "pool-1", "pool-2"]
        assert overview[0].startswith("Every 2 s, Ctrl-C to end")
    assert len(fitted(24, replace(one, pools=pools[:1]))) <= 24


@pytest.mark.integration
def test_every_frame_has_its_heading_and_fits_the_screen(redis_server, prefix):
    with terminal(redis_server.url, prefix=prefix) as screen:
        screen.until(r"(?s)0 of 50 slots held.*0 of 50 slots held.*0 of 50 slots held")
        os.write(screen.ours, b"\x03")
        assert screen.end() == 0
    frames = screen.written.split(TOP_LEFT)[1:]
    whole = [frame for frame in frames if "slots held" in frame]
    assert len(whole) >= 3
    assert all("Every 0.2 s, Ctrl-C to end" in frame for frame in whole)
    assert {frame.count("\n") for frame in whole[:-1]} == {ROWS - 1}


@pytest.mark.integration
def test_a_ledger_that_goes_and_comes_back_is_shown_as_such(prefix):
    with Redis() as server, terminal(server.url, "--no-color", prefix=prefix) as screen:
        screen.until("0 of 50 slots held")
        server.stop()
        screen.until("cannot be read: ConnectionError")
        screen.until(r"The numbers below are from \d\d:\d\d:\d\d UTC")
        server.start()
        screen.until(r"Ledger .* (OK|Settling)")
        os.write(screen.ours, b"\x03")
        assert screen.end() == 0
        assert not re.search(r"\x1b\[[\d;]*m", screen.written.replace("\x1b[0m", ""))


@pytest.mark.integration
def test_the_first_frame_shows_the_past(admission, redis_server, prefix):
    tell(admission, redis_server.url, prefix, 7)
    time.sleep(1.1)
    with terminal(redis_server.url, prefix=prefix, TERM="dumb") as screen:
        screen.until(r"(?s)held +\S.*refused/s")
        first = re.search(r"^held +(\S+)", screen.written, re.MULTILINE)
        os.write(screen.ours, b"\x03")
        assert screen.end() == 0
    assert len(first[1]) >= 2


@pytest.mark.integration
@pytest.mark.parametrize("how", ["pipe", "dumb"])
def test_a_pipe_and_a_dumb_terminal_get_frame_after_frame(redis_server, prefix, how):
    if how == "dumb":
        with terminal(redis_server.url, prefix=prefix, TERM="dumb") as screen:
            screen.until(r"(?s)0 of 50 slots held.*0 of 50 slots held")
            os.write(screen.ours, b"\x03")
            assert screen.end() == 0
            assert "\x1b" not in screen.written
        return
    command = [sys.executable, "manage.py", "ws_status", "--watch", "0.1"]
    env = environment(redis_server.url, {"LEDGER": redis_server.url, "PREFIX": prefix, "MAX_CONNECTIONS": 50})
    process = subprocess.Popen(command, cwd=TESTPROJECT, env=env, stdout=subprocess.PIPE, text=True)
    with process:
        lines = [process.stdout.readline() for _ in range(40)]
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 0
    assert sum("0 of 50 slots held, 50 free" in line for line in lines) >= 3
    assert not any("\x1b" in line for line in lines)
    assert max(map(len, lines)) <= WIDTH + 1

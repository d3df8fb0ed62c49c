"""``manage.py ws_status``: what it prints, in which colours, and how it ends."""

import asyncio
import io
import json
import os
import pty
import re
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import fields, replace
from datetime import UTC, datetime

import pytest
import redis
from django.core.management import call_command
from django.core.management.base import CommandError
from django.utils import translation

from channels_admission import __version__, conf
from channels_admission.conf.overload import BUILT_IN
from channels_admission.core.agreement import fingerprint
from channels_admission.core.counters import Reason
from channels_admission.core.levels import Level
from channels_admission.core.readings import Elsewhere, Load, Reading, WorkerReading
from channels_admission.ledger import open_ledger
from channels_admission.management.commands.ws_status import Command
from channels_admission.management.terminal import status as status_report
from channels_admission.management.terminal.layout import duration
from channels_admission.status.history import History, Series
from channels_admission.status.snapshot import _pool
from channels_admission.status.values import (
    Connects,
    Health,
    LedgerCalls,
    LedgerSnapshot,
    PoolSnapshot,
    Second,
    Side,
    Snapshot,
    WorkerSnapshot,
)

from demo.servers import TESTPROJECT, Redis, environment, free_port
from support.reports import Reporter
from support.screen import WIDTH, printed
from support.snapshots import BOUNDS

ESCAPE = "\x1b"


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture
def shared(admission, redis_server):
    """Put settings in force whose ledger is the Redis of this test run, with short heartbeats."""

    def use(**keys):
        return admission(LEDGER=redis_server.url, HEARTBEAT=0.1, LEASE=30, **keys)

    return use


@pytest.fixture
def closed_port():
    return free_port("127.0.0.1")


def tell(worker: str, held: int = 0, *, pool: str = "default", settled: bool = True, **changes) -> None:
    """Report as ``worker``, ``host:pid:nonce``, until the ledger has settled, or just once."""

    async def report():
        ledger = open_ledger(conf.current())
        settings = conf.current().pool(pool)
        reporter = Reporter(ledger, "", limit=settings.max_connections, pool=pool)
        reporter.last = replace(reporter.last, worker=worker, warn_at=settings.warn_at)
        deadline = time.monotonic() + 10
        while (await reporter.say(held, **changes)).settling and settled:
            if time.monotonic() > deadline:
                raise AssertionError("the ledger does not settle")
            await asyncio.sleep(0.02)
        await ledger.aclose()

    asyncio.run(report())


def status(*args: str, **options) -> str:
    out = io.StringIO()
    call_command("ws_status", *args, stdout=out, **options)
    return out.getvalue()


def lines(text: str) -> list[str]:
    """The lines without space at their ends, and with the age of a report, which varies, as ``N.N``."""
    return [re.sub(r"\d\.\d s", "N.N s", line).rstrip() for line in text.splitlines()]


def failure(*args: str) -> tuple[str, CommandError]:
    """What a failing run prints on stdout, and how it fails."""
    out = io.StringIO()
    with pytest.raises(CommandError) as caught:
        call_command("ws_status", *args, stdout=out)
    return out.getvalue(), caught.value


# Made-up snapshots, for what is only shown


def worker(**changes) -> WorkerSnapshot:
    made = WorkerSnapshot(
        id="web-1:4242:ab12", host="web-1", pid=4242, server="uvicorn", held=36, silence=0.4, uptime=7500.0
    )
    return replace(made, **changes)


def pool(**changes) -> PoolSnapshot:
    made = PoolSnapshot(
        name="default", held=36, limit=50, free=14, share=0.72, warn_at=0.7, level=Level.WARNING,
        admitted=412, refused={"full": 148, "ledger": 2}, shed=0, workers=(worker(),),
    )  # fmt: skip
    return replace(made, **changes)


def test_unexpected_errors_are_told_of_the_pool_and_of_each_worker():
    faulty = worker(faults={"OSError": 1200, "PRESSURE.queue": 1})
    faults = {"OSError": 1300, "PRESSURE.queue": 1}
    text = shown(snapshot(pool(faults=faults, workers=(worker(id="web-2:7:ab"), faulty))))
    assert "1,301 unexpected errors" in " ".join(text.split())
    told = [line for line in lines(text) if "has had" in line]
    assert told == ["web-1 4242 has had unexpected errors: 1,200 OSError, 1 PRESSURE.queue"]


def test_workers_of_several_versions_are_told_of_the_pool():
    old, new = worker(release="0.1.0"), worker(id="web-2:7:ab", uptime=5.0, release="0.2.0")
    text = shown(snapshot(pool(workers=(new, old, replace(old, id="web-1:8:ab")))))
    assert "Workers run different versions of channels-admission: 0.1.0 on 2, 0.2.0 on 1" in lines(text)
    assert "versions" not in shown(snapshot(pool(workers=(new, new))))
    text = " ".join(shown(snapshot(pool(elsewhere=Elsewhere(1200, 3)))).split())
    assert "3 workers of another version, not listed here, with 1,200 slots: their counts are kept apart" in text
    assert "another version" not in shown(snapshot(pool()))


def test_handshakes_that_waited_at_the_entrance_are_told_of_the_pool():
    text = " ".join(shown(snapshot(pool(delayed=1400, refused={"entrance": 110}))).split())
    assert "1,400 had to wait at the entrance" in text
    assert "110 refused so far (110 entrance full)" in text
    assert "entrance" not in shown(snapshot(pool()))


def test_the_places_in_the_line_are_told_of_the_pool():
    text = " ".join(shown(snapshot(pool(promised=1400, redeemed=1300, missed=7))).split())
    assert "Places in the line: 1,400 promised, 1,300 redeemed, 7 missed (came too late)" in text
    assert "line" not in shown(snapshot(pool()))


def test_refusals_that_were_held_are_told_of_the_pool():
    text = " ".join(shown(snapshot(pool(refused={"full": 1500}, refusals_held=1400))).split())
    assert "412 admitted and 1,500 refused so far (1,500 pool full), 1,400 refused some seconds later host" in text
    assert "later" not in shown(snapshot(pool()))


def test_events_that_were_dropped_are_told_of_the_pool():
    text = " ".join(shown(snapshot(pool(events_dropped=1300))).split())
    assert text.count("1,300 events dropped") == 1
    assert "dropped" not in shown(snapshot(pool()))


def snapshot(*pools: PoolSnapshot, enabled: bool = True, health: Health = Health.OK) -> Snapshot:
    ledger = LedgerSnapshot("redis", "redis://127.0.0.1:6390/0", health)
    return Snapshot(datetime.now(UTC), enabled, ledger, pools or (pool(),))


def shown(seen: Snapshot, **options) -> str:
    return printed(status_report.status(seen), **options)


# With workers


def test_pools_and_workers_in_eighty_columns(shared, redis_server):
    shared(MAX_CONNECTIONS=50)
    tell("web-2:77:cd", 12, age=7500.0)
    load = (
        Load("lag", 0.012, 0.0), Load("memory", 0.914, 0.64), Load("descriptors", None, 0.0), Load("cpu", 0.05, 0.0),
        Load("queue", 7.0, 1.0),
    )  # fmt: skip
    counters = {"admitted": 1412, "full": 148, "ledger": 2}
    tell("web-1:4242:ab", 24, age=99000.0, server="uvicorn", counters=counters, load=load)
    ledger, *rest = lines(status())
    assert ledger.split() == ["Ledger", "redis", redis_server.url, "OK"]
    assert rest == [
        "",
        "default                                                                  Warning",
        "█" * 52 + "░" * 21 + "   72 %",
        "36 of 50 slots held, 14 free",
        "1,412 admitted and 150 refused so far (148 pool full, 2 ledger away)",
        "Site 965306, settings cf4fb89a",
        "",
        "host                       pid server  held  seen        up   lag  mem files cpu",
        "web-1                     4242 uvicorn   24 N.N s   1 d 3 h 12 ms 91 %     ? 5 %",
        "web-2                       77 -         12 N.N s 2 h 5 min     ?    ?     ?   ?",
        "web-1 4242 refuses 64 % for memory, 100 % for queue",
    ]


@pytest.mark.parametrize(
    ("of_the_pool", "of_a_worker", "expected"),
    [
        ({"overdue": 3}, {}, True),
        ({"dry:overdue": 3}, {}, True),
        ({}, {}, False),
        ({"overdue": 3, "authenticated": 1}, {}, False),
        ({"overdue": 3}, {"authenticated": 1}, False),  # the pool's counters have been lost since
    ],
)
def test_a_pool_in_which_none_has_ever_authenticated(shared, of_the_pool, of_a_worker, expected):
    counts = WorkerReading("web-1:1:ab", 0, 0.0, 0.0, "", counters=of_a_worker)
    reading = Reading(50, settling=False, counters=of_the_pool, workers=(counts,))
    seen = _pool(shared().pool("default"), reading, 3.0)
    assert seen.none_authenticated is expected
    told = "No connection has ever authenticated, and PENDING_DEADLINE ends them: see ws_status --diagnose"
    assert (told in " ".join(shown(snapshot(seen)).split())) is expected


def test_a_worker_whose_site_is_unknown_is_of_no_other_site(shared):
    same = {"limit": 50.0, "warn_at": 0.7}
    reading = Reading(50, settling=False, counters={}, workers=(), settings={"a": {**same, "site": 7.0}, "b": same})
    seen = _pool(shared().pool("default"), reading, 3.0)
    assert (seen.site, seen.settings, seen.differs) == (7, None, {})


def test_every_pool_or_the_one_asked_for(shared):
    shared(MAX_CONNECTIONS=10, POOLS={"chat": {"MAX_CONNECTIONS": 4}})
    tell("web-1:1:ab", 4, pool="chat")
    tell("web-1:1:ab", 1)
    both, chat = status(), status("--pool", "chat")
    assert "1 of 10 slots held, 9 free" in both
    assert "4 of 4 slots held, 0 free" in both
    assert "4 of 4 slots held, 0 free" in chat
    assert "of 10 slots" not in chat
    assert [each["name"] for each in json.loads(status("--json"))["pools"]] == ["default", "chat"]
    assert [each["name"] for each in json.loads(status("--json", "--pool=chat"))["pools"]] == ["chat"]


def test_the_workers_of_every_host_or_of_the_one_asked_for(shared):
    shared(MAX_CONNECTIONS=50)
    tell("web-2:77:cd", 12)
    tell("web-1:4242:ab", 24)
    one = status("--host=web-1")
    assert "36 of 50 slots held" in one
    assert "4242" in one
    assert "web-2" not in one
    (default,) = json.loads(status("--json", "--host=web-2"))["pools"]
    assert (default["held"], [worker["host"] for worker in default["workers"]]) == (36, ["web-2"])
    for other in ("--check", "--diagnose", "--history", "--advise"):
        assert "not allowed" in str(failure("--host=web-1", other)[1])
    assert str(failure("--host=web-9")[1]) == "No worker of the host 'web-9' is known."
    assert json.loads(status("--json", "--host=web-9"))["pools"][0]["workers"] == []


def test_an_unknown_pool_names_the_nearest(shared):
    shared(POOLS={"chat": {}})
    out, error = failure("--pool", "chatt")
    assert out == ""
    assert error.returncode == 1
    assert str(error).startswith("There is no admission pool 'chatt'. Did you mean 'chat'?")


def test_json_has_the_documented_fields(shared, redis_server):
    shared(MAX_CONNECTIONS=50, WARN_AT=0.5)
    asked = {"ledger.calls": 12, "ledger.errors": 2, "ledger.ms": 257, "ledger.le.0.025": 10, "ledger.le.inf": 2}
    asked |= {"wait.ms": 1500, "wait.le.0.005": 28, "wait.le.1": 2}
    tell(
        "web-1:4242:ab12",
        25,
        age=60.0,
        server="daphne",
        release="0.1.0",
        counters={"admitted": 30, "full": 5, **asked},
        speed=412.5,
    )
    before = datetime.now(UTC)
    told = json.loads(status("--json"))
    assert before.replace(microsecond=0) <= datetime.fromisoformat(told.pop("taken")) <= datetime.now(UTC)
    assert 0 <= told["ledger"].pop("took") < 1
    (seen,) = told["pools"][0]["workers"]
    own = fingerprint(f"limit=50,warn_at=0.5,lease=30000,heartbeat=100,site={conf.site()}")
    assert 0 <= time.time() - told["pools"][0].pop("now") < 5
    assert 0 <= time.time() - told["pools"][0].pop("since") < 15
    worst = told["pools"][0]["connects"].pop("worst")
    latest = told["pools"][0]["connects"].pop("refused_at")
    assert 0 <= before.timestamp() - latest < 5
    assert [second["handshakes"] for second in worst] == [2, 2, 2]
    assert 0 <= time.time() - worst[0]["at"] < 5
    assert 0 <= seen.pop("silence") < 5
    assert 60 <= seen.pop("uptime") < 65
    assert told == {
        "format": 1,
        "release": __version__,
        "enabled": True,
        "ledger": {"kind": "redis", "address": redis_server.url, "health": "ok", "error": None},
        "pools": [
            {
                "name": "default",
                "held": 25,
                "limit": 50,
                "free": 25,
                "share": 0.5,
                "warn_at": 0.5,
                "level": "warning",
                "state": "warning",
                "admitted": 30,
                "refused": {"full": 5},
                "shed": 0,
                "healed": 0,
                "lost": 0,
                "lost_workers": [],
                "latest": {},
                "events_dropped": 0,
                "faults": {},
                "channels_full": 0,
                "layer_failed": 0,
                "classes": {},
                "overdue": 0,
                "delayed": 0,
                "promised": 0,
                "redeemed": 0,
                "missed": 0,
                "refusals_held": 0,
                "passed": 0,
                "unaccepted": 0,
                "outlived": 0,
                "connects": {"total": 35, "median": 0, "refused": {"full": 5}},
                "calls": {"made": 12, "failed": 2, "seconds": 0.257},
                "call_times": {
                    "number": 12,
                    "seconds": 0.257,
                    "within": dict(zip(BOUNDS, (0, 0, 10, 10, 10, 10, 10, 12), strict=True)),
                },
                "waits": {
                    "number": 30,
                    "seconds": 1.5,
                    "within": dict(zip(BOUNDS, (0, 28, 28, 28, 28, 30, 30, 30), strict=True)),
                },
                "workers": [
                    {
                        "id": "web-1:4242:ab12",
                        "host": "web-1",
                        "pid": 4242,
                        "server": "daphne",
                        "release": "0.1.0",
                        "held": 25,
                        "load": [],
                        "draining": False,
                        "faults": {},
                        "silent": False,
                        "calls": {"made": 12, "failed": 2, "seconds": 0.257},
                        "failing": 0,
                        "shed": 0,
                        "layer_failed": 0,
                        "accepting": 0,
                        "jobs_waiting": 0,
                        "threads_busy": 0,
                        "settings": own,
                        "reserve": 0,
                    },
                ],
                "configured": 50,
                "paused": False,
                "dry_run": False,
                "would_refuse": {},
                "drained": 0,
                "aged": 0,
                "evicted": 0,
                "controls": {"version": 0, "limit": None, "paused": None, "dry_run": None, "drains": []},
                "alert": "warning",
                "differs": {},
                "none_authenticated": False,
                "site": conf.site(),
                "settings": own,
                "elsewhere": {"held": 0, "workers": 0},
                "speed": 412.5,
                "reserve": 0,
            }
        ],
    }


@pytest.mark.parametrize(
    "kind",
    [
        Snapshot,
        LedgerSnapshot,
        PoolSnapshot,
        Side,
        Elsewhere,
        WorkerSnapshot,
        LedgerCalls,
        Connects,
        Second,
        History,
        Series,
    ],
)
def test_help_tells_every_field_of_the_json(kind):
    text = Command().create_parser("manage.py", "ws_status").format_help()
    assert [field.name for field in fields(kind) if not re.search(rf"\b{field.name}\b", text)] == []


def test_help_tells_every_reason_and_monitor():
    text = Command().create_parser("manage.py", "ws_status").format_help()
    assert [name for name in (*Reason, *BUILT_IN) if f'"{name}"' not in text] == []


def test_help_keeps_its_lines_short_and_tells_the_exit_code():
    text = Command().create_parser("manage.py", "ws_status").format_help()
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "The exit code is 0, or 2 with one line on stderr when the ledger cannot be read." in text


def test_the_history_is_printed_as_json_for_all_pools_or_for_one(shared):
    shared(MAX_CONNECTIONS=50, POOLS={"chat": {}})
    tell("web-1:4242:ab", 5, counters={"admitted": 5, "full": 2})
    pools = json.loads(status("--history"))["pools"]
    assert pools.keys() == {"default", "chat"}
    assert (pools["default"]["error"], pools["default"]["minutes"]["step"]) == (None, 60)
    seconds = pools["default"]["seconds"]
    assert max(held or 0 for held in seconds["held"]) == 5
    assert (sum(seconds["admitted"]), sum(seconds["refused"]["full"])) == (5, 2)
    assert json.loads(status("--history", "--pool", "chat", "--json"))["pools"].keys() == {"chat"}


def test_a_history_that_cannot_be_read_is_an_error(admission, closed_port):
    admission(LEDGER=f"redis://127.0.0.1:{closed_port}/0")
    text, error = failure("--history")
    assert (json.loads(text)["pools"]["default"]["seconds"]["held"], error.returncode) == ([], 2)
    assert str(error).startswith("The history cannot be read: ConnectionError")


def test_looking_writes_nothing(shared, redis_server):
    shared(POOLS={"chat": {}})
    with redis.Redis.from_url(redis_server.url) as client:
        keys = client.dbsize()
        status()
        status("--json")
        assert client.dbsize() == keys


# Without workers, or without numbers


def test_no_worker(shared):
    shared(MAX_CONNECTIONS=50)
    text = status()
    assert "0 of 50 slots held, 50 free" in text
    assert "0 admitted and 0 refused so far\n" in text
    assert "No worker is known: none runs, or none has had a connection yet." in text
    assert "last beat" not in text


def test_a_ledger_that_settles_says_so(admission, redis_server):
    admission(LEDGER=redis_server.url, HEARTBEAT=60, LEASE=600)
    tell("web-1:1:ab", 3, settled=False)
    text = status()
    assert text.splitlines()[0].split()[-1] == "Settling"
    assert "The ledger started empty or lost its data a moment ago" in " ".join(text.split())
    assert "3 of 5,000 slots held" in text
    assert json.loads(status("--json"))["ledger"]["health"] == "settling"


def test_the_memory_ledger_says_that_its_counts_cannot_be_seen(admission):
    admission(LEDGER="memory")
    text = " ".join(status().split())
    assert text.startswith("Ledger memory this process OK With the memory ledger each worker process counts for itself")
    assert "a command cannot read these counts" in text
    assert "slots held" not in text
    assert json.loads(status("--json"))["ledger"]["kind"] == "memory"


def test_admission_switched_off_says_so(shared):
    shared(ENABLED=False)
    assert "Admission is switched off: CHANNELS_ADMISSION['ENABLED'] is False." in status()
    assert json.loads(status("--json"))["enabled"] is False


def test_wrong_settings_are_told(admission, settings):
    settings.CHANNELS_ADMISSION = {"MAX_CONNECTIONS": "many"}
    out, error = failure()
    assert (out, error.returncode) == ("", 1)
    assert "CHANNELS_ADMISSION['MAX_CONNECTIONS'] must be a whole number" in str(error)


# With the ledger down


def test_redis_down(admission, closed_port):
    admission(LEDGER=f"redis://:secret@127.0.0.1:{closed_port}/0")
    out, error = failure()
    assert (out, error.returncode) == ("", 2)
    told = f"The ledger at redis://127.0.0.1:{closed_port}/0 cannot be read: ConnectionError: "
    assert str(error).startswith(told)
    assert "\n" not in str(error)
    assert "secret" not in str(error)


def test_redis_down_still_prints_json(admission, closed_port):
    admission(LEDGER=f"redis://:secret@127.0.0.1:{closed_port}/0")
    out, error = failure("--json")
    told = json.loads(out)
    assert error.returncode == 2
    assert told["ledger"].pop("error").startswith("ConnectionError: ")
    assert 0 <= told["ledger"].pop("took") < 1
    assert told["ledger"] == {"kind": "redis", "address": f"redis://127.0.0.1:{closed_port}/0", "health": "down"}
    assert told["pools"] == []
    assert "secret" not in out


def test_redis_that_hangs(admission):
    with Redis() as server:
        admission(LEDGER=server.url)
        server.pause()
        began = time.monotonic()
        out, error = failure()
        took = time.monotonic() - began
    assert (out, error.returncode) == ("", 2)
    assert re.fullmatch(rf"The ledger at {server.url} cannot be read: no answer within \d s", str(error))
    assert took < 3


def test_a_foreign_key_in_our_place(shared, redis_server, prefix):
    shared()
    with redis.Redis.from_url(redis_server.url) as client:
        client.set(f"{prefix}:{{default}}:counts", "something else", ex=60)
    out, error = failure()
    assert (out, error.returncode) == ("", 2)
    assert "WRONGTYPE" in str(error)


def test_a_problem_is_one_line_without_control_characters():
    ledger = LedgerSnapshot("redis", "redis://h/0", Health.DOWN, "ResponseError: \x1b[2Jfirst\r\nsecond\u202e")
    assert status_report.problem(ledger) == "The ledger at redis://h/0 cannot be read: ResponseError: ?[2Jfirst second?"


# As a process


def run(redis_url: str, *args: str, **keys) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "manage.py", "ws_status", *args]
    env = environment(redis_url, {"LEDGER": redis_url, **keys})
    return subprocess.run(command, cwd=TESTPROJECT, env=env, capture_output=True, text=True, timeout=30)


def test_the_process_ends_with_0(redis_server, prefix):
    done = run(redis_server.url, PREFIX=prefix, MAX_CONNECTIONS=7)
    assert (done.returncode, done.stderr) == (0, "")
    assert "0 of 7 slots held, 7 free" in done.stdout
    assert ESCAPE not in done.stdout


def test_the_process_ends_with_2_and_one_line_when_redis_is_down(closed_port):
    done = run(f"redis://127.0.0.1:{closed_port}/0", "--json")
    assert done.returncode == 2
    assert re.fullmatch(r"CommandError: The ledger at \S+ cannot be read: .*\n", done.stderr)
    assert json.loads(done.stdout)["ledger"]["health"] == "down"


def on_a_terminal(redis_url: str, *args: str, exits: int = 0, **env: str) -> str:
    """What a run writes to a terminal of eighty columns."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "manage.py", "ws_status", *args]
    env = environment(redis_url, {"LEDGER": redis_url}, more={"TERM": "xterm", "COLUMNS": str(WIDTH), **env})
    process = subprocess.Popen(command, cwd=TESTPROJECT, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    written = b""
    # Linux reports the end of a terminal as an error.
    with suppress(OSError):
        while chunk := os.read(ours, 65536):
            written += chunk
    os.close(ours)
    assert process.wait(30) == exits
    return written.decode()


@pytest.mark.parametrize(
    ("args", "env", "coloured"),
    [
        ((), {"NO_COLOR": ""}, True),
        (("--no-color",), {}, False),
        ((), {"NO_COLOR": "1"}, False),
        (("--force-color",), {"NO_COLOR": "1"}, True),
    ],
)
def test_a_terminal_gets_colours_unless_told_otherwise(redis_server, args, env, coloured):
    text = on_a_terminal(redis_server.url, *args, **env)
    assert "No worker is known" in text
    assert (f"{ESCAPE}[1;32mCalm{ESCAPE}[0m" in text) is coloured
    assert (ESCAPE in text) is coloured


@pytest.mark.parametrize(("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_an_error_is_coloured_by_the_same_rule(closed_port, env, coloured):
    text = on_a_terminal(f"redis://127.0.0.1:{closed_port}/0", exits=2, **env)
    assert "CommandError: The ledger at" in text
    assert (ESCAPE in text) is coloured


# How it looks


def test_colours_only_when_forced_where_there_is_no_terminal(shared):
    shared()
    assert ESCAPE not in status()
    assert ESCAPE not in status(no_color=True)
    assert f"{ESCAPE}[1;32mCalm{ESCAPE}[0m" in status(force_color=True)


@pytest.mark.parametrize(
    ("level", "word"),
    [(Level.CALM, "Calm"), (Level.WARNING, "Warning"), (Level.CRITICAL, "Critical"), (Level.FULL, "Full")],
)
def test_the_level_is_a_word(level, word):
    assert lines(shown(snapshot(pool(level=level))))[2].split() == ["default", word]


@pytest.mark.parametrize(
    ("changes", "word", "free"),
    [
        ({"paused": True}, "Paused", "none while paused"),
        ({"paused": True, "dry_run": True}, "Calm", "80 free"),
        ({"workers": (worker(draining=True),)}, "Draining", "none while all workers drain"),
        ({"workers": (worker(draining=True), worker())}, "Calm", "80 free"),
    ],
)
def test_a_pool_that_refuses_all_says_so(changes, word, free):
    seen = snapshot(pool(held=0, limit=80, free=80, share=0.0, level=Level.CALM, **changes))
    assert lines(shown(seen))[2].split() == ["default", word]
    assert lines(shown(seen))[4] == f"0 of 80 slots held, {free}"
    colour = "32" if word == "Calm" else "31"
    assert f"{ESCAPE}[1;{colour}m{word}{ESCAPE}[0m" in shown(seen, color_system="standard", force_terminal=True)


@pytest.mark.parametrize("health", Health)
def test_the_health_is_a_word(health):
    assert lines(shown(snapshot(health=health)))[0].split()[-1].lower() == health


def test_a_lowered_limit_shows_more_than_the_whole():
    text = shown(snapshot(pool(held=62, limit=50, free=0, share=1.24, level=Level.FULL)))
    assert "█" * 73 + "  124 %" in text
    assert "62 of 50 slots held, 0 free" in text


def test_a_limit_of_nothing_is_full():
    text = shown(snapshot(pool(held=0, limit=0, free=0, share=1.0, level=Level.FULL)))
    assert "█" * 73 + "  100 %" in text


def test_refusals_are_named_and_unknown_reasons_stand_as_they_are():
    text = shown(snapshot(pool(refused={"quota:[ip]": 1500, "attempts:[ip]": 7, "full": 2, "ledger": 0})))
    expected = "1,500 over the quota [ip], 7 above the attempt rate of [ip], 2 pool full"
    assert f"412 admitted and 1,509 refused so far ({expected})" in " ".join(text.split())


@pytest.mark.parametrize(("held", "cells"), [(0, 0), (1, 1), (500, 5), (599, 5), (999, 9), (1000, 10), (1200, 10)])
def test_the_bar_is_empty_only_without_slots_held_and_whole_only_without_slots_free(held, cells):
    assert status_report.Gauge(held, 1000, "red").cells(10) == cells


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (9.94, "9.9 s"),
        (10, "10 s"),
        (3601, "1 h"),
        (86400 * 400 + 7200, "400 d 2 h"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_the_command_speaks_english_whatever_the_language_of_the_site(shared):
    shared(MAX_CONNECTIONS=50)
    tell("web-1:4242:ab", 50, age=7500.0, counters={"full": 2})
    with translation.override("id"):
        text = status()
    assert "2 pool full" in text
    assert "Full" in text
    assert "2 h 5 min" in text


def test_long_names_are_folded_and_whole():
    host = "ip-10-0-12-211.eu-central-1.comp"
    busy = worker(
        host=host, pid=4194304, server="hypercorn", held=10_000_000, silence=29.9, uptime=86400.0 * 99 + 3600 * 23
    )
    busy = replace(busy, load=tuple(Load(name, 0.888, 0.0) for name in ("lag", "memory", "descriptors", "cpu")))
    text = shown(snapshot(pool(name="p" * 40, held=10_000_000, limit=10_000_000, free=0, workers=(busy,))))
    assert max(map(len, text.splitlines())) <= WIDTH
    first, *folded = text.partition("cpu")[2].splitlines()[1:]
    assert "".join([first.split()[0], *map(str.strip, folded)]) == host
    for whole in ("4194304", "hypercorn", "10,000,000", "29 s", "99 d 23 h", "888 ms", "p" * 40):
        assert whole in text


def test_what_the_ledger_says_is_neither_markup_nor_obeyed():
    hostile = "[red]a[/red]\x1b[31m\x07\u202e\n[b]"
    seen = snapshot(pool(name=hostile, refused={hostile: 1}, workers=(worker(host=hostile, server=hostile),)))
    seen = replace(seen, ledger=replace(seen.ledger, kind=hostile, address=hostile))
    text = shown(seen)
    assert set(text) & {ESCAPE, "\x07", "\u202e"} == set()
    tame = "[red]a[/red]?[31m?? [b]"
    assert text.splitlines()[0].startswith(f"Ledger  {tame}  {tame}")
    assert text.splitlines()[2].startswith(tame)
    assert f"(1 {tame})" in text


def test_names_of_hosts_and_servers_are_no_markup():
    text = shown(snapshot(pool(workers=(worker(host="[red]web[/red]", server="[b]uv"),))))
    assert text.splitlines()[-1].split()[:3] == ["[red]web[/red]", "4242", "[b]uv"]


def test_a_terminal_that_knows_only_ascii(shared):
    shared()
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="ascii", errors="strict")
    call_command("ws_status", stdout=out)
    out.flush()
    assert b"-" * 73 + b"    0 %" in raw.getvalue()

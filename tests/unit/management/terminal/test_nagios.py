"""``ws_status --check``: lines, performance data and exit codes by the Monitoring Plugins guidelines."""

import io
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from channels_admission.core.levels import Level
from channels_admission.management.commands import ws_status
from channels_admission.management.terminal.nagios import Percentages, State, check, unknown
from channels_admission.status.snapshot import Health, LedgerSnapshot, PoolSnapshot, Snapshot, WorkerSnapshot

from demo.servers import TESTPROJECT, environment

LEDGER = LedgerSnapshot("redis", "redis://127.0.0.1:6390/0", Health.OK)


def pool(held: int, limit: int = 50, name: str = "default", **changes) -> PoolSnapshot:
    made = PoolSnapshot(
        name=name, held=held, limit=limit, free=max(0, limit - held), share=held / limit if limit else 1.0,
        warn_at=0.7, level=Level.CALM, admitted=0, refused={}, shed=0, workers=(),
    )  # fmt: skip
    return replace(made, **changes)


def snapshot(*pools: PoolSnapshot, **changes) -> Snapshot:
    return replace(Snapshot(datetime.now(UTC), True, LEDGER, pools), **changes)


def checked(*pools: PoolSnapshot, warning: float | None = None, critical: float = 90, **changes) -> tuple[int, str]:
    found = check(snapshot(*pools, **changes), Percentages(warning, critical))
    return int(found.state), found.line


@pytest.mark.parametrize(
    ("held", "code", "state"),
    [(0, 0, "OK"), (34, 0, "OK"), (35, 1, "WARNING"), (44, 1, "WARNING"), (45, 2, "CRITICAL"), (60, 2, "CRITICAL")],
)
def test_a_threshold_counts_from_itself_on(held, code, state):
    assert checked(pool(held)) == (
        code,
        f"ADMISSION {state} - pool default: {held} of 50 slots held ({2 * held} %) | 'pool default'={held};35;45;0;50",
    )


def test_thresholds_are_told_or_the_pools_own():
    assert checked(pool(10), warning=20, critical=40)[1].endswith("'pool default'=10;10;20;0;50")
    assert checked(pool(10, warn_at=0.1), critical=40)[1].endswith("'pool default'=10;5;20;0;50")
    assert checked(pool(10, limit=33))[1].endswith("'pool default'=10;23.1;29.7;0;33")
    assert checked(pool(10, warn_at=0.95))[1].endswith("'pool default'=10;45;45;0;50")


def test_the_worst_pool_wins_and_all_are_in_the_data():
    pools = (pool(50), pool(36, name="chat"), pool(50, name="feed"), pool(1, name="news"))
    assert checked(*pools) == (
        2,
        "ADMISSION CRITICAL - pool default: 50 of 50 slots held (100 %), pool feed: 50 of 50 slots held (100 %) "
        "| 'pool default'=50;35;45;0;50 'pool chat'=36;35;45;0;50 'pool feed'=50;35;45;0;50 'pool news'=1;35;45;0;50",
    )


def test_of_pools_that_are_well_the_fullest_is_told():
    assert checked(pool(1), pool(2, name="chat"))[1].startswith("ADMISSION OK - pool chat: 2 of 50 slots held (4 %) |")


WORKER = WorkerSnapshot("web-1:1:ab", "web-1", 1, "", 0, 0.0, 0.0, draining=True)


@pytest.mark.parametrize(
    ("changes", "code", "told"),
    [
        ({"paused": True}, 1, ", paused"),
        ({"workers": (WORKER,)}, 1, ", all workers draining"),
        ({"workers": (WORKER, replace(WORKER, draining=False))}, 0, ""),
        ({"dry_run": True}, 0, ", dry run"),
        ({"paused": True, "dry_run": True}, 0, ", paused, dry run"),
    ],
)
def test_a_pool_that_lets_nobody_in_is_a_warning_and_a_dry_run_is_told(changes, code, told):
    found, line = checked(pool(5, **changes))
    assert (found, line.partition(" | ")[0].partition(" %)")[2]) == (code, told)


def test_a_limit_of_nothing_is_critical():
    assert checked(pool(0, limit=0)) == (
        2,
        "ADMISSION CRITICAL - pool default: 0 of 0 slots held (100 %) | 'pool default'=0;0;0;0;0",
    )


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"ledger": replace(LEDGER, health=Health.DOWN, error="ConnectionError: a | b\nc")},
            "ADMISSION UNKNOWN - The ledger at redis://127.0.0.1:6390/0 cannot be read: ConnectionError: a / b c",
        ),
        ({"enabled": False}, "ADMISSION UNKNOWN - admission is switched off, and nothing is counted"),
        (
            {"ledger": replace(LEDGER, kind="memory")},
            "ADMISSION UNKNOWN - the memory ledger keeps the counts inside each worker",
        ),
    ],
)
def test_what_cannot_be_known_is_unknown(changes, line):
    assert checked(pool(50), **changes) == (3, line)


def test_the_states_are_the_exit_codes_of_the_guidelines():
    assert [(state.name, int(state)) for state in State] == [
        ("OK", 0), ("WARNING", 1), ("CRITICAL", 2), ("UNKNOWN", 3),
    ]  # fmt: skip
    assert unknown("a\nb").line == "ADMISSION UNKNOWN - a b"


# The command


def run(*args: str, monkeypatch, pools) -> tuple[int, str]:
    """The exit code and what is printed where the pools are as told."""

    async def collect(settings):
        return snapshot(*pools)

    monkeypatch.setattr(ws_status, "collect", collect)
    out = io.StringIO()
    try:
        call_command("ws_status", "--check", *args, stdout=out)
    except SystemExit as end:
        return end.code, out.getvalue()
    return 0, out.getvalue()


def test_the_command_prints_one_line_and_ends_with_the_state(admission, monkeypatch):
    admission(POOLS={"chat": {}})
    pools = (pool(46), pool(1, name="chat"))
    code, out = run(monkeypatch=monkeypatch, pools=pools)
    assert (code, out.count("\n")) == (2, 1)
    assert out.startswith("ADMISSION CRITICAL - pool default")
    assert run("--pool", "chat", monkeypatch=monkeypatch, pools=pools) == (
        0,
        "ADMISSION OK - pool chat: 1 of 50 slots held (2 %) | 'pool chat'=1;35;45;0;50\n",
    )
    code, out = run("--warn=80", "--critical=95.5", monkeypatch=monkeypatch, pools=pools)
    assert (code, out.partition(" | ")[2].split()[1]) == (1, "default'=46;40;47.75;0;50")


def test_an_unknown_pool_and_wrong_settings_are_unknown(admission, settings, monkeypatch):
    admission(POOLS={"chat": {}})
    code, out = run("--pool=chatt", monkeypatch=monkeypatch, pools=(pool(1),))
    assert (code, out.count("\n")) == (3, 1)
    assert out.startswith("ADMISSION UNKNOWN - There is no admission pool 'chatt'. Did you mean 'chat'?")
    settings.CHANNELS_ADMISSION = {"MAX_CONNECTIONS": "many"}
    code, out = run(monkeypatch=monkeypatch, pools=(pool(1),))
    assert (code, out.count("\n")) == (3, 1)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--check", "--json"], "argument --json: not allowed with argument --check"),
        (["--watch", "--json"], "argument --json: not allowed with argument --watch"),
        (["--warn=50"], "argument --warn: only allowed with argument --check"),
        (["--diagnose", "--critical=50"], "argument --critical: only allowed with argument --check"),
        (["--check", "--warn=91"], "argument --warn: must not be above --critical"),
        (["--check", "--warn=61", "--critical=60"], "argument --warn: must not be above --critical"),
        (["--check", "--warn=x"], "must be a number from 0 to 100, per cent, not 'x'"),
        (["--check", "--critical=101"], "must be a number from 0 to 100, per cent, not '101'"),
        (["--watch=nan"], "must be a number from 0.1 to 3600, seconds, not 'nan'"),
        (["--watch=0"], "must be a number from 0.1 to 3600, seconds, not '0'"),
        (["--check", "--watch"], "not allowed with argument"),
    ],
)
def test_what_does_not_go_together_is_told(admission, args, message):
    admission()
    with pytest.raises(CommandError) as caught:
        call_command("ws_status", *args)
    assert message in str(caught.value)


# As a process


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--check", "--warn=91"], 3),
        (["--check", "--warn=x"], 3),
        (["--check", "--no-such-option"], 3),
        (["--chec"], 2),
        (["--check"], 3),
        (["--no-such-option"], 2),
        (["--check", "--help"], 0),
    ],
)
def test_the_process_ends_with_3_when_asked_wrongly_or_when_redis_is_down(args, code):
    url = "redis://127.0.0.1:1/0"
    command = [sys.executable, "manage.py", "ws_status", *args]
    env = environment(url, {"LEDGER": url})
    done = subprocess.run(command, cwd=TESTPROJECT, env=env, capture_output=True, text=True, timeout=30)
    assert done.returncode == code, done.stderr
    if args == ["--check"]:
        assert done.stdout.startswith(f"ADMISSION UNKNOWN - The ledger at {url} cannot be read: ConnectionError")
        assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_the_process_ends_with_2_for_a_full_pool(redis_server, prefix):
    command = [sys.executable, "manage.py", "ws_status", "--check"]
    env = environment(redis_server.url, {"LEDGER": redis_server.url, "PREFIX": prefix, "MAX_CONNECTIONS": 0})
    done = subprocess.run(command, cwd=TESTPROJECT, env=env, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (2, "")
    assert done.stdout == "ADMISSION CRITICAL - pool default: 0 of 0 slots held (100 %) | 'pool default'=0;0;0;0;0\n"

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
from channels_admission.core.overrides import Controls, Order
from channels_admission.core.readings import Elsewhere, Load
from channels_admission.management.commands import ws_status
from channels_admission.management.terminal.nagios import Range, Ranges, ServiceState, check, unknown
from channels_admission.status.values import Connects, Health, LedgerSnapshot, PoolSnapshot, Snapshot, WorkerSnapshot

from demo.servers import TESTPROJECT, environment

UNKNOWN_WORKERS = (
    "no worker known (without AdmissionLifespan, and under Daphne, one is known from its first connection on)"
)

LEDGER = LedgerSnapshot("redis", "redis://127.0.0.1:6390/0", Health.OK)
WORKER = WorkerSnapshot("web-1:1:ab", "web-1", 1, "", 0, 0.0, 0.0)


def worker(pid: int, **changes) -> WorkerSnapshot:
    return replace(WORKER, id=f"web-1:{pid}:ab", pid=pid, **changes)


def pressed(**pressures: float) -> tuple[Load, ...]:
    return tuple(Load(name, 0.9, pressure) for name, pressure in pressures.items())


def pool(held: int, limit: int = 50, name: str = "default", **changes) -> PoolSnapshot:
    made = PoolSnapshot(
        name=name, held=held, limit=limit, free=max(0, limit - held), share=held / limit if limit else 1.0,
        warn_at=0.7, level=Level.CALM, admitted=0, refused={}, shed=0, workers=(WORKER,),
    )  # fmt: skip
    return replace(made, **changes)


def snapshot(*pools: PoolSnapshot, **changes) -> Snapshot:
    return replace(Snapshot(datetime.now(UTC), True, LEDGER, pools), **changes)


def checked(*pools: PoolSnapshot, warning: str = "", critical: str = "", **changes) -> tuple[int, str]:
    ranges = (Range.parse(text) if text else None for text in (warning, critical))
    found = check(snapshot(*pools, **changes), Ranges(*ranges))
    return int(found.state), found.line


def told(**changes) -> tuple[int, str]:
    """The exit code, and what is told beside the slots of a pool of which 5 of 50 are held."""
    code, line = checked(pool(5, **changes))
    before, _, after = line.partition(" | ")[0].partition("5 of 50 slots held (10 %)")
    assert before == f"ADMISSION {ServiceState(code).name} - pool default: "
    return code, after


@pytest.mark.parametrize(
    ("held", "code", "state"),
    [(0, 0, "OK"), (34, 0, "OK"), (35, 1, "WARNING"), (44, 1, "WARNING"), (45, 2, "CRITICAL"), (49, 2, "CRITICAL")],
)
def test_by_default_the_levels_of_the_pool_decide(held, code, state):
    assert checked(pool(held)) == (
        code,
        f"ADMISSION {state} - pool default: {held} of 50 slots held ({2 * held} %) "
        f"| 'pool default'={held};34;44;0;50 'pool default refused'=0;0",
    )


def test_a_full_pool_admits_nobody_whatever_the_thresholds_are():
    assert checked(pool(60), warning="200", critical="200") == (
        2,
        "ADMISSION CRITICAL - pool default: 60 of 50 slots held (120 %), full "
        "| 'pool default'=60;100;100;0;50 'pool default refused'=0;0",
    )
    assert checked(pool(60, dry_run=True), warning="200", critical="200")[0] == 0


@pytest.mark.parametrize(
    ("held", "warning", "critical", "code", "data"),
    [
        (10, "20", "40", 0, "10;10;20;0;50"),
        (11, "20", "40", 1, "11;10;20;0;50"),
        (20, "20", "40", 1, "20;10;20;0;50"),
        (21, "20", "40", 2, "21;10;20;0;50"),
        (4, "10:20", "40", 1, "4;5:10;20;0;50"),
        (5, "10:20", "40", 0, "5;5:10;20;0;50"),
        (4, "20", "10:20", 2, "4;10;5:10;0;50"),
        (4, "@10:20", "40", 0, "4;@5:10;20;0;50"),
        (5, "@10:20", "40", 1, "5;@5:10;20;0;50"),
        (10, "@10:20", "40", 1, "10;@5:10;20;0;50"),
        (1, "4:", "", 1, "1;2:;44;0;50"),
        (0, "~:20", "", 0, "0;~:10;44;0;50"),
    ],
)
def test_thresholds_are_ranges_of_per_cent_as_nagios_has_them(held, warning, critical, code, data):
    found, line = checked(pool(held), warning=warning, critical=critical)
    assert (found, line.partition(" | ")[2]) == (code, f"'pool default'={data} 'pool default refused'=0;0")


@pytest.mark.parametrize(("limit", "warn_at", "data"), [(33, 0.7, "23;29"), (50, 0.95, "44;44"), (10, 0.1, "0;8")])
def test_the_level_of_a_pool_as_a_range(limit, warn_at, data):
    line = checked(pool(0, limit=limit, warn_at=warn_at))[1]
    assert line.partition(" | ")[2].startswith(f"'pool default'=0;{data};0;{limit} ")


def test_the_worst_pool_wins_and_all_are_in_the_data():
    pools = (pool(50), pool(36, name="chat"), pool(50, name="feed"), pool(1, name="news"))
    assert checked(*pools) == (
        2,
        "ADMISSION CRITICAL - pool default: 50 of 50 slots held (100 %), full, "
        "pool feed: 50 of 50 slots held (100 %), full "
        "| 'pool default'=50;34;44;0;50 'pool default refused'=0;0 'pool chat'=36;34;44;0;50 'pool chat refused'=0;0 "
        "'pool feed'=50;34;44;0;50 'pool feed refused'=0;0 'pool news'=1;34;44;0;50 'pool news refused'=0;0",
    )


def test_of_pools_that_are_well_the_fullest_is_told():
    assert checked(pool(1), pool(2, name="chat"))[1].startswith("ADMISSION OK - pool chat: 2 of 50 slots held (4 %) |")


SATURATED = pressed(memory=1.0, lag=1.0, cpu=0.0)


@pytest.mark.parametrize(
    ("changes", "code", "text"),
    [
        ({"paused": True}, 2, ", paused"),
        ({"workers": ()}, 2, f", {UNKNOWN_WORKERS}"),
        ({"workers": (worker(1, draining=True),)}, 2, ", no worker admits: 1 draining"),
        (
            {"workers": (worker(1, load=SATURATED), worker(2, load=SATURATED))},
            2,
            ", no worker admits: 2 saturated (lag, memory)",
        ),
        (
            {"workers": (worker(1, silent=True), worker(2, silent=True), worker(3, silent=True))},
            2,
            ", no worker admits: 3 silent",
        ),
        (
            {"workers": (worker(1, silent=True), worker(2, load=SATURATED), worker(3, draining=True))},
            2,
            ", no worker admits: 1 draining, 1 saturated (lag, memory), 1 silent",
        ),
        ({"dry_run": True, "workers": (worker(1, draining=True),)}, 2, ", no worker admits: 1 draining, dry run"),
    ],
)
def test_a_pool_that_admits_nobody_is_critical(changes, code, text):
    assert told(**changes) == (code, text)


def test_a_pool_without_workers_beside_one_that_has_some_is_a_warning():
    found, line = checked(pool(5), pool(0, name="chat", workers=()))
    assert (found, line.partition(" | ")[0]) == (
        1,
        "ADMISSION WARNING - pool chat: 0 of 50 slots held (0 %), no worker known",
    )
    assert checked(pool(0, workers=()), pool(0, name="chat", workers=()))[0] == 2


def test_the_operator_of_a_pause_or_a_dry_run_is_named():
    order = Order(1, "ann|1", 1_796_000_000.0)
    assert told(paused=True, controls=Controls(paused=order))[1] == ", paused, set by ann/1 at 2026-11-30 00:53:20 UTC"
    text = told(dry_run=True, controls=Controls(dry_run=order))[1]
    assert text == ", dry run, set by ann/1 at 2026-11-30 00:53:20 UTC"


def test_workers_of_another_version_alone_are_a_warning_and_beside_others_nothing():
    text = ", no worker known but 3 workers of another version, ask with that"
    assert told(workers=(), elsewhere=Elsewhere(5, 3)) == (1, text)
    assert told(elsewhere=Elsewhere(5, 3)) == (0, "")


@pytest.mark.parametrize(
    ("workers", "text"),
    [
        (
            (worker(1), worker(2, silent=True, silence=12.4), worker(3, silent=True, silence=13.0)),
            ", 2 of 3 workers silent (web-1 3 for 13 s, web-1 2 for 12 s)",
        ),
        ((worker(1, load=pressed(memory=0.38)),), ", memory refuses up to 38 % on 1 of 1 worker"),
        (
            (worker(1, load=SATURATED), worker(2, load=pressed(memory=0.1)), worker(3)),
            ", lag refuses up to 100 % on 1 of 3 workers, memory refuses up to 100 % on 2 of 3 workers",
        ),
        (
            (worker(1), worker(2, failing=39)),
            ", 1 of 2 workers decides alone, as the ledger does not answer in time",
        ),
        ((worker(1), worker(2, draining=True)), None),
    ],
)
def test_workers_that_do_not_admit_all_are_a_warning(workers, text):
    assert told(workers=workers) == ((0, "") if text is None else (1, text))


def test_refusals_lately_are_a_warning_and_those_of_before_are_not():
    assert told(refused={"memory": 30}) == (0, "")
    refused = {"memory": 24, "full": 6, "rate": 2, "other": 1}
    assert told(connects=Connects(40, 0, refused=refused)) == (
        1,
        ", 33 refused in 5 minutes: 24 memory, 6 full, 2 rate and 1 more",
    )
    line = checked(pool(5, connects=Connects(40, 0, refused=refused)))[1]
    assert line.endswith("| 'pool default'=5;34;44;0;50 'pool default refused'=33;0")


def test_refusals_that_are_wanted_or_one_clients_own_are_none():
    refused = {"draining": 3, "paused": 4, "quota:user": 5, "attempts:ip": 6}
    assert told(connects=Connects(18, 0, refused=refused)) == (0, "")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, ", dry run"),
        ({"paused": True}, ", paused, dry run"),
        ({"workers": (worker(1, load=SATURATED),)},
         ", lag refuses up to 100 % on 1 of 1 worker, memory refuses up to 100 % on 1 of 1 worker, dry run"),
    ],
)  # fmt: skip
def test_in_a_dry_run_nobody_is_refused(changes, text):
    assert told(dry_run=True, **changes) == (0, text)


@pytest.mark.parametrize("health", [Health.SETTLING, Health.LATE])
def test_a_ledger_that_settles_or_is_late_is_a_warning(health):
    unwell = replace(LEDGER, health=health)
    assert checked(pool(5), ledger=unwell)[0] == 1
    assert checked(pool(5), ledger=unwell)[1].startswith(f"ADMISSION WARNING - ledger {health}, pool default: 5 of")
    assert checked(pool(50), ledger=unwell)[0] == 2


def test_a_limit_of_nothing_is_critical():
    assert checked(pool(0, limit=0)) == (
        2,
        "ADMISSION CRITICAL - pool default: 0 of 0 slots held (100 %), full "
        "| 'pool default'=0;0;0;0;0 'pool default refused'=0;0",
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
    assert [(state.name, int(state)) for state in ServiceState] == [
        ("OK", 0), ("WARNING", 1), ("CRITICAL", 2), ("UNKNOWN", 3),
    ]  # fmt: skip
    assert unknown("a\nb").line == "ADMISSION UNKNOWN - a b"


# The command


def run(*args: str, monkeypatch, pools, waits: float = 10) -> tuple[int, str]:
    """The exit code and what is printed where the pools are as told."""

    async def collect(settings, within):
        assert within == waits
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
        "ADMISSION OK - pool chat: 1 of 50 slots held (2 %) | 'pool chat'=1;34;44;0;50 'pool chat refused'=0;0\n",
    )
    for args in (
        ["--warn=80", "--critical=95.5"],
        ["-w", "80", "-c", "95.5"],
        ["--warning", "80", "-c95.5", "-t", "10"],
    ):
        code, out = run(*args, monkeypatch=monkeypatch, pools=pools)
        assert (code, out.partition(" | ")[2].split()[1]) == (1, "default'=46;40;47.75;0;50")
    assert run("-w@10:20", "-c", "~:95", "-t0.5", monkeypatch=monkeypatch, pools=pools, waits=0.5)[0] == 0


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
        (["--diagnose", "-t", "5"], "argument --timeout: only allowed with argument --check"),
        (["--check", "--warn=91"], "argument --warn: must not be above --critical"),
        (["--check", "--warn=61", "--critical=60"], "argument --warn: must not be above --critical"),
        (["--check", "--warn=x"], "must be a number or a range such as 10:20 or @10:20, not 'x'"),
        (["--check", "--critical=20:10"], "must begin below its end, not '20:10'"),
        (["--check", "--timeout=0"], "must be a number of seconds from 0.1 to 3600, not '0'"),
        *(
            ([f"--top={top}"], f"must be a number of workers from 0 to 100000, not '{top}'")
            for top in ("2.5", "1e3", "-1", "100001", "many", "٣")
        ),
        (["--watch=nan"], "must be a number of seconds from 0.1 to 3600, not 'nan'"),
        (["--watch=0"], "must be a number of seconds from 0.1 to 3600, not '0'"),
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
    assert done.stdout == (
        f"ADMISSION CRITICAL - pool default: 0 of 0 slots held (100 %), {UNKNOWN_WORKERS}, full "
        "| 'pool default'=0;0;0;0;0 'pool default refused'=0;0\n"
    )

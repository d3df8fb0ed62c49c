"""What is found in a case, in which words and order; what this machine says; and how it is printed."""

import io
import json
import os
import re
import socket
from dataclasses import fields, replace
from datetime import UTC, datetime

import psutil
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from channels_admission import __version__, conf
from channels_admission.conf.ledger import CORE_LAYER
from channels_admission.core.counters import Reason
from channels_admission.core.levels import Level
from channels_admission.core.readings import Elsewhere, Load
from channels_admission.management.commands.ws_status import Command
from channels_admission.management.terminal.diagnosis import render
from channels_admission.runtime.identity import host
from channels_admission.status.diagnostics import WEIGHTS, Diagnosis, Limit, diagnose
from channels_admission.status.diagnostics.finding import Finding, Severity
from channels_admission.status.diagnostics.host import HostInfo, Layer, Origin, ProcessInfo, gather
from channels_admission.status.diagnostics.model import Process
from channels_admission.status.diagnostics.pools import REFUSED
from channels_admission.status.growth import Growth
from channels_admission.status.values import (
    Connects,
    Health,
    LedgerCalls,
    LedgerSnapshot,
    LostWorker,
    PoolSnapshot,
    Second,
    Side,
    Snapshot,
    WorkerSnapshot,
)

from support import ROOT
from support.screen import WIDTH, printed

PAGE = (ROOT / "docs" / "diagnose.md").read_text()
NOON = datetime(2026, 3, 1, 12, 3, 30, tzinfo=UTC)
AT = int(NOON.timestamp()) - 23
SETTING = "CHANNELS_ADMISSION['MAX_CONNECTIONS']"


def loads(lag=0.001, memory=0.5, descriptors=0.1, cpu=0.05, **pressures) -> tuple[Load, ...]:
    readings = {"lag": lag, "memory": memory, "descriptors": descriptors, "cpu": cpu}
    return tuple(Load(name, reading, pressures.get(f"{name}_pressure", 0.0)) for name, reading in readings.items())


def worker(**changes) -> WorkerSnapshot:
    made = WorkerSnapshot(
        id="web-1:42:ab", host="web-1", pid=42, server="uvicorn", held=20, silence=0.4, uptime=75.0, load=loads()
    )
    return replace(made, **changes)


def pool(*workers: WorkerSnapshot, **changes) -> PoolSnapshot:
    made = PoolSnapshot(
        name="default", held=20, limit=50, free=30, share=0.4, warn_at=0.7, level=Level.CALM,
        admitted=20, refused={}, shed=0, workers=workers or (worker(),),
    )  # fmt: skip
    return replace(made, **changes)


def snapshot(*pools: PoolSnapshot, **changes) -> Snapshot:
    ledger = LedgerSnapshot("redis", "redis://127.0.0.1:6390/0", Health.OK)
    return replace(Snapshot(NOON, True, ledger, pools or (pool(),)), **changes)


def details(processes=None, limit=50, names=("default",)) -> HostInfo:
    return HostInfo(3.0, processes or {}, {name: Origin(limit, SETTING) for name in names})


def found(seen: Snapshot, known: HostInfo | None = None) -> list[Finding]:
    return list(diagnose(seen, known or details()).findings)


def ids(seen: Snapshot, known: HostInfo | None = None) -> list[str]:
    return [finding.id for finding in found(seen, known)]


def only(seen: Snapshot, known: HostInfo | None = None) -> tuple[str, str, str, str]:
    """The one finding, without its advice."""
    (finding,) = found(seen, known)
    assert finding.advice.endswith(".")
    return finding.id, finding.severity.value, finding.title, finding.detail


# Findings


def test_nothing_is_found_where_all_is_well():
    diagnosis = diagnose(snapshot(), details())
    assert (diagnosis.findings, diagnosis.exit_code) == ((), 0)


def test_a_pool_that_will_be_full_if_it_grows_on():
    grown = Growth("default", 20, 50, 5.75, 2.5, 43_200.0)

    def findings(level: Level, growth: Growth) -> list[Finding]:
        return list(diagnose(snapshot(pool(level=level)), details(), (growth,)).findings)

    (finding,) = findings(Level.CALM, grown)
    assert (finding.id, finding.severity) == ("limit-ahead", Severity.NOTE)
    assert finding.title == "Pool default is full in 12 h if it grows on as it does now"
    assert finding.detail == ("20 of 50 slots are held, +2.5 an hour over the last 5.8 h. A daily peak may end before.")
    assert [each.id for each in findings(Level.WARNING, grown)] == ["limit-near"]
    assert findings(Level.CALM, replace(grown, reached_in=None)) == []


def test_a_ledger_that_is_down_is_all_there_is_to_say():
    ledger = LedgerSnapshot("redis", "redis://h:1/0", Health.DOWN, "ConnectionError: refused")
    assert only(snapshot(ledger=ledger, pools=())) == (
        "ledger-down",
        "critical",
        "The ledger cannot be read, so the workers are unknown",
        "redis at redis://h:1/0: ConnectionError: refused",
    )


def test_a_ledger_that_is_silent_is_told_from_one_that_is_not_there_and_is_not_called_late_besides():
    gone = LedgerSnapshot("redis", "redis://h:1/0", Health.DOWN, "ConnectionError: refused", 1.0)
    silent = replace(gone, error="no answer within 1 s")
    advice = [each.advice for ledger in (gone, silent) for each in found(snapshot(ledger=ledger, pools=()))]
    assert [text.partition(":")[0] for text in advice] == [
        "Restore Redis, or correct its address, password or rights. Meanwhile each worker decides alone, by "
        "WHEN_LEDGER_DOWN.",
        "Nothing answers at this address",
    ]


def test_a_ledger_that_settles():
    ledger = LedgerSnapshot("redis", "redis://h:1/0", Health.SETTLING)
    assert only(snapshot(ledger=ledger))[:3] == (
        "ledger-settling",
        "warning",
        "The ledger started empty or lost its data a moment ago",
    )


@pytest.mark.parametrize(
    ("total", "median", "handshakes", "title"),
    [
        (6400, 21.25, 850, "Herd at 12:03:07 UTC: 850 connects in 1 s, 40 × the median"),
        (70, 0, 50, "Herd at 12:03:07 UTC: 50 connects in 1 s, and none in most seconds"),
        (69, 0, 49, None),
        (6400, 8.6, 85, None),
        (6400, 8.5, 85, "Herd at 12:03:07 UTC: 85 connects in 1 s, 10 × the median"),
        # 75 seconds are known, and 73 of them are not among the worst.
        (850 + 20 + 73 * 20, 0, 850, "Herd at 12:03:07 UTC: 850 connects in 1 s, 42 × the mean"),
        (199 + 20 + 73 * 20, 0, 199, None),
    ],
)
def test_a_herd_is_a_second_far_above_a_usual_one(total, median, handshakes, title):
    seen = snapshot(pool(connects=Connects(total, median, (Second(AT, handshakes), Second(AT + 1, 20)))))
    if title is None:
        assert found(seen) == []
    else:
        assert only(seen) == (
            "herd",
            "critical",
            title,
            f"Pool default: {total:,} connects in 5 minutes, the most in one second {handshakes} at 12:03:07 UTC, "
            "20 at 12:03:08 UTC.",
        )


@pytest.mark.parametrize("known", [1, 29, 30, 100, 150])
def test_steady_connects_are_no_herd_on_a_ledger_that_has_just_begun(known):
    latest = int(NOON.timestamp())
    worst = tuple(Second(latest - ago, 60) for ago in range(min(known, 3)))
    assert found(snapshot(pool(worker(uptime=known), connects=Connects(60 * known, 0, worst)))) == []


@pytest.mark.parametrize(
    ("uptime", "ago", "found_ids"), [(29.9, 5, []), (30.0, 5, ["herd"]), (5.0, 30, ["herd"]), (5.0, 29, [])]
)
def test_a_herd_takes_half_a_minute_that_is_known(uptime, ago, found_ids):
    herd = Connects(850, 0, (Second(int(NOON.timestamp()) - ago, 850),))
    assert ids(snapshot(pool(worker(uptime=uptime), connects=herd))) == found_ids


def test_a_herd_is_seen_at_once_where_there_is_a_median():
    herd = Connects(5000, 20, (Second(int(NOON.timestamp()), 850),))
    assert ids(snapshot(pool(worker(uptime=1.0), connects=herd))) == ["herd"]


def test_advice_that_names_the_connect_rate_names_the_measured_speed():
    herd = snapshot(pool(connects=Connects(5000, 20, (Second(AT, 850),)), refused={"crowd": 3}, speed=1412.5))
    advice = {finding.id: finding.advice for finding in found(herd)}
    assert (
        "Set CONNECT_RATE to what the site can take (measured: 1,412.5 connections per second), and" in advice["herd"]
    )
    assert advice["refusals"] == (
        "For crowd: add workers, or set CONNECT_RATE (measured: 1,412.5 connections per second)."
    )
    unknown = replace(herd.pools[0], speed=None, refused={"rate": 3})
    assert not any("measured" in finding.advice for finding in found(snapshot(unknown)))


def test_a_herd_that_passed_a_minute_ago_is_a_warning():
    (finding,) = found(snapshot(pool(connects=Connects(850, 0, (Second(AT - 37, 850),)))))
    assert (finding.id, finding.severity) == ("herd", Severity.WARNING)


def test_a_full_pool_names_its_setting():
    assert only(snapshot(pool(held=50, level=Level.FULL))) == (
        "limit-reached",
        "critical",
        "Pool default is full",
        f"50 of 50 slots are held, workers: 1. The limit comes from {SETTING}.",
    )


def test_a_full_pool_in_a_dry_run_refuses_nobody_and_is_a_warning():
    seen = snapshot(pool(held=52, level=Level.FULL, dry_run=True))
    assert [(each.id, each.severity, each.title) for each in found(seen)] == [
        ("limit-reached", "warning", "Pool default is full, but the dry run admits everybody"),
        ("dry-run", "warning", "Dry run: pool default refuses no connection"),
    ]


def test_workers_with_different_settings_are_named_on_each_side():
    many = tuple(f"web-2:{pid}:ab" for pid in range(5))
    differs = {
        "limit": (Side(50, 1, ("web-1:42:ab",)), Side(500, 7, many)),
        "heartbeat": (Side(10_000, 0, ()), Side(500, 8, many)),
        "rate": (Side(2, 1, ("web-1:42:ab",)), Side(None, 7, many)),
    }
    assert only(snapshot(pool(differs=differs)), details(limit=70)) == (
        "settings-differ",
        "warning",
        "Workers of pool default have different settings",
        "The strictest values are in force for all: MAX_CONNECTIONS 50 on web-1 42; "
        "MAX_CONNECTIONS 500 on web-2 0, web-2 1, web-2 2, web-2 3, web-2 4 and 2 more; "
        "HEARTBEAT 10 s on workers that have ended; HEARTBEAT 0.5 s on web-2 0, web-2 1, web-2 2, web-2 3, web-2 4 "
        "and 3 more; "
        "CONNECT_RATE 2 on web-1 42; CONNECT_RATE unset on web-2 0, web-2 1, web-2 2, web-2 3, web-2 4 and 2 more.",
    )


def test_workers_of_several_sites_are_named_with_both_causes_and_the_prefix():
    differs = {
        "site": (Side(120042, 1, ("web-2:7:cd",)), Side(482913, 1, ("web-1:42:ab",))),
        "limit": (Side(50, 1, ("web-2:7:cd",)), Side(500, 1, ("web-1:42:ab",))),
    }
    here = replace(details(limit=500), prefix="shop", site=482913)
    (finding,) = found(snapshot(pool(differs=differs)), here)
    assert (finding.id, finding.severity, finding.title, finding.detail) == (
        "sites-differ",
        "warning",
        "Workers of 2 sites count in pool default",
        "All have the PREFIX 'shop': site 120042 on web-2 7; site 482913 on web-1 42; this command is of site 482913. "
        "The strictest values are in force for all: MAX_CONNECTIONS 50 on web-2 7; MAX_CONNECTIONS 500 on web-1 42.",
    )
    assert finding.advice == (
        "Another project, or another environment of this one, uses the same Redis and PREFIX: give each a PREFIX of "
        "its own and restart its workers. If a rolling deployment changes SECRET_KEY, this ends within a LEASE after "
        "the last worker with the old key."
    )
    alike = snapshot(pool(differs={"site": differs["site"]}))
    assert only(alike, here)[3].endswith("; this command is of site 482913.")


@pytest.mark.parametrize(("site", "own", "title"), [
    (120042, 482913, "The workers of pool default are of another site than this command"),
    (482913, 482913, None), (None, 482913, None), (120042, 0, None),
])  # fmt: skip
def test_a_command_of_another_site_than_the_workers(site, own, title):
    titles = [each.title for each in found(snapshot(pool(site=site)), replace(details(), prefix="shop", site=own))]
    assert titles == ([title] if title else [])


@pytest.mark.parametrize(("overdue", "would", "detail"), [
    (1400, {}, "1,400 were closed with 1008 at PENDING_DEADLINE since 01 Mar 12:03:07 UTC."),
    (0, {"overdue": 3}, "0 were closed with 1008 at PENDING_DEADLINE since 01 Mar 12:03:07 UTC, 3 would have been but "
                        "for the dry run."),
])  # fmt: skip
def test_a_pool_with_a_deadline_in_which_none_has_ever_authenticated(overdue, would, detail):
    seen = pool(overdue=overdue, would_refuse=would, none_authenticated=True, since=float(AT))
    assert only(snapshot(seen)) == (
        "none-authenticated", "warning", "No connection of pool default has ever authenticated", detail,
    )  # fmt: skip
    (finding,) = found(snapshot(seen))
    assert finding.advice.startswith("If users do log in, the AdmissionMiddleware does not see it: put one inside the")
    assert found(snapshot(replace(seen, none_authenticated=False))) == []


def test_workers_of_several_versions_that_count_together_are_a_note():
    old = [worker(id=f"web-1:{pid}:ab", pid=pid, release="0.1.0") for pid in range(7)]
    workers = (*old, worker(id="web-2:7:ab", uptime=5.0, release="0.2.0"), worker(id="web-3:7:ab", uptime=1.0))
    assert only(snapshot(pool(*workers))) == (
        "releases-differ",
        "note",
        "Workers of pool default run different versions of channels-admission",
        "Version 0.1.0 on web-1 0, web-1 1, web-1 2, web-1 3, web-1 4 and 2 more; 0.2.0 on web-2 7; unknown on "
        "web-3 7.",
    )


def test_workers_whose_counts_are_kept_apart_are_a_warning():
    seen = snapshot(pool(worker(release="0.2.0"), elsewhere=Elsewhere(12, 3)))
    assert only(seen) == (
        "releases-differ",
        "warning",
        "Workers of pool default run versions that count apart",
        "12 slots are held by workers that this command does not see: 3 that do not drain. "
        "Those that it sees run version 0.2.0 on web-1 42.",
    )
    assert f"This command is of {__version__}." in found(seen)[0].advice
    unseen = snapshot(replace(pool(), workers=(), elsewhere=Elsewhere(0, 3)))
    (_, _, _, detail) = only(unseen)
    assert detail.endswith("Those that it sees run version none."), "and not that no worker is known"


def test_the_limit_of_a_pool_with_several_comes_from_the_strictest_and_that_is_the_cause_of_its_filling():
    differs = {"limit": (Side(20, 1, ("web-1:43:ab",)), Side(50, 1, ("web-1:42:ab",)))}
    first, second = found(snapshot(pool(held=16, limit=20, level=Level.WARNING, differs=differs)))
    assert (first.id, second.id) == ("settings-differ", "limit-near")
    assert second.detail.endswith(f"The limit comes from the strictest {SETTING} of the workers.")


@pytest.mark.parametrize("level", [Level.WARNING, Level.CRITICAL])
def test_a_pool_that_fills_up(level):
    assert only(snapshot(pool(held=46, level=level)))[:3] == ("limit-near", "warning", "Pool default is filling up")


def test_another_limit_in_force_than_here():
    assert only(snapshot(), details(limit=70)) == (
        "limit-differs",
        "warning",
        "The limit of pool default differs from the settings of this command",
        f"It is 50 on web-1 42; {SETTING} of this command is 70.",
    )
    workers = [worker(pid=pid, id=f"web-1:{pid}:ab") for pid in range(7)]
    detail = only(snapshot(pool(*workers)), details(limit=70))[3]
    assert detail.startswith("It is 50 on web-1 0, web-1 1, web-1 2, web-1 3, web-1 4 and 2 more; ")


def test_a_blocked_loop_names_the_worst_worker_first():
    seen = snapshot(pool(worker(load=loads(lag=0.12)), worker(pid=43, load=loads(lag=0.32)), worker(pid=44)))
    assert only(seen) == (
        "loop-blocked",
        "critical",
        "The event loop of web-1 43 is blocked",
        "web-1 43: p99 320 ms, CPU 5 %; web-1 42: p99 120 ms, CPU 5 %; 100 ms are allowed",
    )
    assert "py-spy dump --pid 43" in found(seen)[0].advice


def test_a_blocked_loop_with_its_median_and_longest_delay():
    lag = Load("lag", 0.296, 0.49, 0.1, 0.3)
    (finding,) = found(snapshot(pool(worker(load=(lag,)), worker(id="web-1:42:cd", load=(replace(lag, longest=0.4),)))))
    assert finding.detail.startswith("web-1 42: p50 100 ms, p99 296 ms, max 400 ms, CPU unknown")


def test_a_lag_of_100_ms_is_none():
    assert found(snapshot(pool(worker(load=loads(lag=0.1))))) == []


def test_a_blocked_loop_on_a_busy_core_wants_workers():
    (finding,) = found(snapshot(pool(worker(load=loads(lag=0.2, cpu=0.97)))))
    assert finding.advice == "The core is busy: add workers, or do less for each message."


def test_a_worker_that_is_silent_for_more_than_two_beats_and_a_second():
    seen = snapshot(pool(worker(silence=7.1), worker(pid=43, silence=16.04), worker(pid=44, silence=7.0)))
    assert only(seen) == (
        "worker-silent",
        "critical",
        "web-1 43 has stopped reporting",
        "web-1 43: silent for 16.0 s; web-1 42: silent for 7.1 s; 7 s are allowed",
    )
    assert "py-spy dump --pid 43" in found(seen)[0].advice
    assert found(seen)[0].advice.startswith("It is blocked, stopped or gone, or it cannot reach Redis.")
    assert ids(seen, replace(details(), heartbeat=8.0)) == []


@pytest.mark.parametrize(
    ("state", "title", "advice"),
    [
        ("stopped", "web-1 42 is stopped", "Something has stopped its process: SIGSTOP, a debugger or a shell."),
        ("running", "web-1 42 has stopped reporting", "It runs, but its event loop is blocked, or it cannot reach"),
    ],
)
def test_a_silent_worker_of_this_host_by_the_state_of_its_process(state, title, advice):
    seen, known = snapshot(pool(worker(silence=9.0))), details({("web-1", 42): ProcessInfo(state=state)})
    assert only(seen, known)[2:] == (title, f"web-1 42: silent for 9.0 s, {state}; 7 s are allowed")
    assert found(seen, known)[0].advice.startswith(advice)


def test_a_killed_worker_comes_before_the_herd_of_its_clients():
    herd = Connects(6400, 21, (Second(AT, 850),))
    seen = snapshot(pool(worker(silence=4.6), worker(pid=43, silence=4.6, held=3), connects=herd))
    gone = details({("web-1", pid): ProcessInfo(state="absent") for pid in (42, 43)})
    finding, next_one = found(seen, gone)
    assert (finding.id, finding.severity, next_one.id) == ("worker-killed", "critical", "herd")
    assert finding.title == "web-1 42 was killed, or has ended without a goodbye"
    assert finding.detail == "web-1 42: held 20, last report 4.6 s ago; web-1 43: held 3, last report 4.6 s ago"
    assert "OOM killer" in finding.advice
    assert ids(snapshot(pool(worker(silence=4.4))), gone) == []
    assert ids(snapshot(pool(worker(silence=9.0))), gone) == ["worker-killed"]


def test_sync_code_that_waits_for_its_thread():
    def blocked(pid: int, seconds: float, **changes) -> WorkerSnapshot:
        return worker(pid=pid, load=(*loads(), Load("threads", seconds, 0.0)), **changes)

    worst = blocked(43, 12.0, jobs_waiting=30, threads_busy=1)
    assert only(snapshot(pool(blocked(42, 1.25), worst, blocked(44, 1.0)))) == (
        "threads-blocked",
        "critical",
        "The sync code of web-1 43 waits for its thread",
        "web-1 43: a job waits 12.0 s before it begins, waiting: 30, threads busy: 1; "
        "web-1 42: a job waits 1.2 s before it begins; 1 s is allowed",
    )


def test_an_event_loop_is_silent_when_none_of_its_pools_reports():
    late = worker(silence=9.0)
    one_pool_reports = snapshot(pool(late), pool(worker(silence=0.4), name="chat"))
    one_loop_does_not = snapshot(pool(late, worker(id="web-1:42:cd")))
    known = details(names=("default", "chat"))
    for seen, silence, expected in ((one_pool_reports, 0.4, []), (one_loop_does_not, 9.0, ["worker-silent"])):
        diagnosis = diagnose(seen, known)
        assert [process.silence for process in diagnosis.processes] == [silence]
        assert [finding.id for finding in diagnosis.findings] == expected


def test_of_many_workers_the_first_few_are_named():
    seen = snapshot(pool(*(worker(pid=number, load=loads(lag=0.2)) for number in range(1, 8))))
    assert found(seen)[0].detail.endswith("web-1 5: p99 200 ms, CPU 5 %; and 2 more; 100 ms are allowed")


@pytest.mark.parametrize(
    ("load", "severity"),
    [
        (loads(memory=0.84), None),
        (loads(memory=0.85), "warning"),
        (loads(memory=0.5, memory_pressure=0.2), "warning"),
        (loads(memory=0.95), "critical"),
        (loads(memory=0.5, memory_pressure=1.0), "critical"),
        (loads(memory=None), None),
    ],
)
def test_memory_by_the_shares_and_by_what_its_monitor_refuses(load, severity):
    assert [finding.severity for finding in found(snapshot(pool(worker(load=load))))] == [severity] * bool(severity)


def test_memory_with_what_the_process_itself_has():
    known = details({("web-1", 42): ProcessInfo(memory=300 * 2**20)})
    seen = snapshot(pool(worker(load=loads(memory=0.97)), worker(host="web-2", load=loads(memory=0.9))))
    assert only(seen, known) == (
        "memory-short",
        "critical",
        "A worker is short of memory",
        "web-1 42: 97 % used, 300 MiB resident; web-2 42: 90 % used",
    )


def test_descriptors_as_seen_now_where_they_can_be_seen():
    known = details({("web-1", 42): ProcessInfo(open_files=990, allowed_files=1024)})
    seen = snapshot(pool(worker(), worker(host="web-2", load=loads(descriptors=0.88))))
    assert only(seen, known) == (
        "descriptors-short",
        "critical",
        "A worker is short of file descriptors",
        "web-1 42: 990 of 1,024 open files; web-2 42: 88 % of the open files allowed",
    )


def test_another_monitor_that_refuses():
    load = (*loads(cpu_pressure=0.64), Load("queue", 7.0, 1.0))
    assert only(snapshot(pool(worker(load=load)))) == (
        "monitor-refuses",
        "warning",
        "A monitor refuses connections",
        "web-1 42: 64 % for cpu, 100 % for queue",
    )


def test_a_lag_that_is_over_still_refuses_for_a_while():
    assert ids(snapshot(pool(worker(load=loads(lag=0.08, lag_pressure=0.1))))) == ["monitor-refuses"]
    assert ids(snapshot(pool(worker(load=loads(lag=0.3, lag_pressure=0.5))))) == ["loop-blocked"]


@pytest.mark.parametrize(
    ("sockets", "expected"),
    [(16, ["sockets-missing"]), (17, []), (20, []), (31, []), (32, ["sockets-beyond"]), (None, [])],
)
def test_sockets_that_differ_from_what_is_counted(sockets, expected):
    known = details({("web-1", 42): ProcessInfo(None if sockets is None else {8000: 10, 8001: sockets - 10})})
    assert ids(snapshot(), known) == expected
    if expected:
        assert found(snapshot(), known)[0].detail == f"web-1 42: {sockets} established, 20 counted"


def test_a_connection_with_a_slot_in_two_pools_is_one_socket():
    seen = snapshot(pool(), pool(worker(held=15), name="chat"))
    known = details({("web-1", 42): ProcessInfo({8000: 20})}, names=("default", "chat"))
    diagnosis = diagnose(seen, known)
    (process,) = diagnosis.processes
    assert (process.held, process.connections, process.sockets) == (35, 20, 20)
    assert diagnosis.findings == ()


def test_event_loops_of_one_process_are_looked_at_together():
    seen = snapshot(pool(worker(), worker(id="web-1:42:cd", held=3, load=loads(lag=0.3))))
    (process,) = diagnose(seen, details()).processes
    assert (process.held, process.connections, process.reading("lag")) == (23, 23, 0.3)


def test_no_worker():
    seen = snapshot(pool(workers=(), held=0))
    assert only(seen)[:3] == ("no-worker", "warning", "No worker is known")


def test_admission_switched_off():
    assert only(snapshot(pool(workers=(), held=0), enabled=False))[0] == "admission-off"


def test_counts_that_cannot_be_seen():
    ledger = LedgerSnapshot("memory", "this process", Health.OK)
    assert only(snapshot(pool(workers=(), held=0), ledger=ledger))[0] == "counts-unseen"


def test_full_channels_that_ended_connections():
    assert only(snapshot(pool(channels_full=7)))[:3] == (
        "channels-full",
        "note",
        "Full channels have ended 7 connections of pool default so far",
    )


@pytest.mark.parametrize(
    ("layer", "told", "advised"),
    [
        (Layer(CORE_LAYER, 100, True), f"the layer is {CORE_LAYER}. It is in the Redis of the ledger.", "they stay"),
        (Layer("a.b.Layer"), "the layer is a.b.Layer.", "Find out why"),
        (Layer(), "the layer is unknown here.", "Find out why"),
    ],
)
def test_connections_that_the_channel_layer_ended(layer, told, advised):
    seen = snapshot(pool(worker(layer_failed=7), worker(id="web-2:7:cd", pid=7, layer_failed=40)))
    (finding,) = found(seen, replace(details(), layer=layer))
    assert (finding.id, finding.severity) == ("layer-failed", "note")
    assert finding.title == "The channel layer failed and ended 47 connections"
    assert finding.detail == f"web-1 7: 40 in 1 min 15 s; web-1 42: 7 in 1 min 15 s; {told}"
    assert advised in finding.advice


def test_refusals_by_single_workers_that_no_balancer_passes_on():
    recent = Connects(9, 0, refused={"full": 5, "draining": 3, "lag": 1, "other": 2, "quota:user": 1}, refused_at=AT)
    two = (worker(), worker(id="web-1:43:cd", pid=43))
    (finding, *_) = [each for each in found(snapshot(pool(*two, connects=recent))) if each.id == "refusals-unpassed"]
    assert finding.severity == "warning"
    assert "4 were refused: draining, lag." in finding.detail
    assert "refusals-unpassed" not in ids(snapshot(pool(*two, connects=recent, passed=1)))
    assert "refusals-unpassed" not in ids(snapshot(pool(connects=recent)))
    others = replace(recent, refused={"full": 5, "other": 2})
    assert "refusals-unpassed" not in ids(snapshot(pool(*two, connects=others)))


def test_consumers_that_accept_too_late():
    (finding,) = found(snapshot(pool(unaccepted=4)))
    assert (finding.id, finding.severity) == ("accepts-late", "note")
    assert finding.title == "Consumers of pool default have not accepted 4 connections in time so far"
    assert "database_sync_to_async" in finding.advice


def test_connections_that_wait_for_their_consumer():
    waiting = worker(id="web-1:43:cd", pid=43, held=40, accepting=25)
    (finding,) = found(snapshot(pool(worker(accepting=10), waiting)))
    assert (finding.id, finding.severity) == ("accepts-wait", "warning")
    assert finding.title == "25 connections of web-1 43 wait for their consumer to accept them"
    assert finding.detail == "web-1 43: 25 of 40 connections"
    assert "py-spy dump --pid 43" in finding.advice


def test_handlers_that_outlive_their_client():
    assert only(snapshot(pool(outlived=20)))[:3] == (
        "handlers-outlive",
        "note",
        "Handlers of pool default have outlived their client 20 times so far",
    )


def test_places_in_the_line_that_many_clients_miss():
    assert only(snapshot(pool(promised=5000, redeemed=1080, missed=120)))[:3] == (
        "places-missed",
        "note",
        "Clients of pool default came too late for 120 of 1,200 places in the line",
    )
    assert found(snapshot(pool(promised=5000, redeemed=1081, missed=120))) == []
    assert found(snapshot(pool(promised=50, redeemed=0, missed=19))) == []


def test_events_that_were_dropped():
    assert only(snapshot(pool(events_dropped=1200)))[:3] == (
        "events-dropped",
        "note",
        "Workers have dropped 1,200 events of pool default so far",
    )


def test_workers_that_were_lost_and_leave_no_other_trace():
    assert only(snapshot(pool(lost=1200)))[:3] == (
        "workers-lost",
        "note",
        "1,200 workers of pool default lost without a goodbye so far",
    )


def test_damaged_counts_that_were_put_right():
    assert only(snapshot(pool(healed=3)))[:3] == (
        "ledger-damaged",
        "note",
        "Damaged counts of pool default in the ledger were repaired 3 times so far",
    )


@pytest.mark.parametrize(
    ("event", "identifier", "changes"),
    [
        ("channels_full", "channels-full", {"channels_full": 7}),
        ("unaccepted", "accepts-late", {"unaccepted": 7}),
        ("healed", "ledger-damaged", {"healed": 7}),
        ("lost", "workers-lost", {"lost": 7}),
        ("events_dropped", "events-dropped", {"events_dropped": 7}),
        ("shed", "connections-shed", {"shed": 7}),
        ("layer_failed", "layer-failed", {"workers": (worker(layer_failed=7),)}),
        ("faults", "heartbeat-errors", {"workers": (worker(faults={"OSError": 7}),)}),
        ("data_lost", "data-lost", {}),
    ],
)
def test_an_incident_of_the_last_five_minutes_is_a_warning_and_an_older_one_a_note(event, identifier, changes):
    now = int(snapshot().taken.timestamp())
    seen = {age: found(snapshot(pool(**changes, latest={event: now - age}))) for age in (299, 301)}
    assert {age: [(each.id, each.severity) for each in findings] for age, findings in seen.items()} == {
        299: [(identifier, "warning")], 301: [(identifier, "note")],
    }  # fmt: skip
    assert f"{datetime.fromtimestamp(now - 299, UTC):%H:%M:%S} UTC" in seen[299][0].title + seen[299][0].detail


@pytest.mark.parametrize("skew", [-3600, 3600])
def test_incidents_are_dated_by_the_clock_of_the_ledger_and_not_by_that_of_the_host(skew):
    now = snapshot().taken.timestamp() + skew
    seen = [found(snapshot(pool(lost=7, latest={"lost": int(now - age)}, now=now))) for age in (200, 400)]
    assert [[finding.severity for finding in findings] for findings in seen] == [["warning"], ["note"]]


def test_lost_workers_are_named_and_one_is_no_plural():
    (finding,) = found(snapshot(pool(lost=1, lost_workers=(LostWorker("web-1", 41, AT),))))
    assert finding.title == "1 worker of pool default lost without a goodbye so far"
    assert finding.detail.endswith("whole lease. The last: web-1 41 at 12:03:07 UTC.")


def test_unexpected_errors_name_the_worker_and_their_kinds():
    faulty = worker(pid=43, faults={"OverflowError": 2, "OSError": 1200})
    loops = (worker(faults={"OSError": 3}), worker(id="web-1:42:cd", faults={"OSError": 1, "ValueError": 1}))
    assert only(snapshot(pool(*loops, faulty, worker(pid=44)))) == (
        "heartbeat-errors",
        "note",
        "The heartbeat of web-1 43 has had unexpected errors",
        "web-1 43: 1,200 OSError, 2 OverflowError; web-1 42: 4 OSError, 1 ValueError; since the worker started",
    )


def test_functions_of_the_site_that_raise_are_no_errors_of_the_heartbeat():
    busy = worker(pid=43, faults={"QUOTAS.tenant": 1200, "PRESSURE.q": 7, "CLASSIFY": 2})
    found_ones = found(snapshot(pool(busy, worker(faults={"CLASSIFY": 1, "OSError": 3}))))
    assert [(each.id, each.severity, each.title, each.detail) for each in found_ones] == [
        (
            "heartbeat-errors",
            "note",
            "The heartbeat of web-1 42 has had unexpected errors",
            "web-1 42: 3 OSError; since the worker started",
        ),
        (
            "functions-fail",
            "note",
            "Functions of the site have raised exceptions in web-1 43",
            "web-1 43: 1,200 QUOTAS.tenant, 7 PRESSURE.q, 2 CLASSIFY; web-1 42: 1 CLASSIFY; since the worker started",
        ),
    ]


def test_every_reason_has_advice():
    assert {*REFUSED} == {*Reason}


def test_refusals_are_noted_by_reason():
    seen = snapshot(pool(refused={"ledger": 2, "full": 1480, "rate": 0}))
    assert only(seen) == (
        "refusals",
        "note",
        "Pool default has refused 1,482 connections so far",
        "By reason: 1,480 full, 2 ledger. In the last five minutes none",
    )
    assert diagnose(seen, details()).exit_code == 0
    assert found(seen)[0].advice == "For full: raise the limit, if there is room."


def test_refusals_have_a_time_and_those_of_the_last_five_minutes_are_a_warning():
    lately = Connects(100, 0, refused={"lag": 10, "memory": 2}, refused_at=AT)
    seen = snapshot(pool(refused={"full": 1480, "lag": 10, "memory": 2}, connects=lately, since=AT - 86400))
    assert only(seen) == (
        "refusals",
        "warning",
        "Pool default has refused 1,492 connections since 28 Feb 12:03:07 UTC",
        "By reason: 1,480 full, 10 lag, 2 memory. In the last five minutes 12, the latest at 12:03:07 UTC: "
        "10 lag, 2 memory",
    )
    assert found(seen)[0].advice == "For lag: a monitor refused; see the readings of the workers."
    wanted = Connects(100, 0, refused={"quota:user": 5, "draining": 1}, refused_at=AT)
    assert only(snapshot(pool(refused={"quota:user": 5}, connects=wanted)))[1] == "note"


def test_a_worker_that_a_late_ledger_does_not_hear_decides_alone():
    silent = late(worker(silence=9.0), took=0.6)
    assert [(each.id, each.severity) for each in found(silent)] == [
        ("ledger-late", "critical"),
        ("worker-silent", "critical"),
    ]
    assert ids(late(worker(silence=9.0))) == ["worker-silent"]
    gone = snapshot(pool(workers=(), held=0))
    assert ids(replace(gone, ledger=replace(gone.ledger, took=0.6))) == ["ledger-late", "no-worker"]


def test_connections_closed_for_lack_of_memory():
    shed = worker(pid=43, uptime=7500.0, shed=9, load=loads(memory=0.81))
    seen = snapshot(pool(worker(), shed, worker(pid=44, shed=1), shed=12, since=AT - 86400))
    assert only(seen) == (
        "connections-shed",
        "note",
        "Workers have closed 12 connections because memory ran out since 28 Feb 12:03:07 UTC",
        "web-1 43: 9 in 2 h 5 min, memory now 81 %; web-1 44: 1 in 1 min 15 s, memory now 50 %",
    )
    assert only(snapshot(pool(shed=3)))[2:] == (
        "Workers have closed 3 connections because memory ran out so far",
        "The workers that did have ended",
    )


def late(*workers: WorkerSnapshot, took: float = 0.01) -> Snapshot:
    seen = snapshot(pool(*workers))
    return replace(seen, ledger=replace(seen.ledger, took=took))


def test_a_ledger_that_answers_too_late_for_all_workers():
    alone = worker(calls=LedgerCalls(39, 39, 9.8), failing=39)
    assert only(late(alone, worker(pid=43, calls=LedgerCalls(100, 2, 1.0), failing=1), took=0.612)) == (
        "ledger-late",
        "critical",
        "The ledger answers too late: 2 of 2 workers decide alone",
        "web-1 42: 39 of 39 calls failed in 1 min 15 s, the last 39 in a row; "
        "web-1 43: 2 of 100 calls failed in 1 min 15 s, the last 1 in a row; "
        "a call took 78 ms on average; this command read it in 612 ms; LEDGER_TIMEOUT is 250 ms",
    )


@pytest.mark.parametrize(
    ("changes", "took", "alone"),
    [
        ({"calls": LedgerCalls(100, 9, 1.0), "failing": 2}, 0.01, 1),
        ({"calls": LedgerCalls(100, 6, 1.0)}, 0.01, 0),
        ({"calls": LedgerCalls(100, 5, 1.0)}, 0.255, 0),
        ({"calls": LedgerCalls(100, 5, 1.0)}, 0.254, None),
    ],
)
def test_calls_that_fail_or_a_slow_reading_are_a_warning(changes, took, alone):
    title = f"The ledger answers too late: {alone} of 2 workers {'decides' if alone == 1 else 'decide'} alone"
    seen = late(worker(**changes), worker(pid=43), took=took)
    assert [(each.severity, each.title) for each in found(seen)] == [("warning", title)] * (alone is not None)


def test_the_gravest_comes_first_and_the_cause_before_what_it_causes():
    herd = Connects(850, 0, (Second(AT, 850),))
    busy = worker(load=(*loads(lag=0.4, memory=0.96, descriptors=0.96), Load("queue", 1.0, 0.5)))
    full = pool(busy, held=50, level=Level.FULL, refused={"full": 9}, connects=herd)
    assert ids(snapshot(full), details({("web-1", 42): ProcessInfo({80: 5})})) == [
        "herd", "memory-short", "descriptors-short", "loop-blocked", "limit-reached",
        "monitor-refuses", "sockets-missing", "refusals",
    ]  # fmt: skip


def test_the_exit_code_is_that_of_the_gravest():
    assert diagnose(snapshot(pool(held=46, level=Level.CRITICAL)), details()).exit_code == 1
    assert diagnose(snapshot(pool(held=50, level=Level.FULL)), details()).exit_code == 2


# Host


async def test_the_sockets_of_this_process_by_port(admission):
    settings = admission(POOLS={"chat": {"MAX_CONNECTIONS": 7}})
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as idle:
        clients = [socket.create_connection(server.getsockname()) for _ in range(3)]
        accepted = [server.accept()[0] for _ in range(3)]
        ours = worker(host=host(), pid=os.getpid(), uptime=0.1)
        seen = gather(snapshot(pool(ours, worker(), worker(host=host(), pid=2**22 + 5))), settings)
        process = seen.processes[host(), os.getpid()]
        ports = {each.getsockname()[1]: count for each, count in ((server, 3), (idle, 0))}
        assert {port: process.sockets[port] for port in ports} == ports
        for each in (*clients, *accepted):
            each.close()
    assert seen.processes == {(host(), os.getpid()): process, (host(), 2**22 + 5): ProcessInfo(state="absent")}
    assert process.state == "running"
    assert process.open_files > 3
    assert process.allowed_files == psutil.Process().rlimit(psutil.RLIMIT_NOFILE)[0]
    assert process.memory > 2**20
    assert seen.origins["chat"] == Origin(7, "CHANNELS_ADMISSION['POOLS']['chat']['MAX_CONNECTIONS']")


def test_another_process_under_the_number_of_a_worker_is_not_taken_for_it(admission):
    older = worker(host=host(), pid=os.getpid(), uptime=10**9)
    assert gather(snapshot(pool(older)), admission()).processes == {
        (host(), os.getpid()): ProcessInfo(state="absent"),
    }


def test_what_the_kernel_does_not_tell_is_unknown(admission, monkeypatch):
    def denied(*_):
        raise psutil.AccessDenied

    state = psutil.Process().status()
    for name in ("net_connections", "num_fds", "memory_info"):
        monkeypatch.setattr(psutil.Process, name, denied)
    seen = gather(snapshot(pool(worker(host=host(), pid=os.getpid(), uptime=0.1))), admission())
    assert list(seen.processes.values()) == [ProcessInfo(state=state)]


def test_where_a_limit_is_written(admission):
    admission(MAX_CONNECTIONS=9, POOLS={"chat": {"MAX_CONNECTIONS": 7}, "feed": {}})
    assert conf.origin("chat", "MAX_CONNECTIONS") == "CHANNELS_ADMISSION['POOLS']['chat']['MAX_CONNECTIONS']"
    assert conf.origin("feed", "MAX_CONNECTIONS") == SETTING
    assert conf.origin("default", "WARN_AT") == "the default"


@pytest.mark.parametrize(
    ("configured", "layer"),
    [
        ({}, Layer()),
        ({"BACKEND": "channels.layers.InMemoryChannelLayer"}, Layer("channels.layers.InMemoryChannelLayer", 100)),
        (
            {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"capacity": 1500}},
            Layer("channels_redis.core.RedisChannelLayer", 1500),
        ),
        (
            {"BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer", "CONFIG": {"capacity": 1500}},
            Layer("channels_redis.pubsub.RedisPubSubChannelLayer"),
        ),
        ({"BACKEND": "no.such.Layer"}, Layer("no.such.Layer")),
    ],
)
def test_the_channel_layer(admission, settings, configured, layer):
    settings.CHANNEL_LAYERS = {"default": configured} if configured else {}
    assert gather(snapshot(), admission()).layer == layer


# On a terminal and as JSON


def shown(diagnosis: Diagnosis, **options) -> str:
    return printed(render(diagnosis), **options)


def test_the_sample_in_the_documents_is_what_is_printed_in_eighty_columns():
    connects = Connects(6400, 21, (Second(AT, 850), Second(AT + 1, 97)))
    ours = worker(held=310, load=loads(lag=0.004))
    theirs = worker(host="web-2", pid=7, held=290, load=loads(lag=0.003, memory=0.55, descriptors=0.3))
    full = pool(ours, theirs, held=600, limit=1000, refused={"lag": 212}, connects=connects)
    known = details({("web-1", 42): ProcessInfo({8000: 312}, 331, 1024, 64 * 2**20)}, limit=1000)
    known = replace(known, layer=Layer("channels_redis.core.RedisChannelLayer", 100))
    text = shown(diagnose(snapshot(full), known))
    (sample,) = re.findall(r"^```\n(Diagnosis .*?)\n```", PAGE, re.MULTILINE | re.DOTALL)
    assert text.splitlines() == sample.splitlines()
    assert max(map(len, text.splitlines())) <= WIDTH


def test_each_port_has_its_line():
    text = shown(diagnose(snapshot(), details({("web-1", 42): ProcessInfo({8000: 19, 8001: 1})})))
    assert "  42 8000      19 " in text
    assert [line.split() for line in text.splitlines() if " 8001 " in line] == [["8001", "1"]]


def test_of_many_workers_those_of_this_host_are_shown_and_the_fullest():
    many = [worker(host="web-2", pid=pid, held=pid) for pid in range(1, 31)]
    diagnosis = diagnose(snapshot(pool(worker(), *many)), details({("web-1", 42): ProcessInfo({8000: 9})}))
    lines = [line.split() for line in shown(diagnosis).splitlines() if line.startswith("web-")]
    assert [line[:2] for line in lines] == [["web-1", "42"], *(["web-2", str(pid)] for pid in range(30, 11, -1))]
    assert "11 more workers (--json)" in shown(diagnosis)
    assert len(diagnosis.as_dict()["processes"]) == 31


def test_a_sound_site_is_told_so():
    assert "Nothing needs attention." in shown(diagnose(snapshot(), details()))


def test_what_the_ledger_says_is_neither_markup_nor_obeyed():
    hostile = "[red]a[/red]\x1b[31m\x07\u202e\n[b]"
    bad = worker(host=hostile, server=hostile, load=(*loads(lag=0.3), Load(hostile, 1.0, 1.0)))
    ledger = LedgerSnapshot(hostile, hostile, Health.DOWN, hostile)
    text = shown(diagnose(snapshot(pool(bad, refused={hostile: 3}), ledger=ledger), details()))
    assert set(text) & {"\x1b", "\x07", "\u202e"} == set()
    assert "[red]a[/red]?[31m?? [b]" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= WIDTH


def test_the_largest_numbers_fit():
    known = ProcessInfo({65535: 1_000_000}, 1_000_000, 1_048_576, 2**40)
    busy = worker(pid=4194304, held=10_000_000, load=loads(lag=123.456, memory=1, descriptors=1, cpu=12.34))
    text = shown(diagnose(snapshot(pool(busy)), details({("web-1", 4194304): known})))
    assert max(map(len, text.splitlines())) <= WIDTH


def test_a_severity_has_a_colour_and_needs_none():
    diagnosis = diagnose(snapshot(pool(held=50, level=Level.FULL)), details())
    assert "\x1b[1;31mCritical" in shown(diagnosis, color_system="standard", force_terminal=True)
    assert "Critical" in shown(diagnosis)


@pytest.mark.parametrize("kind", [Diagnosis, Finding, Limit, Process, Layer])
def test_help_tells_every_field_of_the_json(kind):
    text = Command().create_parser("manage.py", "ws_status").format_help()
    told = text.partition("--diagnose --json")[2]
    assert [field.name for field in fields(kind) if field.name not in told] == []


def test_the_command_exits_with_what_it_found(admission):
    admission(MAX_CONNECTIONS=5)
    out = io.StringIO()
    with pytest.raises(SystemExit) as caught:
        call_command("ws_status", "--diagnose", "--json", stdout=out)
    told = json.loads(out.getvalue())
    assert caught.value.code == told["exit_code"] == 1
    assert [finding["id"] for finding in told["findings"]] == ["counts-unseen"]


def test_a_ledger_that_is_down_exits_with_2(admission):
    admission(LEDGER="redis://127.0.0.1:1/0")
    out = io.StringIO()
    with pytest.raises(SystemExit) as caught:
        call_command("ws_status", "--diagnose", stdout=out)
    assert caught.value.code == 2
    assert "1  The ledger cannot be read, so the workers are unknown" in out.getvalue()


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_wrong_settings_exit_with_2_since_1_would_be_a_warning(settings, options):
    settings.CHANNELS_ADMISSION = {"MAX_CONNECTIONS": "many"}
    out = io.StringIO()
    with pytest.raises(CommandError, match=r"\['MAX_CONNECTIONS'\] must be a whole number") as caught:
        call_command("ws_status", "--diagnose", *options, stdout=out)
    assert (out.getvalue(), caught.value.returncode) == ("", 2)


def test_it_looks_at_all_pools(admission):
    admission()
    with pytest.raises(CommandError, match="not allowed with argument"):
        call_command("ws_status", "--diagnose", "--pool=default")


def test_the_documents_tell_every_finding():
    table = PAGE.partition("| finding |")[2].partition("\n\n")[0]
    told = re.findall(r"`([a-z]+-?[a-z]+)`", table)
    assert sorted(told) == sorted(WEIGHTS)

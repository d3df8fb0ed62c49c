"""Which workers are shown of many, in which order, and a line for each host and each pool."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from rich.console import Group

from channels_admission.core.levels import Level
from channels_admission.core.readings import Load
from channels_admission.management.terminal.status import status
from channels_admission.management.terminal.workers import FEW, HOSTS, SORTS, TOP, Listing, listed
from channels_admission.status.values import Connects, Health, LedgerSnapshot, PoolSnapshot, Snapshot, WorkerSnapshot

from support.screen import WIDTH, printed


def worker(number: int, **changes) -> WorkerSnapshot:
    made = WorkerSnapshot(
        id=f"web-{number // 50}:{number}:ab", host=f"web-{number // 50}", pid=number, server="uvicorn", held=20,
        silence=0.4, uptime=7500.0, load=(Load("lag", 0.004, 0.0), Load("memory", 0.5, 0.0)),
    )  # fmt: skip
    return replace(made, **changes)


MANY = [worker(number) for number in range(200)]
SICK = [
    replace(MANY[150], silent=True, silence=9.5),
    replace(MANY[50], failing=3),
    replace(MANY[120], load=(Load("lag", 0.3, 0.5), Load("memory", 0.9, 0.5))),
    replace(MANY[60], load=(Load("memory", 0.86, 0.1),)),
    replace(MANY[199], faults={"OSError": 1}),
    replace(MANY[3], draining=True),
    replace(MANY[77], held=21),
]
"""The worst first."""
ALL = [next((sick for sick in SICK if sick.pid == each.pid), each) for each in MANY]


def lines(*args) -> list[str]:
    return printed(Group(*listed(*args))).splitlines()


def pids(workers: list[WorkerSnapshot]) -> list[int]:
    return [worker.pid for worker in workers]


def test_the_worst_come_first():
    assert pids(Listing().shown(ALL)) == [*pids(SICK), 0, 1, 2]


def test_what_waits_in_a_worker_has_a_line():
    behind = replace(MANY[0], jobs_waiting=1, threads_busy=1, accepting=25)
    told = lines([behind, replace(MANY[1], accepting=1), MANY[2]], Listing())
    assert told[-3:] == [
        "web-0 0 waiting: 1 job of sync code (threads busy: 1), 25 connections to be",
        "accepted",
        "web-0 1 waiting: 1 connection to be accepted",
    ]


@pytest.mark.parametrize(("top", "shown"), [(None, TOP), (0, 200), (3, 3), (500, 200)])
def test_as_many_as_are_asked_for(top, shown):
    assert len(Listing(top).shown(ALL)) == shown


def test_all_of_a_few():
    assert len(Listing().shown(ALL[:FEW])) == FEW
    assert len(Listing().shown(ALL[: FEW + 1])) == TOP


@pytest.mark.parametrize(
    ("sort", "first"),
    [("held", 77), ("seen", 150), ("lag", 120), ("mem", 120), ("up", 7), ("host", 0), ("files", 8), ("cpu", 9)],
)
def test_each_order(sort, first):
    odd = {
        7: {"uptime": 1.0},
        8: {"load": (Load("descriptors", 0.2, 0.0),)},
        9: {"load": (Load("cpu", 0.2, 0.0),)},
    }
    workers = [replace(each, **odd.get(each.pid, {})) for each in ALL]
    assert Listing(sort=sort).shown(workers)[0].pid == first


def test_every_order_is_tried_above():
    assert set(SORTS) == {"worst", "held", "seen", "lag", "mem", "up", "host", "files", "cpu"}


def test_two_hundred_workers_on_a_screen():
    told = lines(ALL, Listing())
    assert len(told) == 22
    assert told[11:15] == [
        "web-1 50 decides alone: its last 3 calls to the ledger failed",
        "web-2 120 refuses 50 % for lag, 50 % for memory",
        "web-1 60 refuses 10 % for memory",
        "web-3 199 has had unexpected errors: 1 OSError",
    ]
    assert told[15] == "190 more workers (--top 0)"
    assert [line.split()[:5] for line in told[17:]] == [
        ["host", "workers", "held", "silent", "refusing"],
        ["web-3", "50", "1,000", "1", "0"],
        ["web-1", "50", "1,001", "0", "1"],
        ["web-2", "50", "1,000", "0", "1"],
        ["web-0", "50", "1,000", "0", "0"],
    ]
    assert max(map(len, told)) <= WIDTH


def test_what_is_left_out_is_told():
    assert "198 more workers, silent, deciding alone or refusing: 2 (--top 0)" in lines(ALL, Listing(top=2))


def test_many_hosts():
    told = lines([worker(50 * number) for number in range(300)], Listing())
    assert told[-1].strip() == f"{300 - HOSTS} more hosts"
    assert len(told) == 1 + TOP + 1 + 1 + 1 + HOSTS + 1


def pool(name: str, **changes) -> PoolSnapshot:
    made = PoolSnapshot(
        name=name, held=600, limit=1000, free=400, share=0.6, warn_at=0.7, level=Level.CALM, admitted=700, refused={},
        shed=0, workers=tuple(MANY[:30]),
    )  # fmt: skip
    return replace(made, **changes)


POOLS = (
    pool("a"),
    pool("b", held=1000, free=0, share=1.0, level=Level.FULL, connects=Connects(total=9, refused={"full": 1400})),
    pool("c", workers=tuple(ALL[140:160])),
    pool("d", paused=True),
    pool("e", share=0.601, held=601),
)


def seen(*pools: PoolSnapshot) -> Snapshot:
    return Snapshot(datetime.now(UTC), True, LedgerSnapshot("redis", "redis://h/0", Health.OK), pools)


def test_many_pools_have_a_line_each_the_worst_first():
    told = printed(status(seen(*POOLS))).splitlines()
    assert [line.split()[0] for line in told[3:8]] == ["d", "c", "b", "e", "a"]
    assert told[2].split() == ["pool", "state", "held", "limit", "full", "refused*", "workers", "silent"]
    assert told[5].split() == ["b", "Full", "1,000", "1,000", "100", "%", "1,400", "30", "0"]
    assert told[4].split()[-2:] == ["20", "1"]
    assert told[9].startswith("* refused in the last five minutes. ws_status --pool NAME")
    assert len(told) == 11
    assert max(map(len, told)) <= WIDTH


def test_few_pools_and_pools_with_a_number_of_workers_are_shown_whole():
    assert "host " in printed(status(seen(*POOLS[:4])))
    assert printed(status(seen(*POOLS), listing=Listing(top=1))).count("more workers") == 5

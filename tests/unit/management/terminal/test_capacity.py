"""The capacity on a terminal: the proposal with its reasons, and what is not known."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from channels_admission.core.readings import Usage
from channels_admission.management.terminal.capacity import render
from channels_admission.status.capacity import Capacity as Found
from channels_admission.status.capacity import Cost, Proposal, WorkerCapacity
from channels_admission.status.growth import Growth

COST = Cost(95 * 1024, 1.0, "measured", 1234)
WORKER = WorkerCapacity("web-1", 42, "uvicorn wsproto", Usage(300, 100 << 20, 320), 70 << 20, 4000, 800, 1024)
FOUND = Found(COST, (WORKER, replace(WORKER, pid=43)), Proposal(800, 800, "files", 5120))
GROWTH = Growth("default", 900, 1000, 5.75, 12.5, 28_800.0)


def printed(settings, found=FOUND, growth=GROWTH, width=110) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(render(found, [growth], tuple(settings.pools.values())))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def test_the_whole(admission):
    assert (
        printed(admission(MAX_CONNECTIONS=1000))
        == """\
Capacity
A connection takes 95 KiB and 1 open file: measured on 1,234 connections of the site.

host                                         pid server          open MiB idle MiB by memory by files    files
web-1                                         42 uvicorn wsproto  300 100       70     4,000      800 320/1024
web-1                                         43 uvicorn wsproto  300 100       70     4,000      800 320/1024

Proposal
MAX_CONNECTIONS 800: one worker less can hold it, as when one restarts; 1,000 in the settings
MAX_PER_WORKER 800: what the weakest worker can hold, by its open files
ulimit -n 5120: the open files with which a worker can use its memory
CPU time and what a consumer stores later are not counted. Raise a limit in steps, and watch the lag.

Growth
Pool default: 900 of 1,000 slots, +12.5 an hour over 5.8 h. It is full in 8 h if it grows on like this."""
    )


def test_on_a_narrow_terminal_the_host_can_be_read(admission):
    server = "uvicorn websockets-sansio"
    found = replace(FOUND, workers=(replace(WORKER, host="worker-12", server=server, by_memory=106_952),))
    lines = printed(admission(), found, width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("worker-12 ") for line in lines)
    assert any("106,952" in line for line in lines)


def test_of_many_workers_those_are_shown_that_can_hold_the_least(admission):
    many = tuple(replace(WORKER, pid=pid, by_files=1000 - pid) for pid in range(100, 130))
    lines = printed(admission(), replace(FOUND, workers=many)).splitlines()
    assert [line.split()[1] for line in lines if line.startswith("web-1 ")] == [str(pid) for pid in range(129, 109, -1)]
    assert "10 more workers (--json)" in lines


@pytest.mark.parametrize(
    ("cost", "told"),
    [
        (replace(COST, source="opened"), "measured on 1,234 connections opened for this."),
        (
            replace(COST, source="daphne"),
            "the figure for daphne, since the workers have had fewer than 100 connections",
        ),
    ],
)
def test_where_the_cost_is_from(admission, cost, told):
    assert told in " ".join(printed(admission(), replace(FOUND, cost=cost)).split())


def test_one_worker_and_several_pools(admission):
    alone = replace(FOUND, workers=(replace(WORKER, by_files=None, files_limit=0),))
    text = printed(admission(MAX_CONNECTIONS=1000, POOLS={"chat": {"MAX_CONNECTIONS": 500}}), alone)
    assert "MAX_CONNECTIONS 800, all pools together; 1,500 in the settings\n" in text
    assert "restarts" not in text
    assert "4,000        - 320/-\n" in text


@pytest.mark.parametrize(
    ("growth", "told"),
    [
        (replace(GROWTH, reached_in=None), "+12.5 an hour over 5.8 h. It is not full within 4 times as long."),
        (replace(GROWTH, per_hour=-3.0, reached_in=None), "-3 an hour over 5.8 h. It is not full within 4"),
        (replace(GROWTH, held=None, per_hour=None), "Pool default: its history is too short or not known."),
    ],
)
def test_the_growth_promises_only_what_was_seen(admission, growth, told):
    assert told in printed(admission(), growth=growth)


def test_hostile_names_are_one_line(admission):
    hostile = replace(WORKER, host="a\n\x1b[31mb", server="\x07x")
    assert "\x1b" not in printed(admission(), replace(FOUND, workers=(hostile,)))

"""A snapshot in which every number is another."""

from dataclasses import replace
from datetime import UTC, datetime

from channels_admission.core.levels import Level
from channels_admission.core.readings import Load
from channels_admission.status.values import (
    Health,
    LedgerCalls,
    LedgerSnapshot,
    PoolSnapshot,
    Snapshot,
    Times,
    WorkerSnapshot,
)

BOUNDS = ("0.001", "0.005", "0.025", "0.1", "0.25", "1", "5", "inf")


LOAD = (Load("lag", 0.012, 0.0, 0.002, 0.25), Load("memory", 0.914, 0.64), Load("descriptors", None, 0.0))
WORKER = WorkerSnapshot(
    id="web-1:4242:ab12",
    host="web-1",
    pid=4242,
    server="uvicorn",
    held=30,
    silence=0.4,
    uptime=7500.0,
    load=LOAD,
    accepting=28,
    jobs_waiting=27,
    threads_busy=1,
)
POOL = PoolSnapshot(
    name="default", held=36, limit=50, free=14, share=0.72, warn_at=0.7, level=Level.WARNING, admitted=412,
    refused={"full": 148, "lag": 2, "quota:address": 7, "attempts:address": 5}, shed=3,
    workers=(
        WORKER,
        replace(WORKER, id="web-2:7:cd34", host="web-2", pid=7, held=6, load=(), draining=True, silent=True,
                accepting=1),
    ),
    calls=LedgerCalls(1000, 4, 0.75),
    classes={"paying": 20, "exempt": 1}, overdue=5, unaccepted=8, outlived=7, channels_full=9, layer_failed=21,
    healed=6, events_dropped=16, delayed=17, promised=18, redeemed=19, missed=20, refusals_held=22,
    passed=23, lost=24,
    call_times=Times(1000, 0.75, dict(zip(BOUNDS, (600, 900, 980, 990, 996, 999, 1000, 1000), strict=True))),
    waits=Times(412, 1.5, dict(zip(BOUNDS, (300, 400, 401, 402, 403, 404, 410, 412), strict=True))),
    faults={"OSError": 3},
    configured=80, differs={"limit": ()}, paused=True, dry_run=True, alert=Level.CRITICAL,
    would_refuse={"full": 11, "quota:address": 12}, drained=13, aged=14, evicted=15, speed=412.5, since=1.75e9,
    latest={"lost": 1750000029},
)  # fmt: skip
CHAT = replace(POOL, name="chat", workers=(replace(WORKER, silence=0.1, load=(Load("lag", 0.5, 1.0, 0.1, 0.8),)),))
SNAPSHOT = Snapshot(
    datetime.now(UTC), True, LedgerSnapshot("redis", "redis://127.0.0.1:6390/0", Health.OK), (POOL, CHAT)
)

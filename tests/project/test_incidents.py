"""Staged incidents: each has its cause named first by the diagnosis, and by the check, the admin and an alert.

What brings such a state about is tested with real workers in ``tests/integration/test_diagnose.py`` and its neighbours.
"""

import json
import re
import subprocess
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from django.template.loader import render_to_string
from prometheus_client.parser import text_string_to_metric_families as parse

from channels_admission.core.levels import Level
from channels_admission.core.overrides import Controls, Order
from channels_admission.core.readings import Load
from channels_admission.management.terminal.nagios import Ranges, check
from channels_admission.status.cache import Look
from channels_admission.status.diagnostics import diagnose
from channels_admission.status.diagnostics.host import HostInfo, Origin, ProcessInfo
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
    Times,
    WorkerSnapshot,
)
from channels_admission.web.metrics import exposition

from support import ROOT
from support.deployment import find

RULES = ROOT / "docs/monitoring/alerts.yml"
NOON = datetime(2026, 3, 1, 12, 3, 30, tzinfo=UTC)
AT = int(NOON.timestamp())
LEDGER = LedgerSnapshot("redis", "redis://127.0.0.1:6390/0", Health.OK)
CALM = (Load("lag", 0.001, 0.0), Load("memory", 0.5, 0.0), Load("descriptors", 0.1, 0.0), Load("cpu", 0.05, 0.0))
FIRST = WorkerSnapshot("web-1:42:ab", "web-1", 42, "uvicorn", held=10, silence=0.4, uptime=900.0, load=CALM)
SECOND = replace(FIRST, id="web-1:43:cd", pid=43)
POOL = PoolSnapshot(
    name="default", held=20, limit=50, free=30, share=0.4, warn_at=0.7, level=Level.CALM, admitted=20, refused={},
    shed=0, workers=(FIRST, SECOND), calls=LedgerCalls(900, 0, 0.9), configured=50,
    call_times=Times(900, 0.9, {"inf": 900}), since=1.75e9,
)  # fmt: skip
SOUND = Snapshot(NOON, True, LEDGER, (POOL,))
HELD = "pool default: 20 of 50 slots held (40 %), "
"""How a line of the check begins; it is left out below."""
MANY = 36_000
"""Refusals or calls of forty minutes, 15 a second."""


@dataclass(frozen=True)
class Incident:
    """A state, and what must be said of it."""

    finding: str
    check: str
    admin: str
    alerts: tuple[str, ...]
    seen: Snapshot
    gone: str = ""
    """What the kernel shows of the second worker's process."""


def seen(*workers: WorkerSnapshot, refused: str = "", herd: tuple[Second, ...] = (), **changes) -> Snapshot:
    """The pool with these workers, which refuse for a reason."""
    if refused:
        changes["refused"] = {refused: MANY}
        changes["connects"] = Connects(6400, 21, herd, {refused: 6000}, AT)
    return replace(SOUND, pools=(replace(POOL, workers=workers or POOL.workers, **changes),))


def pressed(name: str, reading: float) -> tuple[WorkerSnapshot, ...]:
    """Both workers refuse every handshake because of a monitor."""
    load = (*(each for each in CALM if each.name != name), Load(name, reading, 1.0))
    return tuple(replace(worker, load=load) for worker in POOL.workers)


def each(**changes) -> tuple[WorkerSnapshot, ...]:
    return tuple(replace(worker, **changes) for worker in POOL.workers)


FULL = {"held": 50, "free": 0, "share": 1.0, "level": Level.FULL, "alert": Level.FULL}
PAUSED = Controls(1, paused=Order(1, "ada", AT - 900.0))
SILENT = replace(SECOND, silent=True, silence=12.0)
HERD = (Second(AT - 23, 850),)
SATURATED = ("AdmissionRefusing", "AdmissionWorkerSaturated")
INCIDENTS = {
    "Redis is down": Incident(
        "ledger-down", "UNKNOWN - The ledger at redis://127.0.0.1:6390/0 cannot be read",
        "The ledger is down.", ("AdmissionLedgerDown",),
        replace(SOUND, ledger=replace(LEDGER, health=Health.DOWN, error="ConnectionError: refused"), pools=()),
    ),
    "Redis answers too late": Incident(
        "ledger-late", "WARNING - 2 of 2 workers decide alone",
        "decides alone, as the ledger does not answer", ("AdmissionLedgerFailing", "AdmissionLedgerSlow"),
        seen(*each(failing=9, calls=LedgerCalls(450, 300, 99.0)), calls=LedgerCalls(MANY, MANY // 3, MANY / 10),
             call_times=Times(MANY, MANY / 10, {"inf": MANY})),
    ),
    "Redis has lost its data": Incident(
        "ledger-settling", "WARNING - ledger settling, ledger lost its data, "
        "the latest 2 s ago", "The ledger started empty or lost its data a moment ago", ("AdmissionDataLost",),
        replace(seen(latest={"data_lost": AT - 2}), ledger=replace(LEDGER, health=Health.SETTLING)),
    ),
    "Redis has lost its data a minute ago": Incident(
        "data-lost", "WARNING - ledger lost its data, the latest 60 s ago",
        "Ledger lost its data (UTC)12:02:30", ("AdmissionDataLost",), seen(latest={"data_lost": AT - 60}),
    ),
    "something else writes to the keys": Incident(
        "ledger-damaged",
        "WARNING - damaged counts repaired, the latest 7 s ago",
        "Repairs of damaged counts", ("AdmissionLedgerDamaged",), seen(healed=120, latest={"healed": AT - 7}),
    ),
    "workers were killed and their slots released at once": Incident(
        "workers-lost", "WARNING - workers lost without a goodbye (web-1 41), "
        "the latest 9 s ago", "12:03:21 web-1 41", ("AdmissionWorkersLost",),
        seen(lost=12, latest={"lost": AT - 9}, lost_workers=(LostWorker("web-1", 41, AT - 9),)),
    ),
    "the pool is full": Incident(
        "limit-reached", "CRITICAL - pool default: 50 of 50 slots held (100 %), full", "50 / 50 held",
        ("AdmissionPoolFull", "AdmissionPoolNearlyFull", "AdmissionRefusing"), seen(refused="full", **FULL),
    ),
    "consumers block the event loop": Incident(
        "loop-blocked", "CRITICAL - no worker admits: 2 saturated (lag)",
        "event loop behind", SATURATED, seen(*pressed("lag", 0.8), refused="lag"),
    ),
    "sync consumers block the thread": Incident(
        "threads-blocked", "no worker admits: 2 saturated (threads)", "sync code waits", SATURATED,
        seen(*pressed("threads", 12.0), refused="threads"),
    ),
    "memory runs out": Incident(
        "memory-short", "no worker admits: 2 saturated (memory)", "memory short",
        ("AdmissionMemoryShedding", *SATURATED), seen(*pressed("memory", 0.96), refused="memory", shed=120),
    ),
    "descriptors run out": Incident(
        "descriptors-short", "no worker admits: 2 saturated (descriptors)", "descriptors short", SATURATED,
        seen(*pressed("descriptors", 0.99), refused="descriptors"),
    ),
    "a monitor of the site refuses": Incident(
        "monitor-refuses", "no worker admits: 2 saturated (queue)", "queue", SATURATED,
        seen(*pressed("queue", 900.0), refused="queue"),
    ),
    "a worker was killed": Incident(
        "worker-killed", "WARNING - 1 of 2 workers silent (web-1 43 for",
        "silent", ("AdmissionWorkerSilent",), seen(FIRST, SILENT), "absent",
    ),
    "a worker is stopped": Incident(
        "worker-silent", "1 of 2 workers silent (web-1 43 for 12 s)", "silent", ("AdmissionWorkerSilent",),
        seen(FIRST, SILENT), "stopped",
    ),
    "no worker reports any more": Incident(
        "worker-silent", "CRITICAL - no worker admits: 2 silent", "silent",
        ("AdmissionWorkerSilent",), seen(*each(silent=True, silence=20.0)), "running",
    ),
    "all workers are gone": Incident(
        "no-worker", "CRITICAL - pool default: 0 of 50 slots held (0 %), no worker known",
        "No worker reports to this pool.", ("AdmissionNoWorker",),
        replace(SOUND, pools=(replace(POOL, workers=(), held=0, free=50, share=0.0),)),
    ),
    "full channels end connections": Incident(
        "channels-full", "WARNING - full channels ended connections, "
        "the latest 5 s ago", "Ended by a full channel", ("AdmissionChannelsFull",),
        seen(channels_full=800, latest={"channels_full": AT - 5}),
    ),
    "consumers accept too late": Incident(
        "accepts-late", "WARNING - connections not accepted in time, "
        "the latest 5 s ago", "Not accepted in time", ("AdmissionAcceptsLate",),
        seen(unaccepted=800, latest={"unaccepted": AT - 5}),
    ),
    "receivers of signals are too slow": Incident(
        "events-dropped", "WARNING - events dropped, the latest 5 s ago",
        "Events dropped", ("AdmissionEventsDropped",), seen(events_dropped=800, latest={"events_dropped": AT - 5}),
    ),
    "a function of the site raises": Incident(
        "functions-fail", "WARNING - unexpected errors, the latest 5 s ago",
        "unexpected errors: 40 CLASSIFY", ("AdmissionUnexpectedErrors",),
        seen(*each(faults={"CLASSIFY": 40}), faults={"CLASSIFY": 800}, latest={"faults": AT - 5}),
    ),
    "a herd comes back": Incident(
        "herd", "WARNING - 6,000 refused in 5 minutes: 6,000 rate",
        "too many at once", ("AdmissionRefusing",), seen(refused="rate", herd=HERD),
    ),
    "an operator has paused the pool": Incident(
        "paused", "CRITICAL - paused", "Paused",
        ("AdmissionPaused", "AdmissionRefusing"), seen(paused=True, refused="paused", controls=PAUSED),
    ),
    "all workers drain": Incident(
        "draining", "CRITICAL - no worker admits: 2 draining", "Draining",
        ("AdmissionRefusing",), seen(*each(draining=True), refused="draining"),
    ),
    "the balancer tries no other worker": Incident(
        "refusals-unpassed", "WARNING - 6,000 refused in 5 minutes: 6,000 "
        "worker_full", "worker full", ("AdmissionRefusing",), seen(refused="worker_full"),
    ),
    "two settings are in force": Incident(
        "settings-differ",
        "WARNING - workers have different settings (limit)",
        "Workers have different settings", ("AdmissionSettingsDiffer",),
        seen(differs={"limit": (Side(50, 1, (FIRST.id,)), Side(80, 1, (SECOND.id,)))}),
    ),
    "two sites share a prefix": Incident(
        "sites-differ", "WARNING - workers of 2 sites share the PREFIX",
        "Workers of several sites count here", ("AdmissionSettingsDiffer",),
        seen(differs={"site": (Side(1, 1, (FIRST.id,)), Side(2, 1, (SECOND.id,)))}),
    ),
    "the channel layer has failed": Incident(
        "layer-failed", "WARNING - channel layer failed and ended connections, "
        "the latest 5 s ago", "Ended by a failure of the channel layer", ("AdmissionLayerFailed",),
        seen(*each(layer_failed=40), layer_failed=8000, latest={"layer_failed": AT - 5}),
    ),
}  # fmt: skip
VOID = {"input", "br", "img", "link", "meta"}
STAGED = pytest.mark.parametrize("incident", INCIDENTS.values(), ids=INCIDENTS.keys())


def known(state: str) -> HostInfo:
    processes = {("web-1", 42): ProcessInfo(state="running"), ("web-1", 43): ProcessInfo(state=state or "running")}
    return HostInfo(3.0, processes, {"default": Origin(50, "CHANNELS_ADMISSION['MAX_CONNECTIONS']")})


class Shown(HTMLParser):
    """The text of a page that is not hidden."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self._hidden: list[bool] = []
        """Of each open element, whether it or one around it is hidden."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            is_around = bool(self._hidden and self._hidden[-1])
            self._hidden.append(is_around or any(name == "hidden" for name, _ in attrs))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            self._hidden.pop()

    def handle_data(self, data: str) -> None:
        if not (self._hidden and self._hidden[-1]):
            self.text += data


def test_a_sound_site_has_no_incident():
    assert diagnose(SOUND, known("")).findings == ()
    assert check(SOUND, Ranges()).line.startswith("ADMISSION OK - ")


@STAGED
def test_the_diagnosis_names_the_cause_first(incident):
    assert diagnose(incident.seen, known(incident.gone)).findings[0].id == incident.finding


@STAGED
def test_the_check_names_it(incident):
    assert incident.check in check(incident.seen, Ranges()).line.replace(HELD, "")


@STAGED
def test_the_admin_shows_it(incident, admission):
    admission()
    page = Shown()
    page.feed(render_to_string("channels_admission/notices.html", {"look": Look(incident.seen, incident.seen)}))
    for pool in incident.seen.pools:
        page.feed(render_to_string("channels_admission/pool.html", {"pool": pool}))
    assert incident.admin in page.text


def series(incident: Incident) -> list[dict[str, str]]:
    """Ten minutes of a sound site, and forty of the incident."""

    def told(snapshot: Snapshot) -> dict[str, float]:
        text = exposition(snapshot, "")[0].decode()
        return {
            f"{sample.name}{json.dumps({**sample.labels, 'job': 'site', 'instance': 'i:1'})}": sample.value
            for family in parse(text) for sample in family.samples
        }  # fmt: skip

    before, during = told(SOUND), told(incident.seen)
    values = {name: f"{number}x39" for name, number in before.items()} | {
        name: f"{before.get(name, '_')}x39 {_during(name, before.get(name, 0.0), number)}"
        for name, number in during.items()
    }
    return [{"series": _selector(name), "values": text.replace("_x39", "_x40")} for name, text in values.items()]


def _during(name: str, before: float, now: float) -> str:
    """A counter rises all the time, and a gauge stays."""
    counts = re.search(r"_(total|bucket|sum|count){", name)
    return f"{before}+{(now - before) / 160}x160" if counts else f"{now}x160"


def _selector(name: str) -> str:
    metric, _, labels = name.partition("{")
    pairs = json.loads("{" + labels)
    return f"{metric}{{{','.join(f'{label}={json.dumps(value)}' for label, value in pairs.items())}}}"


@pytest.mark.integration
def test_an_alert_fires_for_each_and_no_other(tmp_path, admission):
    admission()
    tests = [
        {
            "name": name,
            "interval": "15s",
            "input_series": series(incident),
            "promql_expr_test": [
                {
                    "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": at,
                    "exp_samples": [{"labels": f'{{alertname="{alert}"}}', "value": 1} for alert in sorted(alerts)],
                }
                for at, alerts in (("9m", ()), ("49m", incident.alerts))
            ],
        }
        for name, incident in INCIDENTS.items()
    ]
    path = tmp_path / "test.yml"
    path.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "30s", "tests": tests}))
    told = subprocess.run([find("promtool"), "test", "rules", path], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout.split()[-1]) == (0, "SUCCESS"), told.stdout + told.stderr

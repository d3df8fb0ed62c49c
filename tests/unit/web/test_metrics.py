"""The metrics: what they say of a snapshot, in both formats, and that workers' comings and goings take nothing back."""

import asyncio
import json
import re
import signal
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from channels_admission.core.counters import Reason
from channels_admission.core.levels import Level
from channels_admission.core.readings import Load
from channels_admission.status.snapshot import collect
from channels_admission.status.values import Health, LedgerCalls, LedgerSnapshot, PoolSnapshot, Snapshot, WorkerSnapshot
from channels_admission.web.metrics import SnapshotCollector, exposition

from demo.servers import Workers
from support import ROOT
from support.clients import Client, enter_many
from support.waiting import eventually

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
ADMITTED, FULL = ("admitted_total", ("default",)), ("refused_total", ("default", "", "full"))
MONITORING = ROOT / "docs" / "monitoring"
PREFIX = "channels_admission_"

LOAD = (Load("lag", 0.012, 0.0, 0.002, 0.25), Load("memory", 0.914, 0.64), Load("descriptors", None, 0.0))
WORKER = WorkerSnapshot(
    id="web-1:4242:ab12", host="web-1", pid=4242, server="uvicorn", held=30, last_beat=0.4, uptime=7500.0, load=LOAD
)
POOL = PoolSnapshot(
    name="default", held=36, limit=50, free=14, share=0.72, warn_at=0.7, level=Level.WARNING, admitted=412,
    refused={"full": 148, "lag": 2, "quota:address": 7, "attempts:address": 5}, shed=3,
    workers=(WORKER, replace(WORKER, id="web-2:7:cd34", held=6, load=(), draining=True, silent=True)),
    calls=LedgerCalls(1000, 4, 0.75),
    classes={"paying": 20, "exempt": 1}, overdue=5, unaccepted=8, outlived=7, channels_full=9, layer_failed=21,
    healed=6, events_dropped=16, delayed=17, promised=18, redeemed=19, missed=20, refusals_held=22,
    passed=23,
    faults={"OSError": 3},
    configured=80, differs={"limit": ()}, paused=True, dry_run=True, alert=Level.CRITICAL,
    would_refuse={"full": 11, "quota:address": 12}, drained=13, aged=14, evicted=15, speed=412.5, since=1.75e9,
)  # fmt: skip
CHAT = replace(POOL, name="chat", workers=(replace(WORKER, last_beat=0.1, load=(Load("lag", 0.5, 1.0, 0.1, 0.8),)),))
SNAPSHOT = Snapshot(
    datetime.now(UTC), True, LedgerSnapshot("redis", "redis://127.0.0.1:6390/0", Health.OK), (POOL, CHAT)
)


def samples(snapshot: Snapshot) -> dict[tuple[str, tuple[str, ...]], float]:
    """Every sample: its name without the common prefix, the values of its labels in their order, and its number."""
    text = exposition(snapshot, "")[0].decode()
    return {
        (sample.name.removeprefix(PREFIX), tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def test_every_number_of_the_snapshot():
    told = samples(SNAPSHOT)
    default = {(name, labels): value for (name, labels), value in told.items() if "chat" not in labels}
    reasons = {
        "full": 148,
        "settling": 0,
        "rate": 0,
        "crowd": 0,
        "ledger": 0,
        "share": 0,
        "paused": 0,
        "draining": 0,
        "worker_full": 0,
        "lag": 2,
    }
    zero = {key for key in default if key[0] == "would_refuse_total"}
    refused = {("refused_total", ("default", "", reason)): count for reason, count in reasons.items()}
    assert {**default, **refused} == default
    assert {
        key: value for key, value in default.items() if key[0] != "refused_total" and (value or key not in zero)
    } == {
        ("enabled", ()): 1,
        ("ledger_up", ()): 1,
        ("ledger_settling", ()): 0,
        ("held", ("default",)): 36,
        ("limit_configured", ("default",)): 80,
        ("paused", ("default",)): 1,
        ("settings_differing", ("default",)): 1,
        ("connect_speed", ("default",)): 412.5,
        ("dry_run", ("default",)): 1,
        ("alert_level", ("default",)): 2,
        ("workers_draining", ("default",)): 1,
        ("workers_silent", ("default",)): 1,
        ("would_refuse_total", ("default", "", "full")): 11,
        ("would_refuse_total", ("default", "address", "quota")): 12,
        ("drained_total", ("default",)): 13,
        ("aged_total", ("default",)): 14,
        ("evicted_total", ("default",)): 15,
        ("limit", ("default",)): 50,
        ("free", ("default",)): 14,
        ("level", ("default",)): 1,
        ("workers", ("default",)): 2,
        ("class_held", ("paying", "default")): 20,
        ("class_held", ("exempt", "default")): 1,
        ("admitted_total", ("default",)): 412,
        ("shed_total", ("default",)): 3,
        ("overdue_total", ("default",)): 5,
        ("passed_total", ("default",)): 23,
        ("unaccepted_total", ("default",)): 8,
        ("outlived_total", ("default",)): 7,
        ("channels_full_total", ("default",)): 9,
        ("layer_failed_total", ("default",)): 21,
        ("ledger_call_seconds_count", ("default",)): 1000,
        ("ledger_call_seconds_sum", ("default",)): 0.75,
        ("ledger_errors_total", ("default",)): 4,
        ("ledger_healed_total", ("default",)): 6,
        ("events_dropped_total", ("default",)): 16,
        ("delayed_total", ("default",)): 17,
        ("tickets_promised_total", ("default",)): 18,
        ("tickets_redeemed_total", ("default",)): 19,
        ("tickets_missed_total", ("default",)): 20,
        ("refusals_held_total", ("default",)): 22,
        ("unexpected_errors_total", ("OSError", "default")): 3,
        ("worker_held", ("default", "web-1:4242:ab12")): 30,
        ("worker_held", ("default", "web-2:7:cd34")): 6,
        ("worker_silence_seconds", ("web-1:4242:ab12",)): 0.1,
        ("worker_silence_seconds", ("web-2:7:cd34",)): 0.4,
        ("worker_reading", ("lag", "web-1:4242:ab12")): 0.5,
        ("worker_lag_median_seconds", ("web-1:4242:ab12",)): 0.1,
        ("worker_lag_longest_seconds", ("web-1:4242:ab12",)): 0.8,
        ("worker_pressure", ("lag", "web-1:4242:ab12")): 1,
    }


def test_a_quota_that_refuses_is_a_label():
    assert samples(SNAPSHOT)["refused_total", ("default", "address", "quota")] == 7
    assert samples(SNAPSHOT)["refused_total", ("default", "address", "attempts")] == 5


def test_every_series_that_may_count_begins_at_0(admission):
    """Else the first refusals would be no increase for Prometheus."""
    quotas = [{"key": "user", "max": 3}, {"key": "address", "rate": 2}]
    own = {"MONITOR": "time.monotonic", "THRESHOLDS": (1, 2)}
    admission(QUOTAS=quotas, PRESSURE={"lag": (0.1, 0.5), "cpu": None, "queue": own})
    new = replace(POOL, refused={}, would_refuse={})
    told = samples(replace(SNAPSHOT, pools=(new,)))
    reasons = [("", reason) for reason in (*Reason, "lag", "memory", "descriptors", "queue")]
    expected = {("default", quota, reason) for quota, reason in [*reasons, ("user", "quota"), ("address", "attempts")]}
    more = {("default", "", name) for name in ("overdue", "unaccepted", "outlived", "evicted")}
    for name, labels in (("refused_total", expected), ("would_refuse_total", expected | more)):
        assert {key[1]: value for key, value in told.items() if key[0] == name} == dict.fromkeys(labels, 0)


def test_an_unknown_reading_is_left_out_and_its_pressure_told():
    told = samples(replace(SNAPSHOT, pools=(POOL,)))
    assert told["worker_lag_median_seconds", ("web-1:4242:ab12",)] == 0.002
    assert told["worker_lag_longest_seconds", ("web-1:4242:ab12",)] == 0.25
    assert told["worker_reading", ("memory", "web-1:4242:ab12")] == 0.914
    assert ("worker_reading", ("descriptors", "web-1:4242:ab12")) not in told
    assert told["worker_pressure", ("descriptors", "web-1:4242:ab12")] == 0


@pytest.mark.parametrize(
    ("health", "up", "settling"), [(Health.OK, 1, 0), (Health.SETTLING, 1, 1), (Health.DOWN, 0, 0)]
)
def test_the_health_of_the_ledger(health, up, settling):
    told = samples(replace(SNAPSHOT, ledger=replace(SNAPSHOT.ledger, health=health)))
    assert (told["ledger_up", ()], told["ledger_settling", ()]) == (up, settling)


def test_a_ledger_that_is_down_gives_no_numbers():
    down = replace(SNAPSHOT, ledger=replace(SNAPSHOT.ledger, health=Health.DOWN), pools=())
    assert samples(down) == {("enabled", ()): 1, ("ledger_up", ()): 0, ("ledger_settling", ()): 0}


def test_the_format_is_the_one_asked_for():
    body, content_type = exposition(SNAPSHOT, OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
    families = {family.name: family for family in parse_openmetrics(body.decode())}
    assert families[f"{PREFIX}admitted"].type == "counter"
    assert families[f"{PREFIX}ledger_call_seconds"].type == "summary"
    told = [sample for family in families.values() for sample in family.samples]
    created = {(each.name, *each.labels.values()): each.value for each in told if each.name.endswith("_created")}
    assert set(created.values()) == {1.75e9}
    assert {
        (f"{PREFIX}admitted_created", "default"),
        (f"{PREFIX}refused_created", "chat", "", "full"),
        (f"{PREFIX}ledger_call_seconds_created", "default"),
    } < created.keys()
    assert len(created) == sum(each.name.endswith(("_total", "_count")) for each in told) > 50
    body, content_type = exposition(SNAPSHOT, "text/plain;version=0.0.4")
    assert b"_created" not in body
    assert content_type.startswith("text/plain; version=0.0.4")
    assert {family.name for family in parse(body.decode())} == set(families)


def test_what_a_ledger_says_is_escaped():
    name = 'a"b\\c\nd'
    hostile = replace(POOL, refused={name: 1}, workers=(replace(WORKER, id=name),))
    told = samples(replace(SNAPSHOT, pools=(hostile,)))
    assert told["refused_total", ("default", "", name)] == 1
    assert told["worker_held", ("default", name)] == 30


def test_families_follow_the_conventions():
    for family in SnapshotCollector(SNAPSHOT).collect():
        assert re.fullmatch(rf"{PREFIX}[a-z_]+", family.name)
        assert re.fullmatch(r"[A-Z].*\.", family.documentation)
        assert all(sample.value >= 0 for sample in family.samples)


def test_counters_that_are_not_known_are_left_out_and_the_rest_is_told():
    told = samples(replace(SNAPSHOT, pools=(replace(POOL, since=None), CHAT)))
    unknown = {name for name, labels in told if "default" in labels}
    assert not any(name.endswith(("_total", "_count", "_sum")) for name in unknown)
    assert told["held", ("default",)] == 36
    assert told["admitted_total", ("chat",)] == 412


# While workers are killed


@pytest.mark.integration
async def test_counters_never_go_down_while_workers_are_killed_and_replaced(admission, prefix, redis_server):
    keys = {"LEDGER": redis_server.url, "PREFIX": prefix, "MAX_CONNECTIONS": 30, "HEARTBEAT": 0.2, "LEASE": 2}
    keys["RETRY_AFTER"] = [60, 90]  # so that no slot is kept for those who were refused in an earlier turn
    admission(**keys)

    async def counters() -> dict[tuple[str, tuple[str, ...]], float]:
        told = samples(await collect())
        return {key: value for key, value in told.items() if key[0].endswith(("_total", "_count", "_sum"))}

    def grows(before, after) -> bool:
        return all(after[key] >= value for key, value in before.items())

    seen = [await counters()]
    with Workers("uvicorn", 2, redis_url=redis_server.url, settings=keys, shared_port=False) as workers:
        for turn in (1, 2, 3):
            clients = await enter_many(40, workers.origins)
            assert sum(client.is_open for client in clients) == 30
            # What a worker has not told when it is killed is lost.
            await eventually(lambda turn=turn: _reaches(counters, {ADMITTED: 30 * turn, FULL: 10 * turn}))
            workers.processes[0].send_signal(signal.SIGKILL)
            workers.processes[0].wait(10)
            await asyncio.gather(*map(Client.leave, clients))
            seen.append(await counters())
            workers.restart()
            seen.append(await counters())
            await eventually(_nothing_held)
    seen.append(await counters())
    assert all(grows(before, after) for before, after in pairwise(seen))
    assert (seen[-1][ADMITTED], seen[-1][FULL]) == (90, 30)
    assert seen[-1]["ledger_call_seconds_count", ("default",)] > 0


async def _reaches(counters, expected) -> bool:
    return expected.items() <= (await counters()).items()


async def _nothing_held() -> bool:
    return (await collect()).pools[0].held == 0


# The files for Prometheus and Grafana


def exported() -> set[str]:
    """Every name of a sample."""
    return {PREFIX + name for name, _ in samples(SNAPSHOT)}


def labels() -> set[str]:
    found = {label for family in SnapshotCollector(SNAPSHOT).collect() for s in family.samples for label in s.labels}
    return {*found, "job", "instance", "cluster", "namespace"}


def rules() -> list[str]:
    return re.findall(r"^ +expr: (.+)$", (MONITORING / "alerts.yml").read_text(), re.MULTILINE)


def panels() -> list[dict]:
    return json.loads((MONITORING / "grafana.json").read_text())["panels"]


def queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel.get("targets", ())]


def names(expression: str) -> set[str]:
    return set(re.findall(rf"\b{PREFIX}\w+", expression))


def test_every_rule_and_panel_asks_for_what_is_exported():
    assert len(rules()) >= 8
    assert len(queries()) >= 10
    for expression in [*rules(), *queries()]:
        assert names(expression)
        assert names(expression) <= exported()
        for group in re.findall(r"(?:by|without|on|ignoring) ?\(([\w, ]*)\)", expression):
            assert set(re.findall(r"\w+", group)) <= labels()
        for label in re.findall(r"(\w+)(?:=~|!~|!=|=)\"", expression):
            assert label in labels()


def test_the_board_shows_every_metric_but_those_that_only_alerts_need():
    shown = {name for expression in queries() for name in names(expression)}
    told = {name for expression in rules() for name in names(expression)}
    assert exported() - shown - told == set()


def test_every_rule_has_a_severity_a_summary_and_a_patience():
    text = (MONITORING / "alerts.yml").read_text()
    blocks = text.split("- alert: ")[1:]
    assert len(blocks) == len(rules())
    for block in blocks:
        assert re.match(r"Admission[A-Z]\w+\n", block)
        for part in (r"^ +for: \d+[smhd]$", r"^ +severity: (warning|critical)$", r"^ +summary: .{10,}$"):
            assert re.search(part, block, re.MULTILINE)


def test_every_panel_has_a_place_and_a_title_of_its_own():
    shown = panels()
    assert len({panel["id"] for panel in shown}) == len({panel["title"] for panel in shown}) == len(shown)
    cells = [
        (x, y)
        for panel in shown
        for place in [panel["gridPos"]]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24

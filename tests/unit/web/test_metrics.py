"""The metrics: what they say of a snapshot, in both formats, and that workers' comings and goings take nothing back."""

import asyncio
import signal
from dataclasses import replace
from itertools import pairwise

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

import channels_admission
from channels_admission.core.counters import Reason
from channels_admission.status.snapshot import collect
from channels_admission.status.values import Health, Snapshot
from channels_admission.web.metrics import PoolCollector, exposition

from demo.servers import Workers
from support.clients import Client, enter_many
from support.snapshots import CHAT, POOL, SNAPSHOT, WORKER
from support.waiting import eventually

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
ADMITTED, FULL = ("pool_admitted_total", ("default",)), ("pool_refused_total", ("default", "", "full"))
PREFIX = "channels_admission_"


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
    default = {
        (name, labels): value
        for (name, labels), value in told.items()
        if "chat" not in labels and name != "build_info" and "worst" not in name and "saturated" not in name
    }
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
    zero = {key for key in default if key[0] == "pool_would_refuse_total"}
    refused = {("pool_refused_total", ("default", "", reason)): count for reason, count in reasons.items()}
    assert {**default, **refused} == default
    assert {
        key: value for key, value in default.items() if key[0] != "pool_refused_total" and (value or key not in zero)
    } == {
        ("enabled", ()): 1,
        ("ledger_up", ()): 1,
        ("ledger_settling", ()): 0,
        ("pool_held", ("default",)): 36,
        ("pool_limit_configured", ("default",)): 80,
        ("pool_paused", ("default",)): 1,
        ("pool_accepting", ("default",)): 29,
        ("pool_jobs_waiting", ("default",)): 54,
        ("pool_threads_busy", ("default",)): 2,
        ("pool_latest_timestamp_seconds", ("lost", "default")): 1750000029,
        ("pool_settings_differing", ("default",)): 1,
        ("pool_connects_per_second", ("default",)): 412.5,
        ("pool_dry_run", ("default",)): 1,
        ("pool_alert_level", ("default",)): 2,
        ("pool_workers_draining", ("default",)): 1,
        ("pool_workers_silent", ("default",)): 1,
        ("pool_would_refuse_total", ("default", "", "full")): 11,
        ("pool_would_refuse_total", ("default", "address", "quota")): 12,
        ("pool_drained_total", ("default",)): 13,
        ("pool_aged_total", ("default",)): 14,
        ("pool_evicted_total", ("default",)): 15,
        ("pool_limit", ("default",)): 50,
        ("pool_free", ("default",)): 14,
        ("pool_reserve", ("default",)): 0,
        ("pool_level", ("default",)): 1,
        ("pool_workers", ("default",)): 2,
        ("pool_class_held", ("paying", "default")): 20,
        ("pool_class_held", ("exempt", "default")): 1,
        ("pool_admitted_total", ("default",)): 412,
        ("pool_shed_total", ("default",)): 3,
        ("pool_overdue_total", ("default",)): 5,
        ("pool_passed_total", ("default",)): 23,
        ("pool_unaccepted_total", ("default",)): 8,
        ("pool_outlived_total", ("default",)): 7,
        ("pool_channels_full_total", ("default",)): 9,
        ("pool_layer_failed_total", ("default",)): 21,
        ("pool_ledger_call_seconds_count", ("default",)): 1000,
        ("pool_ledger_call_seconds_sum", ("default",)): 0.75,
        ("pool_ledger_errors_total", ("default",)): 4,
        ("pool_ledger_healed_total", ("default",)): 6,
        ("pool_workers_lost_total", ("default",)): 24,
        ("pool_events_dropped_total", ("default",)): 16,
        ("pool_delayed_total", ("default",)): 17,
        ("pool_tickets_promised_total", ("default",)): 18,
        ("pool_tickets_redeemed_total", ("default",)): 19,
        ("pool_tickets_missed_total", ("default",)): 20,
        ("pool_refusals_held_total", ("default",)): 22,
        ("pool_unexpected_errors_total", ("OSError", "default")): 3,
        **{("pool_ledger_call_seconds_bucket", ("+Inf" if at == "inf" else f"{float(at)}", "default")): count
           for at, count in POOL.call_times.within.items()},
        ("pool_admission_wait_seconds_count", ("default",)): 412,
        ("pool_admission_wait_seconds_sum", ("default",)): 1.5,
        **{("pool_admission_wait_seconds_bucket", ("+Inf" if at == "inf" else f"{float(at)}", "default")): count
           for at, count in POOL.waits.within.items()},
    }  # fmt: skip


def test_a_quota_that_refuses_is_a_label():
    assert samples(SNAPSHOT)["pool_refused_total", ("default", "address", "quota")] == 7
    assert samples(SNAPSHOT)["pool_refused_total", ("default", "address", "attempts")] == 5


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
    for name, labels in (("pool_refused_total", expected), ("pool_would_refuse_total", expected | more)):
        assert {key[1]: value for key, value in told.items() if key[0] == name} == dict.fromkeys(labels, 0)


@pytest.mark.parametrize(
    ("health", "up", "settling"), [(Health.OK, 1, 0), (Health.SETTLING, 1, 1), (Health.DOWN, 0, 0)]
)
def test_the_health_of_the_ledger(health, up, settling):
    told = samples(replace(SNAPSHOT, ledger=replace(SNAPSHOT.ledger, health=health)))
    assert (told["ledger_up", ()], told["ledger_settling", ()]) == (up, settling)


def test_a_ledger_that_is_down_gives_no_numbers():
    down = replace(SNAPSHOT, ledger=replace(SNAPSHOT.ledger, health=Health.DOWN), pools=())
    told = samples(down)
    assert [value for (name, _), value in told.items() if name == "build_info"] == [1]
    assert {key: value for key, value in told.items() if key[0] != "build_info"} == {
        ("enabled", ()): 1,
        ("ledger_up", ()): 0,
        ("ledger_settling", ()): 0,
    }


def test_the_format_is_the_one_asked_for():
    body, content_type = exposition(SNAPSHOT, OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
    families = {family.name: family for family in parse_openmetrics(body.decode())}
    assert families[f"{PREFIX}pool_admitted"].type == "counter"
    assert families[f"{PREFIX}pool_ledger_call_seconds"].type == "histogram"
    told = [sample for family in families.values() for sample in family.samples]
    created = {(each.name, *each.labels.values()): each.value for each in told if each.name.endswith("_created")}
    assert set(created.values()) == {1.75e9}
    assert {
        (f"{PREFIX}pool_admitted_created", "default"),
        (f"{PREFIX}pool_refused_created", "chat", "", "full"),
        (f"{PREFIX}pool_ledger_call_seconds_created", "default"),
    } < created.keys()
    assert len(created) == sum(each.name.endswith(("_total", "_count")) for each in told) > 50
    body, content_type = exposition(SNAPSHOT, "text/plain;version=0.0.4")
    assert b"_created" not in body
    assert content_type.startswith("text/plain; version=0.0.4")
    assert {family.name for family in parse(body.decode())} == set(families)


def test_what_a_ledger_says_is_escaped():
    name = 'a"b\\c\nd'
    told = samples(replace(SNAPSHOT, pools=(replace(POOL, refused={name: 1}),)))
    assert told["pool_refused_total", ("default", "", name)] == 1


def test_two_hundred_workers_make_as_many_series_as_two():
    workers = tuple(replace(WORKER, id=f"web-{n}:{n}:ab", host=f"web-{n}", pid=n) for n in range(200))
    assert samples(replace(SNAPSHOT, pools=(replace(POOL, workers=workers), CHAT))).keys() == samples(SNAPSHOT).keys()


def test_what_is_told_of_a_pool_is_marked_as_the_whole_pools():
    """Every target tells it: a sum over the targets counts it more than once."""
    for family in PoolCollector(SNAPSHOT).collect():
        assert ("pool" in family._labelnames) == family.name.startswith(f"{PREFIX}pool_")


def test_the_versions_of_the_process():
    ((_, labels, value),) = [
        sample[:3] for family in parse(exposition(SNAPSHOT, "")[0].decode()) for sample in family.samples
        if sample.name == f"{PREFIX}build_info"
    ]  # fmt: skip
    assert labels["version"] == channels_admission.__version__
    assert (labels.keys(), value) == ({"version", "python", "django", "channels"}, 1)


def test_counters_that_are_not_known_are_left_out_and_the_rest_is_told():
    told = samples(replace(SNAPSHOT, pools=(replace(POOL, since=None), CHAT)))
    unknown = {name for name, labels in told if "default" in labels}
    assert not any(name.endswith(("_total", "_count", "_sum")) for name in unknown)
    assert told["pool_held", ("default",)] == 36
    assert told["pool_admitted_total", ("chat",)] == 412


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
    assert seen[-1]["pool_ledger_call_seconds_count", ("default",)] > 0


async def _reaches(counters, expected) -> bool:
    return expected.items() <= (await counters()).items()


async def _nothing_held() -> bool:
    return (await collect()).pools[0].held == 0

"""The metrics of single workers, and of the worst one of each pool."""

from dataclasses import replace

from prometheus_client.parser import text_string_to_metric_families as parse

from channels_admission.core.readings import Load
from channels_admission.status.values import PoolSnapshot
from channels_admission.web.metrics import exposition

from support.snapshots import CHAT, POOL, SNAPSHOT, WORKER

PREFIX = "channels_admission_"
OWN = Load("queue", 7.0, 0.5)


def samples(*pools: PoolSnapshot, of_workers: bool) -> dict[tuple[str, ...], float]:
    """Every sample: its name without the common prefix, with the values of its labels in their order."""
    text = exposition(replace(SNAPSHOT, pools=pools), "", of_workers=of_workers)[0].decode()
    return {
        (sample.name.removeprefix(PREFIX), *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def test_every_number_of_the_workers():
    own = replace(POOL, workers=(replace(WORKER, load=(*WORKER.load, OWN)), POOL.workers[1]))
    assert samples(own, of_workers=True) == {
        ("worker_held", "web-1", "default", "0"): 30,
        ("worker_held", "web-2", "default", "0"): 6,
        ("worker_accepting", "web-1", "default", "0"): 28,
        ("worker_accepting", "web-2", "default", "0"): 1,
        ("worker_jobs_waiting", "web-1", "0"): 27,
        ("worker_jobs_waiting", "web-2", "0"): 27,
        ("worker_threads_busy", "web-1", "0"): 1,
        ("worker_threads_busy", "web-2", "0"): 1,
        ("worker_silence_seconds", "web-1", "0"): 0.4,
        ("worker_silence_seconds", "web-2", "0"): 0.4,
        ("worker_uptime_seconds", "web-1", "0"): 7500,
        ("worker_uptime_seconds", "web-2", "0"): 7500,
        ("worker_lag_seconds", "web-1", "0"): 0.012,
        ("worker_lag_median_seconds", "web-1", "0"): 0.002,
        ("worker_lag_longest_seconds", "web-1", "0"): 0.25,
        ("worker_memory_ratio", "web-1", "0"): 0.914,
        ("worker_monitor_reading", "web-1", "queue", "0"): 7,
        ("worker_pressure_ratio", "web-1", "lag", "0"): 0,
        ("worker_pressure_ratio", "web-1", "memory", "0"): 0.64,
        ("worker_pressure_ratio", "web-1", "descriptors", "0"): 0,
        ("worker_pressure_ratio", "web-1", "queue", "0"): 0.5,
    }


def test_a_worker_of_two_pools_is_told_once_as_it_reported_last():
    told = samples(POOL, CHAT, of_workers=True)
    assert (told["worker_held", "web-1", "default", "0"], told["worker_held", "web-1", "chat", "0"]) == (30, 30)
    assert told["worker_silence_seconds", "web-1", "0"] == 0.1
    assert told["worker_lag_seconds", "web-1", "0"] == 0.5


def test_the_processes_of_a_host_are_numbered_by_their_age_so_that_a_restart_makes_no_new_series():
    old, young = (
        replace(WORKER, id=f"web-1:{pid}:ab", pid=pid, uptime=uptime, held=pid, load=())
        for pid, uptime in ((70, 900.0), (9, 5.0))
    )
    before = samples(replace(POOL, workers=(young, old)), of_workers=True)
    assert (before["worker_held", "web-1", "default", "0"], before["worker_held", "web-1", "default", "1"]) == (70, 9)
    anew = replace(young, id="web-1:33:cd", pid=33)
    assert samples(replace(POOL, workers=(old, anew)), of_workers=True).keys() == before.keys()


def test_the_worst_of_each_pool():
    worse = replace(WORKER, id="web-3:1:ef", host="web-3", held=31, silence=9.5, load=(
        Load("lag", 0.2, 1.0, 0.05, 0.1), Load("memory", 0.5, 0.1), Load("threads", 1.5, 0.0), Load("cpu", 0.7, 0.0),
        OWN, Load("queue", 3.0, 1.0),
    ))  # fmt: skip
    told = samples(replace(POOL, workers=(*POOL.workers, worse)), CHAT, of_workers=False)
    assert {key: value for key, value in told.items() if "default" in key and value and "worst" in key[0]} == {
        ("pool_worst_held", "default"): 31,
        ("pool_worst_silence_seconds", "default"): 9.5,
        ("pool_worst_lag_seconds", "default"): 0.2,
        ("pool_worst_lag_median_seconds", "default"): 0.05,
        ("pool_worst_lag_longest_seconds", "default"): 0.25,
        ("pool_worst_thread_wait_seconds", "default"): 1.5,
        ("pool_worst_memory_ratio", "default"): 0.914,
        ("pool_worst_cpu_ratio", "default"): 0.7,
        ("pool_worst_monitor_reading", "queue", "default"): 7,
        ("pool_worst_pressure_ratio", "lag", "default"): 1,
        ("pool_worst_pressure_ratio", "memory", "default"): 0.64,
        ("pool_worst_pressure_ratio", "queue", "default"): 1,
    }
    assert ("pool_worst_descriptors_ratio", "default") not in told
    closed = {key[1]: value for key, value in told.items() if key[0] == "pool_workers_saturated" and "default" in key}
    assert {name: value for name, value in closed.items() if value} == {"lag": 1, "queue": 1}
    assert told["pool_worst_lag_seconds", "chat"] == 0.5


def test_a_monitor_that_may_refuse_is_told_before_it_does(admission):
    admission(PRESSURE={"lag": (0.1, 0.5), "cpu": None})
    told = samples(replace(POOL, workers=()), of_workers=False)
    assert {key: value for key, value in told.items() if "worst" in key[0] or "saturated" in key[0]} == {
        (name, monitor, "default"): 0
        for name in ("pool_workers_saturated", "pool_worst_pressure_ratio")
        for monitor in ("lag", "memory", "descriptors")
    }


def test_a_reading_of_0_is_told():
    idle = replace(POOL, workers=(replace(WORKER, load=(Load("queue", 0.0, 0.0),)),))
    assert samples(idle, of_workers=True)["worker_monitor_reading", "web-1", "queue", "0"] == 0
    assert samples(idle, of_workers=False)["pool_worst_monitor_reading", "queue", "default"] == 0

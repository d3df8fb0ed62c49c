"""OverloadManager: thresholds, triggers, and what a limiter does under it."""

import asyncio
import math
import random
import re
import subprocess
import sys
import threading
import tracemalloc
from itertools import cycle, pairwise
from types import SimpleNamespace

import psutil
import pytest
from blockbuster import blockbuster_ctx

from channels_admission import conf
from channels_admission.conf.overload import Thresholds
from channels_admission.core.counters import failed_functions
from channels_admission.core.readings import Load
from channels_admission.ledger import open_ledger, record
from channels_admission.limiter.limiter import Slot
from channels_admission.limiter.registry import close_limiters, limiter_of
from channels_admission.middleware import AdmissionMiddleware
from channels_admission.overload import manager as pressure_module
from channels_admission.overload import room
from channels_admission.overload.manager import OverloadManager
from channels_admission.overload.memory import Memory, Use
from channels_admission.overload.monitors import WINDOW, Cpu, Descriptors, Lag
from channels_admission.overload.sampler import Reader, Sensor
from channels_admission.overload.trigger import FLOOR, STEADY, Trigger
from channels_admission.status.snapshot import collect

from support.virtual import in_virtual_time, run
from support.waiting import eventually

READINGS: dict[str, float | None] = {}


def told() -> float | None:
    """A monitor whose reading the test tells."""
    return READINGS.get("told")


def broken() -> float:
    raise RuntimeError("no such sensor")


WATCHED = {"told": {"MONITOR": f"{__name__}.told", "THRESHOLDS": (0.8, 0.9)}}


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    READINGS.clear()
    monkeypatch.setattr(pressure_module, "REFRESH", 0.01)


# Triggers


@pytest.mark.parametrize(
    ("reading", "expected"), [(None, 0.0), (0.5, 0.0), (0.8, 0.0), (0.85, 7 / 12), (0.9, 1.0), (7.0, 1.0)]
)
def test_the_pressure_grows_from_scaling_to_saturation(reading, expected):
    assert Trigger(Thresholds(0.8, 0.9)).pressure(reading, 0.0) == pytest.approx(expected)


def test_a_trigger_releases_below_its_lower_mark_only():
    trigger = Trigger(Thresholds(0.8, 0.9))
    assert trigger.pressure(0.95, 0.0) == 1.0
    assert trigger.pressure(0.79, 10.0) == pytest.approx(1 / 12)
    assert trigger.pressure(0.77, 20.0) == 0.0
    assert trigger.pressure(0.79, 30.0) == 0.0
    assert trigger.pressure(None, 40.0) == 0.0


@pytest.mark.parametrize(
    ("scaling", "saturation", "low"), [(0.1, 0.5, 0.08), (0.05, 0.3, 0.04), (0.8, 0.9, 0.78), (500, 1000, 400)]
)
def test_a_spike_is_forgotten_wherever_the_thresholds_are(scaling, saturation, low):
    trigger = Trigger(Thresholds(scaling, saturation))
    assert trigger.pressure(2 * saturation, 0.0) == 1.0
    assert trigger.pressure(1.001 * low, STEADY) == FLOOR
    assert trigger.pressure(0.999 * low, 2 * STEADY) == 0.0


def test_a_trigger_that_may_not_stop_yet_goes_on_refusing_a_few():
    trigger = Trigger(Thresholds(0.8, 0.9))
    assert trigger.pressure(0.81, 0.0) == pytest.approx(3 / 12)
    assert [trigger.pressure(reading, 1.0) for reading in (0.5, 0.0)] == [FLOOR, FLOOR]
    assert trigger.pressure(0.5, STEADY) == 0.0


def test_on_its_threshold_a_trigger_changes_at_most_once_in_a_window():
    rng, trigger = random.Random(1), Trigger(Thresholds(0.8, 0.9))
    changes, refuses = [], False
    for quarter in range(4 * 600):
        now = quarter / 4
        if (trigger.pressure(0.8 + rng.gauss(0, 0.015), now) > 0) != refuses:
            refuses = not refuses
            changes.append(now)
    assert len(changes) > 2
    assert all(later - earlier >= STEADY for earlier, later in pairwise(changes))


def test_saturation_is_acted_on_at_once():
    trigger = Trigger(Thresholds(0.8, 0.9))
    trigger.pressure(0.85, 0.0)
    assert trigger.pressure(0.5, STEADY) == 0.0
    assert trigger.pressure(0.85, STEADY + 0.1) == 0.0
    assert trigger.pressure(0.9, STEADY + 0.2) == 1.0


# In a limiter


async def until_read(limiter, reading):
    await eventually(lambda: Load("told", reading, _load(limiter).pressure) == _load(limiter))
    return _load(limiter).pressure


def _load(limiter):
    return next((load for load in limiter.overload.load if load.name == "told"), None) or Load("told", None, 0.0)


async def test_a_saturated_monitor_refuses_everybody_under_its_name_until_it_has_fallen(admission, monkeypatch):
    monkeypatch.setattr("channels_admission.overload.trigger.STEADY", 0.05)
    admission(PRESSURE=WATCHED)
    limiter = limiter_of("default")
    held = await limiter.acquire()
    assert isinstance(held, Slot)
    for reading, expected in ((0.95, 1.0), (0.79, 1 / 12), (0.5, 0.0)):
        READINGS["told"] = reading
        await eventually(lambda expected=expected: _load(limiter).pressure == pytest.approx(expected))
        if expected == 1.0:
            refusals = [await limiter.acquire() for _ in range(20)]
            assert {refusal.reason for refusal in refusals} == {"told"}
            assert all(1 <= refusal.retry_after <= 60 for refusal in refusals)
    again = await limiter.acquire()
    assert isinstance(again, Slot)
    assert limiter.state.counters["told"] == 20
    assert held.pool == "default"
    held.release()
    again.release()
    await close_limiters()


async def test_between_its_thresholds_a_monitor_refuses_a_share(admission, monkeypatch):
    admission(PRESSURE=WATCHED)
    limiter = limiter_of("default")
    READINGS["told"] = 0.85
    await eventually(lambda: _load(limiter).pressure > 0)
    monkeypatch.setattr(random, "random", iter([0.1, 0.58, 0.59, 0.9]).__next__)
    assert [limiter.overload.refusing() for _ in range(4)] == ["told", "told", None, None]
    await close_limiters()


@pytest.mark.parametrize(("reading", "refuses"), [(0.79, False), (0.85, True), (0.95, True)])
async def test_a_monitor_that_refuses_some_refuses(admission, reading, refuses):
    admission(PRESSURE=WATCHED)
    limiter = limiter_of("default")
    READINGS["told"] = reading
    await until_read(limiter, reading)
    assert limiter.overload.refuses is refuses
    await close_limiters()


@pytest.mark.parametrize(("share", "is_tight"), [(0.3, False), (0.93, True), (1.2, True)])
async def test_descriptors_near_their_threshold_are_tight(admission, share, is_tight):
    held = Descriptors().read()
    admission(PRESSURE={"descriptors": (held / share, 2 * held / share)})
    limiter = limiter_of("default")
    await eventually(lambda: any(load.reading for load in limiter.overload.load if load.name == "descriptors"))
    assert limiter.overload.is_tight is is_tight
    await close_limiters()


async def test_descriptors_without_a_threshold_are_never_tight(admission):
    admission(PRESSURE={"descriptors": None, "memory": None})
    limiter = limiter_of("default")
    await eventually(lambda: any(load.reading for load in limiter.overload.load if load.name == "descriptors"))
    assert not limiter.overload.is_tight
    await close_limiters()


async def test_a_monitor_without_thresholds_is_shown_and_refuses_nobody(admission):
    admission(PRESSURE={"told": {"MONITOR": f"{__name__}.told", "THRESHOLDS": None}})
    limiter = limiter_of("default")
    READINGS["told"] = 1e9
    assert await until_read(limiter, 1e9) == 0.0
    slot = await limiter.acquire()
    slot.release()
    await close_limiters()


async def test_a_monitor_that_fails_is_unknown_and_told_of_once(admission, caplog):
    admission(PRESSURE={"broken": {"MONITOR": f"{__name__}.broken", "THRESHOLDS": (1, 2)}})
    limiter = limiter_of("default")
    await eventually(lambda: len(limiter.overload.load) == 6)
    await asyncio.sleep(0.1)
    assert Load("broken", None, 0.0) in limiter.overload.load
    assert [record.getMessage() for record in caplog.records if "broken" in record.getMessage()] == [
        "The monitor 'broken' gives no reading: RuntimeError('no such sensor')"
    ]
    await close_limiters()


async def test_a_monitor_that_raises_is_counted_among_the_functions_of_the_site(admission, caplog):
    admission(HEARTBEAT=0.1, LEASE=1, PRESSURE={"broken": {"MONITOR": f"{__name__}.broken", "THRESHOLDS": None}})
    limiter = limiter_of("default")

    async def shown():
        (pool,) = (await collect()).pools
        return pool.faults

    faults = await eventually(shown)
    assert faults.keys() == {"PRESSURE.broken"}
    assert failed_functions(faults) == faults
    counted = limiter.state.counters["fault:PRESSURE.broken"]
    await eventually(lambda: limiter.state.counters["fault:PRESSURE.broken"] > counted)
    (record,) = [each for each in caplog.records if "broken" in each.getMessage()]
    assert record.exc_info[0] is RuntimeError
    await close_limiters()


@pytest.fixture
def hanging(monkeypatch):
    """``hanging.set()``: from now on the monitor ``told`` does not answer until the test ends."""
    hangs, freed = threading.Event(), threading.Event()

    def source():
        if hangs.is_set():
            freed.wait(30)
        return told()

    monkeypatch.setitem(globals(), "told_or_not", source)
    yield hangs
    freed.set()


HANGING = {"told": {"MONITOR": f"{__name__}.told_or_not", "THRESHOLDS": (0.8, 0.9)}}


async def test_a_monitor_that_hangs_is_unknown_after_a_while_and_told_of_once(admission, hanging, caplog):
    admission(PRESSURE=HANGING)
    READINGS["told"] = 0.95
    limiter = limiter_of("default")
    assert await until_read(limiter, 0.95) == 1.0
    hanging.set()
    assert await until_read(limiter, None) == 0.0
    await asyncio.sleep(0.1)
    assert [record.getMessage() for record in caplog.records if "told" in record.getMessage()] == [
        "The monitor 'told' gives no reading: it takes too long"
    ]
    await close_limiters()


async def test_a_monitor_that_hangs_stops_no_other_one(admission, hanging, memory, monkeypatch):
    monkeypatch.setattr("channels_admission.overload.trigger.STEADY", 0.05)
    admission(PRESSURE={**HANGING, "other_one": {"MONITOR": f"{__name__}.told", "THRESHOLDS": None}})
    hanging.set()
    limiter = limiter_of("default")
    for used, pressure in ((0.99, 1.0), (0.2, 0.0), (0.99, 1.0)):
        memory(used)
        READINGS["told"] = used
        expected = {Load("memory", used, pressure), Load("other_one", used, 0.0), Load("told", None, 0.0)}
        await eventually(lambda expected=expected: expected <= set(limiter.overload.load))
    await close_limiters()


def test_a_monitor_that_hangs_holds_up_no_end_of_the_process():
    code = (
        "import time\n"
        "from channels_admission.overload.sampler import Reader, Sensor\n"
        "reader = Reader(Sensor('told', lambda: time.sleep(60)))\n"
        "reader.ask()\n"
        "reader.close()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)


def test_a_thread_ends_with_its_reader():
    reader = Reader(Sensor("told", lambda: 1.0))
    reader.ask()
    thread = reader._thread
    del reader
    thread.join(5)
    assert not thread.is_alive()


@in_virtual_time
async def test_a_blocked_loop_refuses_with_reason_lag_and_recovers(admission, monkeypatch):
    admission(PRESSURE={})
    monkeypatch.setattr(pressure_module, "Lag", VirtualLag)
    monkeypatch.setattr(pressure_module, "Reader", AtOnce)
    limiter, loop = limiter_of("default"), asyncio.get_running_loop()
    for _ in range(6):
        loop.work(0.3)
        await asyncio.sleep(0.1)
    lag = next(load for load in limiter.overload.load if load.name == "lag")
    assert lag.median < lag.reading < lag.longest == pytest.approx(0.3, abs=0.02)
    assert lag.reading == pytest.approx(0.3, abs=0.03)
    assert 0.3 < lag.pressure < 0.8
    verdicts = [await limiter.acquire() for _ in range(100)]
    refused = [verdict for verdict in verdicts if not isinstance(verdict, Slot)]
    assert 10 <= len(refused) <= 95
    assert limiter.state.counters["lag"] == len(refused)
    await asyncio.sleep(2 * STEADY + 0.5)
    assert max(load.pressure for load in limiter.overload.load) == 0
    await close_limiters()


async def test_a_lag_refuses_nobody_of_a_herd_that_is_spread_unless_it_was_there_before(admission, monkeypatch):
    herd = SimpleNamespace(is_spread=False)
    watching = OverloadManager(admission(PRESSURE={}), is_spreading=lambda: herd.is_spread)

    def read(seconds, is_spread):
        herd.is_spread = is_spread
        monkeypatch.setattr(watching._lag, "percentiles", lambda *_: (seconds, 0.0, seconds))
        watching._judge()
        return watching.refusing()

    assert [read(0.0, False), read(10.0, True), read(10.0, True)] == [None] * 3
    assert not watching.saturated
    assert [read(10.0, False), read(10.0, True)] == ["lag"] * 2
    assert watching.saturated
    await eventually(lambda: read(0.0, True) is None and not watching._highest[0], seconds=2 * STEADY + 0.5)
    assert read(10.0, True) is None
    await watching.aclose()


# Without waiting for the next reading


@pytest.fixture
def descriptors(monkeypatch):
    """``descriptors.open`` of 1,000 allowed, told by the test."""
    count = SimpleNamespace(open=100)
    monkeypatch.setattr(Descriptors, "used", lambda self: count.open)
    monkeypatch.setattr(Descriptors, "allowed", lambda self: 1000)
    return count


@pytest.fixture
def seldom(monkeypatch):
    """Monitors that are read once, and not again while the test lasts."""
    monkeypatch.setattr(pressure_module, "REFRESH", 60)
    monkeypatch.setattr(pressure_module, "REST", 60)


async def test_a_herd_is_refused_before_it_takes_the_last_descriptors(admission, descriptors, seldom):
    admission()
    limiter = limiter_of("default")
    await eventually(lambda: len(limiter.overload.load) == 5)
    verdicts = []
    while limiter.state.counters["descriptors"] == 0:
        descriptors.open += 1
        verdicts.append(await limiter.acquire())
    assert 850 <= descriptors.open <= 960
    descriptors.open = 980
    refused = [await limiter.acquire() for _ in range(20)]
    assert {verdict.reason for verdict in refused[10:]} == {"descriptors"}
    for verdict in verdicts[:-1]:
        verdict.release()
    await close_limiters()


async def test_descriptors_that_are_only_shown_are_not_counted_at_a_handshake(admission, descriptors, seldom):
    admission(PRESSURE={"descriptors": None})
    limiter = limiter_of("default")
    await eventually(lambda: len(limiter.overload.load) == 5)
    descriptors.open = 1000
    assert [limiter.overload.refusing() for _ in range(100)] == [None] * 100
    assert Load("descriptors", 0.1, 0.0) in limiter.overload.load
    await close_limiters()


MIB = 2**20


async def test_a_herd_is_refused_before_it_takes_the_last_memory_whichever_pools_it_comes_to(
    admission, monkeypatch, seldom
):
    there_is = Use(298 * MIB, 400 * MIB, 0)
    monkeypatch.setattr(Memory, "measure", lambda self: (there_is,))
    admission(POOLS={"chat": {}})
    limiters = [limiter_of("default"), limiter_of("chat")]
    verdicts = await asyncio.gather(*(limiters[number % 2].acquire() for number in range(50)))
    slots = [verdict for verdict in verdicts if isinstance(verdict, Slot)]
    # As many as have 4 MiB each below 85 % of 400 MiB.
    assert len(slots) == 10
    assert [limiter.state.counters["memory"] for limiter in limiters] == [20, 20]
    assert limiters[0].saturated
    assert next(load.pressure for load in limiters[0].overload.load if load.name == "memory") == 1.0
    for slot in slots:
        slot.release()
    await eventually(lambda: not limiters[0].present and not limiters[1].present)
    monkeypatch.setattr(pressure_module, "LOOK", 0)
    again = await eventually(lambda: _admitted(limiters[1]))
    again.release()
    await close_limiters()


async def _admitted(limiter):
    verdict = await limiter.acquire()
    return verdict if isinstance(verdict, Slot) else None


async def test_a_herd_is_let_in_whole_where_memory_is_ample_or_only_shown(admission, monkeypatch, seldom):
    for keys, allowed in (({}, 40_000), ({"PRESSURE": {"memory": None, "lag": None}}, 400)):
        there_is = Use(298 * MIB, allowed * MIB, 0)
        monkeypatch.setattr(Memory, "measure", lambda self, use=there_is: (use,))
        admission(**keys)
        limiter = limiter_of("default")
        slots = await asyncio.gather(*(limiter.acquire() for _ in range(500)))
        assert all(isinstance(slot, Slot) for slot in slots)
        for slot in slots:
            slot.release()
        await close_limiters()


# What it costs

HANDSHAKES = 10_000


async def test_a_handshake_leaves_nothing_behind(admission, seldom, monkeypatch):
    monkeypatch.setattr(room, "APART", 60)  # samples are kept for a while, and not for the handshakes
    admission()
    pressure = limiter_of("default").overload
    await eventually(lambda: pressure.load)
    # Nor does the event loop allocate in between, since nothing here is awaited.
    tracemalloc.start()
    try:
        # The first round also leaves the readings that the second replaces.
        for _ in range(HANDSHAKES):
            pressure.refusing()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(HANDSHAKES):
            pressure.refusing()
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    # Less than a byte each: threads of the process take some tens of bytes meanwhile, and so does the first figure.
    assert after - before < HANDSHAKES
    await close_limiters()


TOLD_FROM_MEMORY = {
    "os.stat": [("channels_admission/overload/monitors.py", "used")],
    "os.readlink": [("channels_admission/runtime/identity.py", "host_token")],
    "io.TextIOWrapper.read": [
        ("channels_admission/runtime/identity.py", "host_token"),
        ("channels_admission/overload/kernel.py", "text"),
    ],
    "io.BufferedReader.read": [("psutil/_common.py", "cat")],
}
"""What the kernel tells in /proc and /sys and never reads from a disk; but for the first, asked once."""


async def test_nothing_here_blocks_the_event_loop(admission, redis_server):
    settings = admission(LEDGER=redis_server.url, HEARTBEAT=0.1, LEASE=1, PRESSURE={**WATCHED, "lag": None})
    await open_ledger(settings).aclose()  # which may import its module
    with blockbuster_ctx() as blocking:
        for function, places in TOLD_FROM_MEMORY.items():
            for file, place in places:
                blocking.functions[function].can_block_in(file, place)
        limiter = limiter_of("default")
        slots = [await limiter.acquire() for _ in range(20)]
        assert all(isinstance(slot, Slot) for slot in slots)
        READINGS["told"] = 1.0
        await eventually(lambda: _load(limiter).pressure == 1)
        refused = [await limiter.acquire() for _ in range(20)]
        assert {verdict.reason for verdict in refused} == {"told"}
        calls = limiter.state.calls.made
        await eventually(lambda: limiter.state.calls.made >= calls + 3)
        for slot in slots:
            slot.release()
        await collect(settings)
        await close_limiters()


def test_the_median_and_the_longest_of_a_lag_are_reported_in_a_few_bytes():
    load = (Load("lag", 0.296, 0.49, 0.1, 0.3), Load("memory", 0.5, 0.0), Load("cpu", None, 0.0))
    text = "L0.296~0.1~0.3@0.49;M0.5;C?"
    assert record.load_text(load, None) == text
    assert record._loads(text) == load
    assert record.load_text((Load("lag", 0.0, 0.0, 0.0, 0.0),), None) == "L0"


@pytest.mark.parametrize("reading", [-3.0, -1.5e-07, 1e20, -1e20, 1e300, 1e-300, 999999.0])
def test_no_reading_makes_a_monitor_vanish_from_a_record(reading):
    load = (Load("queue", reading, 0.5), Load("other_one", 0.5, 0.0))
    told, other_one = record._loads(record.load_text(load, None))
    assert told == Load("queue", pytest.approx(reading, rel=0.01), 0.5)
    assert other_one == load[1]


def test_a_reading_that_no_number_can_hold_is_read_as_unknown():
    assert record._loads("queue=1.8e+308;M0.5") == (Load("queue", None, 0.0), Load("memory", 0.5, 0.0))


@pytest.mark.parametrize("reading", [float("inf"), float("-inf"), float("nan")])
async def test_a_reading_that_is_no_number_is_unknown_and_told_of_once(admission, caplog, reading):
    admission(PRESSURE=WATCHED)
    READINGS["told"] = 0.95
    limiter = limiter_of("default")
    assert await until_read(limiter, 0.95) == 1.0
    READINGS["told"] = reading
    assert await until_read(limiter, None) == 0.0
    await asyncio.sleep(0.05)
    assert [record.getMessage() for record in caplog.records if "told" in record.getMessage()] == [
        f"The monitor 'told' gives no reading: {reading} is not a finite number"
    ]
    await close_limiters()


async def test_the_readings_are_reported_with_the_heartbeat(admission, redis_server):
    admission(LEDGER=redis_server.url, HEARTBEAT=0.1, LEASE=1, PRESSURE=WATCHED)
    READINGS["told"] = 0.84
    limiter = limiter_of("default")

    async def seen():
        (reading,) = await limiter.reconciler.ledger.read(("default",))
        return {load.name: load for worker in reading.workers for load in worker.load}

    loads = await eventually(lambda: _complete(seen))
    assert loads["told"] == Load("told", 0.84, pytest.approx(0.06 / 0.12, abs=0.01))
    assert set(loads) == {"lag", "memory", "descriptors", "cpu", "threads", "told"}
    assert 0 < loads["memory"].reading < 1
    await close_limiters()


async def _complete(seen):
    loads = await seen()
    return loads if len(loads) == 6 and loads["cpu"].reading is not None else None


async def test_the_monitors_end_with_the_limiters(admission):
    admission()
    limiter = limiter_of("default")
    await eventually(lambda: limiter.overload.load)
    watching: OverloadManager = limiter.overload
    await close_limiters()
    assert watching._ticker.cancelled()
    await eventually(lambda: not [each for each in threading.enumerate() if "admission monitors" in each.name])


# How often


class AtOnce(Reader):
    """A reader that answers at once."""

    asked = 0

    def ask(self):
        AtOnce.asked += 1
        self._answers.put({sensor.name: sensor.read() for sensor in self._sensors})


class VirtualLag(Lag):
    """A lag in virtual time."""

    ticks = 0

    def __init__(self, every):
        super().__init__(every, asyncio.get_running_loop().time)

    def tick(self, calm):
        VirtualLag.ticks += 1
        return super().tick(calm)


@pytest.fixture
def in_ten_seconds(settings, monkeypatch, descriptors):
    """How often a worker is woken, and how often its monitors are read; ``act`` is called in each millisecond."""
    for name, value in (("REFRESH", 0.25), ("Reader", AtOnce), ("Lag", VirtualLag)):
        monkeypatch.setattr(pressure_module, name, value)
    monkeypatch.setattr(Memory, "read", lambda self: 0.5)
    monkeypatch.setattr(Cpu, "of_a_core", lambda self: 0.0)

    async def watch(act):
        manager = OverloadManager(conf.current())
        await asyncio.sleep(2 * WINDOW + 0.1)
        VirtualLag.ticks = AtOnce.asked = 0
        for now in range(10_000):
            act(manager, now)
            await asyncio.sleep(0.001)
        await manager.aclose()
        # A reading that is due at the end may come a tick later.
        return VirtualLag.ticks, 5 * round(AtOnce.asked / 5)

    def play(act=lambda manager, now: None, **keys):
        settings.CHANNELS_ADMISSION = keys
        return run(watch(act))

    return play


def test_a_calm_worker_is_woken_twice_a_second_and_read_once(in_ten_seconds):
    assert in_ten_seconds() == (20, 10)


def test_near_a_threshold_it_is_read_four_times_a_second(in_ten_seconds, descriptors):
    descriptors.open = 681
    assert in_ten_seconds() == (80, 40)
    descriptors.open = 680
    assert in_ten_seconds() == (20, 10)


@pytest.mark.parametrize(("work", "often"), [(0.04, (20, 10)), (0.05, (80, 40))])
def test_a_worker_that_works_is_read_four_times_a_second(in_ten_seconds, monkeypatch, work, often):
    """It may take memory at once."""
    monkeypatch.setattr(Cpu, "of_a_core", lambda self: work)
    assert in_ten_seconds() == often


def test_a_worker_that_refuses_is_read_often_whatever_its_readings_are(in_ten_seconds, monkeypatch):
    monkeypatch.setattr(Trigger, "pressure", lambda self, reading, now: 0.01)
    assert in_ten_seconds() == (80, 40)


async def test_whether_a_worker_works_is_known_without_a_file(settings, monkeypatch):
    """None can be opened where descriptors are used up."""
    settings.CHANNELS_ADMISSION = {}
    monkeypatch.setattr(Cpu, "_cores", property(lambda self: broken()))
    manager = OverloadManager(conf.current())
    await eventually(lambda: manager.load and manager._readings["memory"] is not None)
    await manager.aclose()


@pytest.mark.parametrize(("change", "often"), [(17, (20, 10)), (18, (80, 40))])
def test_readings_that_change_are_looked_at_more_closely(in_ten_seconds, monkeypatch, change, often):
    readings = cycle([100, 100 + change])
    monkeypatch.setattr(Descriptors, "used", lambda self: next(readings))
    assert in_ten_seconds() == often


def test_a_monitor_that_hangs_in_a_calm_worker_is_unknown_as_soon_as_in_any_other(in_ten_seconds, monkeypatch):
    hung_at, known_until = 3_000, []

    class Hanging(AtOnce):
        def ask(self):
            if (
                self._sensors[0].name == "told"
                and asyncio.get_running_loop().time() > hung_at / 1000 + 2 * WINDOW + 0.1
            ):
                self._missed += self.is_reading
                self.is_reading = True
            else:
                super().ask()

    def look(manager, now):
        if manager._readings["told"] is not None:
            known_until.append(now)

    monkeypatch.setattr(pressure_module, "Reader", Hanging)
    READINGS["told"] = 0.1
    in_ten_seconds(look, PRESSURE=WATCHED)
    assert 2_000 <= known_until[-1] - hung_at <= 4_000


def test_many_handshakes_have_the_monitors_read_soon(in_ten_seconds):
    """Ten of them raise the descriptors by a hundredth."""
    assert in_ten_seconds(lambda manager, now: manager.refusing())[1] > 20


# Connections closed where memory runs out


class Visitor:
    """A client whose application listens until it is told that the client has left."""

    def __init__(self, application, path: str = "/") -> None:
        self.path = path
        self.sent: list[dict] = []
        self.events: asyncio.Queue = asyncio.Queue()
        scope = {"type": "websocket", "path": path}
        self.task = asyncio.ensure_future(application(scope, self.events.get, self.send))

    async def send(self, message):
        self.sent.append(message)


class Ended:
    """A connection that notes that it was ended, and stays."""

    def __init__(self, number):
        self.is_ending = False

    def end(self, code, reason):
        self.is_ending = True


async def listen(scope, receive, send):
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


@pytest.fixture
def memory(monkeypatch):
    """``memory(share)``: from now on so much of it is used; and of that, ``firm`` cannot be taken back."""
    there_is = 10**12
    uses = [Use(there_is // 2, there_is, there_is // 2)]
    monkeypatch.setattr(Memory, "measure", lambda self: (uses[0],))

    def use(share, firm=None):
        uses[0] = Use(round(share * there_is), there_is, round((share if firm is None else firm) * there_is))

    return use


async def test_where_memory_runs_out_the_youngest_are_closed_a_few_each_heartbeat_until_it_is_enough(admission, memory):
    admission(HEARTBEAT=0.2, LEASE=2, SHED_PER_HEARTBEAT=3)
    application = AdmissionMiddleware(listen)
    visitors = [Visitor(application) for _ in range(20)]
    limiter = limiter_of("default")
    await eventually(lambda: limiter.state.held == 20)
    memory(0.96)
    await eventually(lambda: limiter.state.held == 17)
    assert [visitor.task.done() for visitor in visitors] == [False] * 17 + [True] * 3
    for visitor in visitors[17:]:
        assert visitor.sent[-1]["code"] == 1013
        assert re.fullmatch(r"Try Again Later; ticket=[\w-]{24}; retry-after=\d+(\.\d)?", visitor.sent[-1]["reason"])
    await eventually(lambda: limiter.state.held == 11)
    memory(0.90)
    await eventually(lambda: not limiter.overload.is_out_of_memory)
    held = limiter.state.held
    assert held in (11, 8)
    await asyncio.sleep(0.5)
    assert limiter.state.held == held
    assert limiter.state.counters["shed"] == 20 - held
    for visitor in visitors:
        visitor.events.put_nowait({"type": "websocket.disconnect"})
    await asyncio.gather(*(visitor.task for visitor in visitors))
    assert limiter.connections == {}
    await close_limiters()


async def test_the_pools_of_a_worker_close_no_more_together_than_one_would(admission, memory, monkeypatch):
    names, closed, note = ("default", "chat", "feed"), [], OverloadManager.shed
    monkeypatch.setattr(
        OverloadManager, "shed", lambda self, count: (closed.append((self._loop.time(), count)), note(self, count))
    )
    admission(HEARTBEAT=0.4, LEASE=4, SHED_PER_HEARTBEAT=5, POOLS={name: {} for name in names})
    visitors = [Visitor(AdmissionMiddleware(listen, pool=name)) for name in names for _ in range(4)]
    limiters = [limiter_of(name) for name in names]
    await eventually(lambda: [limiter.state.held for limiter in limiters] == [4, 4, 4])
    memory(0.96)
    await asyncio.wait_for(asyncio.gather(*(visitor.task for visitor in visitors)), 20)
    assert sum(count for _, count in closed) == sum(limiter.state.counters["shed"] for limiter in limiters) == 12
    in_a_heartbeat = [sum(count for at, count in closed if begun <= at < begun + 0.39) for begun, _ in closed]
    assert max(in_a_heartbeat) <= 5
    assert in_a_heartbeat[0] >= 4
    await close_limiters()


def by_path(scope):
    return scope["path"].strip("/")


async def test_those_of_the_lowest_class_are_closed_first(admission, memory):
    shares = {"member": 0.9, "guest": 0.5}
    admission(
        HEARTBEAT=0.2, LEASE=2, SHED_PER_HEARTBEAT=2, CLASSIFY=f"{__name__}.by_path", SHARES=shares, MAX_CONNECTIONS=100
    )
    limiter, application = limiter_of("default"), AdmissionMiddleware(listen)
    visitors = []
    for place, path in enumerate(("exempt", "guest", "member", "guest", "member"), 1):
        visitors.append(Visitor(application, f"/{path}/"))
        await eventually(lambda place=place: limiter.state.held == place)
    memory(0.96)
    for left in (["exempt", "member", "member"], ["exempt"]):
        await eventually(lambda left=left: limiter.state.held == len(left))
        assert [visitor.path.strip("/") for visitor in visitors if not visitor.task.done()] == left
    await eventually(lambda: limiter.state.held == 0)
    await close_limiters()


async def test_nobody_is_closed_where_that_is_switched_off_or_memory_is_only_shown(admission, memory):
    for keys in ({"SHED_PER_HEARTBEAT": 0}, {"PRESSURE": {"memory": None}}):
        admission(HEARTBEAT=0.1, LEASE=1, **keys)
        visitor = Visitor(AdmissionMiddleware(listen))
        limiter = limiter_of("default")
        await eventually(lambda limiter=limiter: limiter.state.held == 1)
        memory(2.0)
        await asyncio.sleep(0.4)
        assert limiter.state.held == 1
        visitor.events.put_nowait({"type": "websocket.disconnect"})
        await visitor.task
        memory(0.5)
    await close_limiters()


async def test_nobody_is_closed_for_memory_that_the_kernel_can_take_back(admission, memory):
    admission(HEARTBEAT=0.1, LEASE=1)
    visitor = Visitor(AdmissionMiddleware(listen))
    limiter = limiter_of("default")
    await eventually(lambda: limiter.state.held == 1)
    memory(1.0, firm=0.94)
    await eventually(lambda: limiter.overload.saturated)
    assert (await limiter.acquire()).reason == "memory"
    await asyncio.sleep(0.3)
    assert limiter.state.held == 1
    memory(1.0, firm=0.95)
    await asyncio.wait_for(visitor.task, 5)
    assert limiter.state.counters["shed"] == 1
    await close_limiters()


async def test_nobody_is_closed_twice_for_one_reading(admission, memory, seldom):
    admission(HEARTBEAT=0.1, LEASE=1, SHED_PER_HEARTBEAT=3)
    memory(0.99)
    limiter = limiter_of("default")
    visitors = [limiter.connections.__setitem__(each, None) or each for each in map(Ended, range(9))]
    await eventually(lambda: any(each.is_ending for each in visitors))
    calls = limiter.state.calls.made
    await eventually(lambda: limiter.state.calls.made >= calls + 4)
    assert [each.is_ending for each in visitors] == [False] * 6 + [True] * 3
    limiter.overload._asked_at = -math.inf
    await eventually(lambda: sum(each.is_ending for each in visitors) == 6)
    limiter.connections.clear()
    await close_limiters()


async def test_connections_are_closed_while_the_ledger_is_away_too(admission, memory):
    admission(HEARTBEAT=0.2, LEASE=2, LEDGER="redis://127.0.0.1:1/0", MAX_CONNECTIONS=20)
    visitors = [Visitor(AdmissionMiddleware(listen)) for _ in range(3)]
    limiter = limiter_of("default")
    await eventually(lambda: limiter.state.held == 3)
    memory(0.99)
    await asyncio.wait_for(asyncio.gather(*(visitor.task for visitor in visitors)), 5)
    assert {visitor.sent[-1]["code"] for visitor in visitors} == {1013}
    await close_limiters()


# What connections use


async def test_a_report_has_what_the_process_uses_with_its_connections(admission):
    admission()
    limiter = limiter_of("default")
    slots = [await limiter.acquire() for _ in range(3)]
    footprint = await eventually(lambda: (it := limiter.overload.footprint) and it.now.connections == 3 and it)
    process = psutil.Process()
    assert footprint.now.memory == pytest.approx(process.memory_info().rss, rel=0.1)
    assert footprint.now.files == pytest.approx(process.num_fds(), abs=5)
    assert footprint.files_limit == process.rlimit(psutil.RLIMIT_NOFILE)[0]
    assert 0 < footprint.memory_used <= footprint.memory_limit <= psutil.virtual_memory().total
    assert limiter.begin_report(0.0, heartbeat=True).report.footprint == limiter.overload.footprint
    for slot in slots:
        slot.release()
    await close_limiters()
    assert limiter.overload.footprint is None

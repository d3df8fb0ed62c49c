"""The monitors against sources that the test holds, and against this machine's own."""

import asyncio
import os
import resource
import time
from collections import deque
from types import SimpleNamespace

import psutil
import pytest

from channels_admission.overload.memory import NO_LIMIT, Memory, Use
from channels_admission.overload.monitors import CLOSER, WINDOW, Cpu, Descriptors, Lag

from support.reports import Clock


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def machine(tmp_path):
    """``machine({path: text, …})``: the root of a file system with these files."""

    def write(files):
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        return tmp_path

    return write


# Lag


TICK, CALM = 0.02, 0.125


@pytest.fixture
def lag(clock):
    return Lag(TICK, clock)


def ticks(lag, clock, seconds):
    """Tick for so many seconds, as told and on time, and give each pause."""
    until = clock.now + seconds
    while clock.now < until:
        yield (pause := lag.tick(CALM))
        clock.now += pause


def run(lag, clock, seconds, block=0.0):
    """The same, and then be ``block`` seconds late."""
    deque(ticks(lag, clock, seconds), maxlen=0)
    clock.now += block


def test_a_loop_on_time_has_no_lag(lag, clock):
    run(lag, clock, 4.0)
    assert lag.read() == 0.0


def test_the_lag_is_what_99_of_100_times_would_have_waited(lag, clock):
    # Blocked for 0.3 of every 0.4 seconds: a moment waits evenly up to 0.3 s, and a quarter of them not at all.
    for _ in range(20):
        run(lag, clock, 0.11, block=0.29)
    run(lag, clock, 0.04)
    median, most, longest = lag.percentiles(0.5, 0.99, 1.0)
    assert median == pytest.approx(0.1, abs=0.02)
    assert (most, longest) == pytest.approx((0.296, 0.3))


def test_one_short_stall_is_no_lag_of_99_of_100_times(lag, clock):
    run(lag, clock, 1.0, block=0.04)
    run(lag, clock, 0.4)
    assert lag.read() < 0.05
    assert lag.percentiles(1.0) == pytest.approx((0.05,))


def test_a_stall_is_seen_while_it_lasts_and_forgotten_after_a_window(lag, clock):
    run(lag, clock, 2.0)
    clock.now += 1.0
    assert lag.read() > 0.9
    run(lag, clock, 2.1)
    assert lag.read() == 0.0


def test_the_loop_is_looked_at_seldom_while_it_is_on_time_and_often_once_it_is_not(lag, clock):
    run(lag, clock, WINDOW)
    assert lag.tick(CALM) == CALM
    clock.now += 2 * CALM
    assert lag.tick(CALM) == TICK
    run(lag, clock, WINDOW + CALM)
    assert lag.tick(CALM) == CALM


def test_a_short_block_is_worth_no_closer_look(lag, clock):
    run(lag, clock, WINDOW, block=CLOSER - TICK)
    assert lag.tick(CALM) == CALM
    assert lag.read() > 0
    clock.now += CALM + CLOSER
    assert lag.tick(CALM) == TICK


@pytest.mark.parametrize("begins", [0.0, 0.004, 0.013, 0.02])
def test_the_length_of_a_block_is_known_within_half_a_tick(lag, clock, begins):
    lag.tick(CALM)
    clock.now += begins + 0.3
    assert lag.percentiles(1.0)[0] == pytest.approx(0.3, abs=TICK / 2 + 1e-6)


async def test_the_lag_of_a_real_loop_that_is_blocked_most_of_the_time():
    lag, loop = Lag(TICK), asyncio.get_running_loop()

    def tick():
        loop.call_later(lag.tick(CALM), tick)

    tick()
    for _ in range(6):
        time.sleep(0.3)
        await asyncio.sleep(0.1)
    assert lag.read() == pytest.approx(0.3, rel=0.2)


# Memory

GIB = 2**30
MIB = 2**20
V2 = {
    "proc/self/cgroup": "0::/app/web\n",
    "sys/fs/cgroup/app/web/memory.current": f"{3 * GIB}\n",
    "sys/fs/cgroup/app/web/memory.max": f"{4 * GIB}\n",
    "sys/fs/cgroup/app/web/memory.stat": f"anon 5\nfile {GIB}\ninactive_file {GIB}\nactive_file 0\n",
}
V1 = {
    "proc/self/cgroup": "9:name=systemd:/\n4:memory:/app\n1:cpu,cpuacct:/\n",
    "sys/fs/cgroup/memory/app/memory.usage_in_bytes": f"{3 * GIB}\n",
    "sys/fs/cgroup/memory/app/memory.limit_in_bytes": f"{4 * GIB}\n",
    "sys/fs/cgroup/memory/app/memory.stat": f"total_inactive_file {2 * GIB}\n",
}


@pytest.fixture
def ram(monkeypatch):
    """``ram(total, available)``: the machine has this memory, in bytes."""

    def have(total, available):
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=total, available=available))

    return have


def test_the_memory_of_a_container_without_the_cache_that_can_be_dropped(machine, ram):
    ram(64 * GIB, 6.4 * GIB)
    assert Memory(root=machine(V2)).read() == 0.5
    assert Memory(root=machine(V1)).read() == 0.25


STAT_V2, STAT_V1 = "sys/fs/cgroup/app/web/memory.stat", "sys/fs/cgroup/memory/app/memory.stat"
CACHE = {"inactive_file": 600, "active_file": 400}
"""MiB on the kernel's lists of what can be dropped, of the 3 GiB that each of these groups holds."""


def stat(total="", **sizes):
    return "".join(f"{total}{name} {size * MIB}\n" for name, size in sizes.items())


@pytest.mark.parametrize(
    ("sizes", "used", "firm"),
    [
        ({}, 3072, 3072),
        (CACHE, 2072, 2072),
        ({**CACHE, "file_dirty": 100, "file_writeback": 50}, 2222, 2072),
        ({**CACHE, "file_dirty": 2000}, 3072, 2072),
        ({**CACHE, "slab_reclaimable": 72, "slab_unreclaimable": 500}, 2000, 2000),
        ({**CACHE, "file": 1900, "shmem": 900, "unevictable": 300}, 2072, 2072),
        ({"inactive_file": 4000, "slab_reclaimable": 100}, 0, 0),
    ],
    ids=["none", "clean", "unwritten", "mostly unwritten", "slab", "shared and locked", "more than there is"],
)
def test_what_the_kernel_would_give_back_is_not_used(machine, ram, sizes, used, firm):
    ram(64 * GIB, 32 * GIB)
    memory = Memory(root=machine({**V2, STAT_V2: stat(anon=5, **sizes)}))
    assert memory.measure() == (Use(used * MIB, 4 * GIB, firm * MIB),)
    assert memory.read() == used / 4096


def test_version_1_tells_the_unwritten_and_the_kernel_s_memory_by_other_names(machine, ram):
    ram(64 * GIB, 32 * GIB)
    files = {STAT_V1: stat("total_", **CACHE, dirty=100, writeback=50) + stat(active_file=3000, dirty=7)}
    assert Memory(root=machine({**V1, **files})).measure() == (Use(2222 * MIB, 4 * GIB, 2072 * MIB),)
    files["sys/fs/cgroup/memory/app/memory.kmem.usage_in_bytes"] = str(72 * MIB)
    assert Memory(root=machine({**V1, **files})).measure() == (Use(2222 * MIB, 4 * GIB, 2000 * MIB),)


@pytest.mark.parametrize("files", [V2, V1], ids=["v2", "v1"])
def test_a_group_that_does_not_tell_of_its_cache_has_nothing_firm(machine, ram, files):
    ram(64 * GIB, 32 * GIB)
    memory = Memory(root=machine({path: text for path, text in files.items() if not path.endswith("stat")}))
    assert memory.measure() == (Use(3 * GIB, 4 * GIB, 0),)


STATUS = "Name:\tuvicorn\nVmRSS:\t  {rss} kB\nRssAnon:\t 1 kB\nRssFile:\t  {file} kB\nThreads:\t1\n"


def test_a_file_that_the_process_maps_later_is_not_firm(machine, ram):
    ram(64 * GIB, 32 * GIB)
    root = machine({**V2, "proc/self/status": STATUS.format(rss=50_000, file=20_000)})
    memory = Memory(GIB, root)
    for rss, file, firm in ((60_000, 20_000, 60_000), (90_000, 50_000, 60_000), (30_000, 5_000, 30_000)):
        machine({"proc/self/status": STATUS.format(rss=rss, file=file)})
        assert memory.measure()[0] == Use(rss << 10, GIB, firm << 10, is_shared=False)


def test_the_resident_memory_is_that_of_this_process():
    use = Memory(GIB).measure()[0]
    assert use.used == pytest.approx(psutil.Process().memory_info().rss, rel=0.02)
    assert use.firm == pytest.approx(use.used, rel=0.02)


@pytest.mark.parametrize("files", [V2, V1], ids=["v2", "v1"])
@pytest.mark.parametrize("use", ["", "unreadable"])
def test_a_container_whose_use_cannot_be_read_is_unknown_and_not_zero(machine, ram, files, use):
    ram(64 * GIB, 32 * GIB)
    unknown = {path: use for path in files if path.endswith(("memory.current", "memory.usage_in_bytes"))}
    memory = Memory(root=machine({**files, **unknown}))
    assert memory.read() is None
    assert memory.total() == 4 * GIB


def test_another_limit_of_a_container_is_seen_after_ten_seconds(machine, ram, clock):
    ram(64 * GIB, 32 * GIB)
    memory = Memory(root=machine(V2), clock=clock)
    assert memory.read() == 0.5
    machine({"sys/fs/cgroup/app/web/memory.max": str(8 * GIB)})
    clock.now += 9.9
    assert memory.read() == 0.5
    clock.now += 0.1
    assert memory.read() == 0.25


def test_a_group_whose_use_cannot_be_read_leaves_the_others_to_count(machine, ram):
    ram(64 * GIB, 6.4 * GIB)
    outer = {"sys/fs/cgroup/app/memory.max": str(10 * GIB)}
    assert Memory(root=machine({**V2, **outer})).read() == 0.5


@pytest.mark.parametrize(
    ("total", "available", "expected"),
    [
        (4 * GIB, GIB, 0.75),
        (3 * GIB, 0.3 * GIB, 0.9),
        (3 * GIB, 2.7 * GIB, 0.5),
        (4 * GIB + 1, GIB, 0.5),
    ],
    ids=["equal", "above", "above, and itself the fuller", "below"],
)
def test_a_limit_that_is_no_less_than_the_machine_does_not_hide_it(machine, ram, total, available, expected):
    ram(total, available)
    assert Memory(root=machine(V2)).read() == pytest.approx(expected)


def test_the_tightest_of_the_groups_around_counts(machine, ram):
    ram(64 * GIB, 32 * GIB)
    outer = {"sys/fs/cgroup/app/memory.current": str(9 * GIB), "sys/fs/cgroup/app/memory.max": str(10 * GIB)}
    assert Memory(root=machine({**V2, **outer})).read() == 0.9


@pytest.mark.parametrize("unlimited", ["max", str(NO_LIMIT), "9223372036854771712"])
def test_a_container_without_a_limit_has_the_memory_of_the_machine(machine, unlimited):
    root = machine({**V2, "sys/fs/cgroup/app/web/memory.max": unlimited})
    memory = psutil.virtual_memory()
    assert Memory(root=root).read() == pytest.approx(1 - memory.available / memory.total, abs=0.05)


def test_a_limit_of_the_process_counts_where_it_is_tighter(machine, ram):
    ram(64 * GIB, 32 * GIB)
    rss = psutil.Process().memory_info().rss
    assert Memory(rss, machine(V2)).read() == pytest.approx(1.0, rel=0.1)
    assert Memory(100 * rss, machine(V2)).read() == 0.5


def test_the_memory_there_is_in_all_is_the_least_of_what_bounds_it(machine):
    root = machine({})
    everything = psutil.virtual_memory().total
    assert Memory(root=root).total() == everything
    assert Memory(5, root).total() == 5
    bounded = {**V2, "sys/fs/cgroup/app/web/memory.max": "1000"}
    assert Memory(everything, machine(bounded)).total() == 1000
    root = machine({**bounded, "sys/fs/cgroup/app/memory.max": "900"})
    assert Memory(root=root).total() == 900
    assert Memory(899, root).total() == 899


def test_without_a_file_to_open_the_resident_memory_is_what_it_was(machine):
    memory = Memory(GIB)
    before, limits = memory.resident(), resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        now = memory.resident()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert now == before > 0


# Descriptors


def test_the_limits_of_open_files_and_what_no_limit_can_pass(machine):
    assert Descriptors().ceiling() == resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert Descriptors(machine({"proc/sys/fs/nr_open": "1048576\n"})).greatest() == 1048576


@pytest.mark.parametrize(
    ("limits", "allowed", "ceiling"),
    [((256, 4096), 256, 4096), ((256, psutil.RLIM_INFINITY), 256, None), ((psutil.RLIM_INFINITY,) * 2, None, None)],
)
def test_no_limit_is_no_number(monkeypatch, limits, allowed, ceiling):
    monkeypatch.setattr(psutil.Process, "rlimit", lambda self, which: limits)
    descriptors = Descriptors()
    assert (descriptors.allowed(), descriptors.ceiling()) == (allowed, ceiling)


def test_a_system_without_such_limits_is_unknown(monkeypatch, tmp_path):
    monkeypatch.delattr(psutil.Process, "rlimit")
    descriptors = Descriptors(tmp_path)
    assert (descriptors.allowed(), descriptors.ceiling(), descriptors.greatest()) == (None, None, None)


def test_descriptors_open_of_those_allowed():
    descriptors = Descriptors()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = descriptors.used()
    more = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
    try:
        assert descriptors.used() == before + 20
        assert descriptors.allowed() == soft
        assert descriptors.read() == (before + 20) / soft
    finally:
        for each in more:
            os.close(each)


def test_no_source_is_unknown_and_not_zero(tmp_path):
    assert Descriptors(tmp_path).read() is None


# CPU


def test_cpu_time_as_a_share_of_a_core():
    cpu = Cpu()
    until = time.process_time() + 0.2
    began = time.monotonic()
    while time.process_time() < until:
        pass
    expected = 0.2 / (time.monotonic() - began)
    assert cpu.read() == pytest.approx(expected, rel=0.35)


@pytest.mark.parametrize(
    "files",
    [
        {"proc/self/cgroup": "0::/app\n", "sys/fs/cgroup/app/cpu.max": "25000 100000\n"},
        {
            "proc/self/cgroup": "1:cpu,cpuacct:/app\n",
            "sys/fs/cgroup/cpu/app/cpu.cfs_quota_us": "25000\n",
            "sys/fs/cgroup/cpu/app/cpu.cfs_period_us": "100000\n",
        },
    ],
    ids=["v2", "v1"],
)
def test_a_quota_below_a_core_is_the_whole(machine, clock, monkeypatch, files):
    spent = iter([10.0, 10.1])
    monkeypatch.setattr(Cpu, "_spent", lambda self: next(spent))
    cpu = Cpu(machine(files), clock)
    clock.now += 1.0
    assert cpu.read() == pytest.approx(0.4)


@pytest.mark.parametrize("quota", ["max 100000", "-1", "800000 100000", ""])
def test_without_a_tighter_quota_one_core_is_the_whole(machine, clock, monkeypatch, quota):
    spent = iter([10.0, 10.5])
    monkeypatch.setattr(Cpu, "_spent", lambda self: next(spent))
    cpu = Cpu(machine({"proc/self/cgroup": "0::/app\n", "sys/fs/cgroup/app/cpu.max": quota}), clock)
    clock.now += 1.0
    assert cpu.read() == pytest.approx(0.5)


def test_two_readings_at_once_know_nothing(clock):
    assert Cpu(clock=clock).read() is None

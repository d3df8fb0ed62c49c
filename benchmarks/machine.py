"""The machine: CPU clocks of other processes, cores, and its description."""

import os
import platform
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version

import psutil

from demo.redises import find_redis

PACKAGES = (
    "django", "channels", "redis", "hiredis", "uvicorn", "uvloop", "httptools", "websockets",
)  # fmt: skip
SCHEDULED_TIME = 2
"""The clock of a process (Linux, ``CPUCLOCK_SCHED``): the time of all its threads, including ended ones."""


def cpu_time(pid: int) -> float:
    """Seconds of CPU that the process has used so far, to the nanosecond."""
    return time.clock_gettime((~pid << 3) | SCHEDULED_TIME)


def pin(pid: int, core: int) -> None:
    """Pin the process to one core."""
    psutil.Process(pid).cpu_affinity([core])


def described() -> str:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{os.cpu_count()} cores ({_model()}), {platform.system()} {platform.release()}, {python}"


def _model() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(": ")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def versions() -> dict[str, str]:
    redis = subprocess.run([find_redis(), "--version"], capture_output=True, text=True, check=True).stdout
    found = {"redis-server": redis.partition("v=")[2].partition(" ")[0]}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found

"""Who a worker is, and whether a neighbour's process is still there."""

import hashlib
import os
import re
import secrets
import socket
import sys
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import psutil

from ..core.protocol import Neighbour
from .reserve import is_exhausted, reserve

HOST_LENGTH = 32
TAIL_LENGTH = 8
MOST_PID = 2**31 - 1
"""No system has a process with a greater number."""


@cache
def host() -> str:
    """This machine's name, as :func:`host_name` makes it."""
    return host_name(socket.gethostname())


def host_name(name: str) -> str:
    """A machine's name as workers bear it: at most 32 letters, digits, dots, dashes and underscores.

    A longer name ends in a hash of the whole, since the names of pods begin alike. What is such a name stays as it is.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    if len(safe) <= HOST_LENGTH:
        return safe or "unknown"
    tail = hashlib.blake2s(name.encode(errors="surrogateescape"), digest_size=TAIL_LENGTH // 2).hexdigest()
    return f"{safe[: HOST_LENGTH - TAIL_LENGTH - 1]}-{tail}"


@cache
def home() -> str:
    """A token that two workers share only when they have one host name, and each can see the other's process.

    Containers may share a host name and not a process namespace, so on Linux the boot id and the
    namespace go into it; elsewhere the boot time.
    """
    place = reserve.lend(_place)
    return hashlib.blake2s(f"{host()} {place}".encode(), digest_size=6).hexdigest()


def _place() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    except OSError as error:
        if is_exhausted(error):  # another token would be another home
            raise
        return f"{psutil.boot_time():.0f}"


def birth(process: psutil.Process) -> int:
    """When ``process`` started, in hundredths of a second after boot: untouched by clock changes."""
    after_boot: float = process.create_time() - psutil.boot_time()
    return round(after_boot * 100)


def is_gone(neighbour: Neighbour) -> bool:
    """Whether the process of a worker of this home has ended for certain; doubt, or an error, counts as alive."""
    try:
        pid = int(neighbour.worker.split(":")[1])
        return 0 < pid <= MOST_PID and reserve.lend(_has_ended, pid, neighbour.born)
    except (OSError, OverflowError, ValueError, LookupError, psutil.Error):
        return False


def _has_ended(pid: int, born: int) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE or birth(process) != born
    except psutil.NoSuchProcess:
        return not _is_hidden(pid)


def _is_hidden(pid: int) -> bool:
    """Whether the process exists although /proc does not show it to us (mount option hidepid)."""
    if sys.platform == "win32":
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _own_birth() -> int:
    return birth(psutil.Process())


@dataclass(slots=True)
class Worker:
    """The identity of one event loop in one process: ``host:pid:nonce``."""

    started: float = field(default_factory=time.monotonic)
    pid: int = field(default_factory=os.getpid)
    born: int = field(default_factory=lambda: reserve.lend(_own_birth))
    nonce: str = field(default_factory=lambda: secrets.token_hex(4))

    @property
    def id(self) -> str:
        return f"{host()}:{self.pid}:{self.nonce}"

    def renamed(self) -> "Worker":
        """The same worker under a fresh nonce, for when another one answers to its name."""
        return Worker(self.started, self.pid, self.born)

    def age(self) -> float:
        """Seconds since it started."""
        return time.monotonic() - self.started

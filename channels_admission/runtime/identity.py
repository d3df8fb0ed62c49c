"""The identity of a worker, and whether the process of a neighbour still runs."""

import hashlib
import os
import random
import re
import secrets
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import psutil

from ..core.protocol import Neighbour
from .descriptors import is_exhausted, spares
from .locks import Locks

HOST_LENGTH = 32
HASH_LENGTH = 8
MOST_PID = 2**31 - 1
"""The greatest process id of any system."""
LOOKED_AT = 16
"""Neighbours that one worker looks at in a heartbeat: each takes about 0.1 ms, and they look at one another."""


@cache
def host() -> str:
    """The name of this machine, as :func:`host_name` returns it."""
    return host_name(socket.gethostname())


def host_name(name: str) -> str:
    """A machine's name as used in workers' ids: at most 32 letters, digits, dots, dashes and underscores.

    A longer name is cut and ends with a hash of the whole, since the names of pods begin alike. Idempotent.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    if len(safe) <= HOST_LENGTH:
        return safe or "unknown"
    digest = hashlib.blake2s(name.encode(errors="surrogateescape"), digest_size=HASH_LENGTH // 2).hexdigest()
    return f"{safe[: HOST_LENGTH - HASH_LENGTH - 1]}-{digest}"


@cache
def host_token(locks: Locks | None = None) -> str:
    """A token that two workers share only if they have the same host name and see each other's processes or ``locks``.

    Containers may share a host name without a process namespace. The token therefore includes the boot id and the
    namespace on Linux, and the boot time elsewhere.
    """
    namespace = locks.directory if locks else spares.lend(_namespace)
    return hashlib.blake2s(f"{host()} {namespace}".encode(), digest_size=6).hexdigest()


def _namespace() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    except OSError as error:
        if is_exhausted(error):  # the boot time would give another token
            raise
        return f"{psutil.boot_time():.0f}"


def birth(process: psutil.Process) -> int:
    """When ``process`` started, in hundredths of a second after boot; independent of clock changes."""
    after_boot: float = process.create_time() - psutil.boot_time()
    return round(after_boot * 100)


def gone_of(neighbours: Sequence[Neighbour], locks: Locks | None = None) -> tuple[str, ...]:
    """The workers among ``neighbours`` whose process has ended.

    Of many it looks at :data:`LOOKED_AT` at random, and at all only where one of these is gone.
    """
    some = neighbours if len(neighbours) <= LOOKED_AT else random.sample(neighbours, LOOKED_AT)
    gone = tuple(each.worker for each in some if is_gone(each, locks))
    if gone and len(some) < len(neighbours):
        return tuple(each.worker for each in neighbours if is_gone(each, locks))
    return gone


def is_gone(neighbour: Neighbour, locks: Locks | None = None) -> bool:
    """Whether the process of a worker with the same :func:`host_token` has certainly ended; after an error, False."""
    try:
        if locks:
            return spares.lend(locks.is_gone, f"{neighbour.worker.rpartition(':')[0]}:{neighbour.born}")
        pid = int(neighbour.worker.split(":")[1])
        return 0 < pid <= MOST_PID and spares.lend(_has_ended, pid, neighbour.born)
    except (OSError, OverflowError, ValueError, LookupError, psutil.Error):
        return False


def _has_ended(pid: int, born: int) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() == psutil.STATUS_ZOMBIE or birth(process) != born
    except psutil.NoSuchProcess:
        return not _is_hidden(pid)


def _is_hidden(pid: int) -> bool:
    """Whether the process exists although /proc does not show it (mount option hidepid)."""
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
    born: int = field(default_factory=lambda: spares.lend(_own_birth))
    nonce: str = field(default_factory=lambda: secrets.token_hex(4))
    locks: Locks | None = None
    """Where its process has a lock file."""
    id: str = field(init=False)

    def __post_init__(self) -> None:
        self.id = f"{host()}:{self.pid}:{self.nonce}"

    @property
    def process(self) -> str:
        """The name of its lock file."""
        return f"{host()}:{self.pid}:{self.born}"

    def renamed(self) -> "Worker":
        """The same worker with a fresh nonce, for use when another worker has the same id."""
        return Worker(self.started, self.pid, self.born, locks=self.locks)

    def age(self) -> float:
        """Seconds since the worker started."""
        return time.monotonic() - self.started

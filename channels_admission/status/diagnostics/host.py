"""What this host shows: the workers' processes, the limits in the settings, and the channel layer.

Reading changes nothing. What cannot be read is None, such as processes of other hosts, and those of
other users without the right to see them.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import psutil
from channels import DEFAULT_CHANNEL_LAYER
from channels.layers import channel_layers
from django.conf import settings as django_settings

from ... import conf
from ...conf import Settings
from ...conf.ledger import shares_redis
from ...runtime.identity import host
from ..values import Snapshot

ABSENT, STOPPED = "absent", psutil.STATUS_STOPPED
YOUNGER = 2.0
"""Seconds by which a process may seem younger than its worker. Beyond that its pid was reused by another process."""


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """What the kernel shows of a worker's process."""

    sockets: Mapping[int, int] | None = None
    """Established TCP connections by listening port; None where the process listens on no port."""
    open_files: int | None = None
    allowed_files: int | None = None
    memory: int | None = None
    """Bytes in RAM."""
    state: str = ""
    """As psutil names it, such as ``running``, ``sleeping`` and ``stopped``; ``absent`` if it is not here."""


@dataclass(frozen=True, slots=True)
class Origin:
    """A pool's limit in the settings of this process; ``setting`` is where it is written."""

    limit: int
    setting: str


@dataclass(frozen=True, slots=True)
class Layer:
    """The default channel layer: its class, empty without a layer, and its messages per channel, None if unlimited."""

    backend: str = ""
    capacity: int | None = None
    shared: bool = False
    """Whether it is in the ledger's Redis."""


@dataclass(frozen=True, slots=True)
class HostInfo:
    """Times are in seconds; ``processes``, of this host only, go by host and pid; ``origins`` go by pool."""

    heartbeat: float
    processes: Mapping[tuple[str, int], ProcessInfo] = field(default_factory=dict)
    origins: Mapping[str, Origin] = field(default_factory=dict)
    layer: Layer = Layer()
    ledger_timeout: float = 0.25
    prefix: str = ""
    site: int = 0
    """The fingerprint of this process's site."""


def gather(snapshot: Snapshot, settings: Settings) -> HostInfo:
    """Read the processes of the snapshot's workers, and the settings."""
    return HostInfo(
        heartbeat=settings.heartbeat,
        processes=dict(_processes(snapshot)),
        origins={
            name: Origin(pool.max_connections, conf.origin(name, "MAX_CONNECTIONS"))
            for name, pool in settings.pools.items()
        },
        layer=_layer(settings),
        ledger_timeout=settings.ledger_timeout,
        prefix=settings.prefix,
        site=settings.site,
    )


def _processes(snapshot: Snapshot) -> Iterator[tuple[tuple[str, int], ProcessInfo]]:
    ours = {worker.pid: worker.uptime for pool in snapshot.pools for worker in pool.workers if worker.host == host()}
    for pid, uptime in ours.items():
        with suppress(psutil.Error):
            yield (host(), pid), _known(pid, uptime)


def _known(pid: int, uptime: float) -> ProcessInfo:
    """A worker's process, unless it has ended or its pid is now another's."""
    try:
        process = psutil.Process(pid)
        is_absent = process.status() == psutil.STATUS_ZOMBIE
        is_absent = is_absent or time.time() - process.create_time() <= uptime - YOUNGER
    except psutil.NoSuchProcess:
        is_absent = True
    return ProcessInfo(state=ABSENT) if is_absent else _process(process)


def _process(process: psutil.Process) -> ProcessInfo:
    open_files = allowed = memory = None
    state = ""
    with suppress(psutil.Error):
        state = process.status()
    with suppress(psutil.Error, AttributeError):
        memory = process.memory_info().rss
    with suppress(psutil.Error, AttributeError):
        open_files = process.num_fds()
        soft, _ = process.rlimit(psutil.RLIMIT_NOFILE)
        allowed = soft if soft > 0 else None
    return ProcessInfo(_sockets(process), open_files, allowed, memory, state)


def _sockets(process: psutil.Process) -> Mapping[int, int] | None:
    try:
        connections = process.net_connections("tcp")
    except psutil.Error:
        return None
    ports = {each.laddr.port for each in connections if each.status == psutil.CONN_LISTEN}
    found = Counter(
        each.laddr.port for each in connections if each.status == psutil.CONN_ESTABLISHED and each.laddr.port in ports
    )
    return {port: found[port] for port in sorted(ports)} or None


def _layer(settings: Settings) -> Layer:
    """The default channel layer; it is created but not used."""
    configured = getattr(django_settings, "CHANNEL_LAYERS", {}).get(DEFAULT_CHANNEL_LAYER, {})
    backend = str(configured.get("BACKEND", ""))
    capacity = None
    # The server itself reports a layer that cannot be created.
    with suppress(Exception):
        capacity = vars(channel_layers[DEFAULT_CHANNEL_LAYER]).get("capacity")
    return Layer(backend, capacity if isinstance(capacity, int) else None, shares_redis(settings.ledger))

"""Findings about workers: memory, descriptors, silence, errors, lag, monitors and sockets."""

from collections.abc import Callable, Iterable, Iterator

from ...core.counters import is_own
from ...core.readings import Load
from ..snapshot import silence_allowed
from .finding import Finder, Finding, Severity, exceeding, name_of, named, share_of
from .host import ABSENT, STOPPED
from .model import Inputs, Process

LAG = 0.1
"""Seconds of delay above which an event loop is blocked."""
SHORT, OUT = 0.85, 0.95
"""Used shares of memory or descriptors that are a warning, and critical."""
WAIT = 1.0
"""Seconds that a job of sync code may wait for its thread."""
FEW = 10
"""Connections of a worker that may wait for their consumer to accept them."""
LATE = 1.5
"""Heartbeats without a report after which a process that is not there is gone."""
BUSY = 0.9
"""Share of a core from which lag is put down to lack of CPU."""
MOVING = 2
"""Sockets that may open or close between the two readings, besides SLACK of the connections."""
SLACK = 0.05
"""Share of the connections by which the sockets may differ."""
OTHERS = 10
"""Sockets with plain HTTP or a refusal that a worker may have without a note."""


def _memory(inputs: Inputs) -> Iterator[Finding]:
    def told(process: Process) -> str:
        resident = f", {process.resident / 2**20:,.0f} MiB resident" if process.resident else ""
        return f"{share_of(process.reading('memory'))} used{resident}"

    yield from _shortage(
        "memory",
        inputs.processes,
        told,
        "A worker is short of memory",
        "Lower MAX_CONNECTIONS, add workers or memory, and check what consumers keep for each connection. Past the "
        "second threshold the youngest connections are closed.",
    )


def _descriptors(inputs: Inputs) -> Iterator[Finding]:
    def told(process: Process) -> str:
        if process.open_files is None or process.allowed_files is None:
            return f"{share_of(process.reading('descriptors'))} of the open files allowed"
        return f"{process.open_files:,} of {process.allowed_files:,} open files"

    yield from _shortage(
        "descriptors",
        inputs.processes,
        told,
        "A worker is short of file descriptors",
        "Raise the limit of the server (ulimit -n, systemd's LimitNOFILE, the container's nofile) and restart it, or "
        "add workers.",
    )


def _shortage(
    monitor: str, processes: Iterable[Process], told: Callable[[Process], str], title: str, advice: str
) -> Iterator[Finding]:
    loads = [(process, load) for process in processes for load in process.load if load.name == monitor]
    short = [(process, load) for process, load in loads if load.pressure or (load.reading or 0) >= SHORT]
    if short:
        out = any(load.pressure >= 1 or (load.reading or 0) >= OUT for _, load in short)
        short.sort(key=lambda pair: -(pair[1].reading or 0))
        severity = Severity.CRITICAL if out else Severity.WARNING
        yield Finding(f"{monitor}-short", severity, title, named([pair[0] for pair in short], told), advice)


def _killed(inputs: Inputs) -> Iterator[Finding]:
    """Known before it is silent for long. A worker in another container of this name would go on reporting."""
    killed = sorted(
        (each for each in inputs.processes if each.state == ABSENT and each.silence > LATE * inputs.host.heartbeat),
        key=lambda process: -process.held,
    )
    if killed:
        yield Finding(
            "worker-killed",
            Severity.CRITICAL,
            f"{name_of(killed[0])} was killed, or has ended without a goodbye",
            named(killed, lambda process: f"held {process.held:,}, last report {process.silence:.1f} s ago"),
            "This host has no such process. See why: dmesg and the journal tell of the kernel's OOM killer, the "
            "server's log of a crash. Its slots are free within two heartbeats if another worker runs on this host, "
            "else when its lease ends.",
        )


def _silence(inputs: Inputs) -> Iterator[Finding]:
    """A blocked event loop cannot report its lag; its missing reports are the only sign."""

    def told(process: Process) -> str:
        return f"silent for {process.silence:.1f} s" + (f", {process.state}" if process.state else "")

    allowed = silence_allowed(inputs.host.heartbeat)
    present = (process for process in inputs.processes if process.state != ABSENT)
    silent = exceeding(present, lambda process: process.silence, allowed)
    if silent:
        yield Finding(
            "worker-silent",
            Severity.CRITICAL,
            f"{name_of(silent[0])} {'is stopped' if silent[0].state == STOPPED else 'has stopped reporting'}",
            named(silent, told) + f"; {allowed:g} s are allowed",
            _revival(silent[0]),
        )


def _revival(process: Process) -> str:
    """What to do about a process that has stopped reporting."""
    if process.state == STOPPED:
        return (
            "Something has stopped its process: SIGSTOP, a debugger or a shell. It admits no client and answers none: "
            f"kill -CONT {process.pid}, or restart it."
        )
    cause = "It runs, but its event loop is blocked" if process.state else "It is blocked, stopped or gone"
    return (
        f"{cause}, or it cannot reach Redis. On that host, py-spy dump --pid {process.pid} shows what it does, and its "
        "log shows errors of the ledger."
    )


def _lag(inputs: Inputs) -> Iterator[Finding]:
    def told(process: Process) -> str:
        lag = process.monitor("lag")
        delays = {"p50": lag.median, "p99": lag.reading, "max": lag.longest}
        told = [f"{name} {1000 * delay:,.0f} ms" for name, delay in delays.items() if delay is not None]
        return ", ".join([*told, f"CPU {share_of(process.reading('cpu'))}"])

    blocked = exceeding(inputs.processes, lambda process: process.reading("lag") or 0, LAG)
    if not blocked:
        return
    busy = all((process.reading("cpu") or 0) >= BUSY for process in blocked)
    yield Finding(
        "loop-blocked",
        Severity.CRITICAL,
        f"The event loop of {name_of(blocked[0])} is blocked",
        named(blocked, told) + f"; {1000 * LAG:.0f} ms are allowed",
        "The core is busy: add workers, or do less for each message."
        if busy
        else "Look for a blocking call in async code (ORM, HTTP, files, a lock): py-spy dump --pid "
        f"{blocked[0].pid} shows it, and PYTHONASYNCIODEBUG=1 logs it. Move it into a thread or a task queue.",
    )


def _threads(inputs: Inputs) -> Iterator[Finding]:
    def told(process: Process) -> str:
        jobs = f", waiting: {process.jobs_waiting:,}" if process.jobs_waiting else ""
        busy = f", threads busy: {process.threads_busy:,}" if process.threads_busy else ""
        return f"a job waits {process.reading('threads'):,.1f} s before it begins{jobs}{busy}"

    waiting = exceeding(inputs.processes, lambda process: process.reading("threads") or 0, WAIT)
    if waiting:
        yield Finding(
            "threads-blocked",
            Severity.CRITICAL,
            f"The sync code of {name_of(waiting[0])} waits for its thread",
            named(waiting, told) + f"; {WAIT:g} s is allowed",
            "Sync consumers and database_sync_to_async share one thread per worker, so one blocking call delays every "
            f"connect() and receive(): py-spy dump --pid {waiting[0].pid} shows it. Use async consumers, or "
            "sync_to_async(…, thread_sensitive=False) for calls that may block.",
        )


def _accepting(inputs: Inputs) -> Iterator[Finding]:
    waiting = exceeding(inputs.processes, lambda process: process.accepting, FEW)
    if waiting:
        yield Finding(
            "accepts-wait",
            Severity.WARNING,
            f"{waiting[0].accepting:,} connections of {name_of(waiting[0])} wait for their consumer to accept them",
            named(waiting, lambda process: f"{process.accepting:,} of {process.connections:,} connections"),
            "They have their slots, and their clients see nothing yet. See what connect() waits for: py-spy dump --pid "
            f"{waiting[0].pid} shows a blocked thread or loop, and a slow database or channel layer shows in its own "
            "figures. ACCEPT_DEADLINE bounds the wait; it is refused then, and counted as accepts-late.",
        )


def _monitors(inputs: Inputs) -> Iterator[Finding]:
    def told(process: Process) -> str:
        return ", ".join(f"{100 * load.pressure:.0f} % for {load.name}" for load in _others(process))

    refusing = [process for process in inputs.processes if any(_others(process))]
    if refusing:
        yield Finding(
            "monitor-refuses",
            Severity.WARNING,
            "A monitor refuses connections",
            named(refusing, told),
            "Relieve what it measures, or change its thresholds in PRESSURE.",
        )


def _others(process: Process) -> list[Load]:
    """The refusing monitors without a finding of their own."""
    lag = process.reading("lag") or 0
    own = {"memory", "descriptors"} | ({"lag"} if lag > LAG else set())
    return [load for load in process.load if load.pressure and load.name not in own]


def _sockets(inputs: Inputs) -> Iterator[Finding]:
    def told(process: Process) -> str:
        return f"{process.sockets:,} established, {process.connections:,} counted"

    seen = [process for process in inputs.processes if process.sockets is not None]
    missing = [each for each in seen if (each.sockets or 0) + MOVING + SLACK * each.connections < each.connections]
    beyond = [each for each in seen if (each.sockets or 0) > each.held + OTHERS + SLACK * each.held]
    if missing:
        yield Finding(
            "sockets-missing",
            Severity.WARNING,
            "Fewer sockets are open than connections counted",
            named(missing, told),
            "A consumer that runs on after its client has left keeps its slot: look for handlers that never return. "
            "Several WebSockets in one HTTP/2 connection look the same.",
        )
    if beyond:
        yield Finding(
            "sockets-beyond",
            Severity.NOTE,
            "More sockets are open than connections counted",
            named(beyond, told),
            "Plain HTTP and refused clients are not counted. If there are none, a route lacks admission.",
        )


def _unpassed(inputs: Inputs) -> Iterator[Finding]:
    for pool in inputs.snapshot.pools:
        own = {reason: count for reason, count in pool.connects.refused.items() if is_own(reason)}
        if own and not pool.passed and len(pool.workers) > 1:
            yield Finding(
                "refusals-unpassed",
                Severity.WARNING,
                f"Clients of pool {pool.name} are refused by single workers, and no other is tried",
                f"In the last five minutes {sum(own.values()):,} were refused: {', '.join(sorted(own))}. None was sent "
                "as HTTP 503 for the balancer to try another worker.",
                "Let the balancer do so and say so by the header Admission-Retry, as the lines of ws_status --advise "
                "for nginx do, or set BALANCER_RETRIES. Daphne cannot send 503: take its workers out before a drain.",
            )


FINDERS: tuple[Finder, ...] = (
    _memory,
    _descriptors,
    _killed,
    _silence,
    _lag,
    _threads,
    _accepting,
    _monitors,
    _unpassed,
    _sockets,
)

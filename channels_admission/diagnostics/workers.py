"""What the workers bear: memory, descriptors, event loops that lag or are silent, and sockets that nobody counts."""

from collections.abc import Callable, Iterable, Iterator

from ..core.readings import Load
from .finding import Finder, Finding, Severity
from .model import Case, Process

LAG = 0.1
"""Seconds of delay from which an event loop is blocked."""
SHORT, OUT = 0.85, 0.95
"""Shares of memory or descriptors used from which they are short, and nearly out."""
SILENT_BEATS, SILENT_SECONDS = 2, 1
"""Beats, and seconds beyond them, for which a sound process may be silent: one report may be lost, or late."""
BUSY = 0.9
"""Share of a core from which a lag is a want of CPU."""
NAMED = 5
"""Workers named in one finding."""
MOVING = 2
"""Sockets that may come or go between two looks at the same worker, and SLACK of them."""
SLACK = 0.05
OTHERS = 10
"""Sockets of a worker that carry plain HTTP, or a refusal, before they are worth a note."""


def _memory(case: Case) -> Iterator[Finding]:
    def told(process: Process) -> str:
        resident = f", {process.resident / 2**20:,.0f} MiB its own" if process.resident else ""
        return f"{_share(process.reading('memory'))} used{resident}"

    yield from _shortage(
        "memory",
        case.processes,
        told,
        "A worker nears the end of its memory",
        "Lower MAX_CONNECTIONS, add workers or memory, and see what consumers keep for each connection. Past the "
        "second threshold the youngest connections are closed.",
    )


def _descriptors(case: Case) -> Iterator[Finding]:
    def told(process: Process) -> str:
        if process.open_files is None or process.allowed_files is None:
            return f"{_share(process.reading('descriptors'))} of the open files allowed"
        return f"{process.open_files:,} of {process.allowed_files:,} open files"

    yield from _shortage(
        "descriptors",
        case.processes,
        told,
        "A worker nears the end of its file descriptors",
        "Raise the limit where the server is started (ulimit -n, systemd's LimitNOFILE, the container's nofile) and "
        "restart it, or add workers.",
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
        yield Finding(f"{monitor}-short", severity, title, _named([pair[0] for pair in short], told), advice)


def _silence(case: Case) -> Iterator[Finding]:
    """A loop that never turns tells of no lag: all that is seen of it is that its reports do not come."""
    allowed = SILENT_BEATS * case.facts.beat + SILENT_SECONDS
    silent = sorted(
        (process for process in case.processes if process.silence > allowed), key=lambda process: -process.silence
    )
    if silent:
        yield Finding(
            "worker-silent",
            Severity.CRITICAL,
            f"{_name(silent[0])} does not report any more",
            _named(silent, lambda process: f"silent for {process.silence:.1f} s") + f"; {allowed:g} s are allowed",
            "Its event loop is blocked, the process is stopped or gone, or it cannot reach Redis: py-spy dump --pid "
            f"{silent[0].pid} on that host shows where it stands, its log what it says of the ledger.",
        )


def _faults(case: Case) -> Iterator[Finding]:
    def told(process: Process) -> str:
        return ", ".join(f"{count:,} {kind}" for kind, count in process.faults.items())

    faulty = sorted((each for each in case.processes if each.faults), key=lambda each: -sum(each.faults.values()))
    if faulty:
        yield Finding(
            "heartbeat-errors",
            Severity.WARNING,
            f"The heartbeat of {_name(faulty[0])} has met unexpected errors",
            _named(faulty, told) + "; since the worker started",
            "It goes on, and decides by WHEN_LEDGER_DOWN while it cannot reach the ledger. The worker's log has a "
            "traceback of each kind, logger channels_admission: report it.",
        )


def _lag(case: Case) -> Iterator[Finding]:
    def told(process: Process) -> str:
        lag = process.monitor("lag")
        delays = {"p50": lag.median, "p99": lag.reading, "max": lag.longest}
        told = [f"{name} {1000 * delay:,.0f} ms" for name, delay in delays.items() if delay is not None]
        return ", ".join([*told, f"CPU {_share(process.reading('cpu'))}"])

    blocked = sorted(
        (process for process in case.processes if (process.reading("lag") or 0) > LAG),
        key=lambda process: -(process.reading("lag") or 0),
    )
    if not blocked:
        return
    busy = all((process.reading("cpu") or 0) >= BUSY for process in blocked)
    yield Finding(
        "loop-blocked",
        Severity.CRITICAL,
        f"The event loop of {_name(blocked[0])} is blocked",
        _named(blocked, told) + f"; {1000 * LAG:.0f} ms are allowed",
        "The core is busy: add workers, or do less for each message."
        if busy
        else "Look for a call that waits in async code (ORM, HTTP, files, a lock): py-spy dump --pid "
        f"{blocked[0].pid}, or PYTHONASYNCIODEBUG=1, whose log names it. Move it into a thread or a task queue.",
    )


def _monitors(case: Case) -> Iterator[Finding]:
    def told(process: Process) -> str:
        return ", ".join(f"{100 * load.pressure:.0f} % for {load.name}" for load in _others(process))

    refusing = [process for process in case.processes if any(_others(process))]
    if refusing:
        yield Finding(
            "monitor-refuses",
            Severity.WARNING,
            "A monitor refuses connections",
            _named(refusing, told),
            "Give relief to what it watches, or change its thresholds in PRESSURE.",
        )


def _others(process: Process) -> list[Load]:
    """The monitors that refuse and have no finding of their own."""
    lag = process.reading("lag") or 0
    own = {"memory", "descriptors", "lag"} if lag > LAG else {"memory", "descriptors"}
    return [load for load in process.load if load.pressure and load.name not in own]


def _sockets(case: Case) -> Iterator[Finding]:
    def told(process: Process) -> str:
        return f"{process.sockets:,} established, {process.connections:,} counted"

    seen = [process for process in case.processes if process.sockets is not None]
    missing = [each for each in seen if (each.sockets or 0) + MOVING + SLACK * each.connections < each.connections]
    beyond = [each for each in seen if (each.sockets or 0) > each.held + OTHERS + SLACK * each.held]
    if missing:
        yield Finding(
            "sockets-missing",
            Severity.WARNING,
            "Fewer sockets are open than connections counted",
            _named(missing, told),
            "Consumers that go on after their client has left keep their slots: look for handlers that never return. "
            "Several WebSockets in one HTTP/2 connection look the same.",
        )
    if beyond:
        yield Finding(
            "sockets-beyond",
            Severity.NOTE,
            "More sockets are open than connections counted",
            _named(beyond, told),
            "Plain HTTP and clients just refused are not counted. If there are none, a route has no admission.",
        )


def _named(processes: list[Process], told: Callable[[Process], str]) -> str:
    """Each process with what is told of it; of many, the first few."""
    text = "; ".join(f"{_name(process)}: {told(process)}" for process in processes[:NAMED])
    return f"{text}; and {len(processes) - NAMED:,} more" if len(processes) > NAMED else text


def _name(process: Process) -> str:
    return f"{process.host} {process.pid}"


def _share(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.0f} %"


FINDERS: tuple[Finder, ...] = (_memory, _descriptors, _silence, _faults, _lag, _monitors, _sockets)

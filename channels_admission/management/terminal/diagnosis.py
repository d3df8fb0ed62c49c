"""A diagnosis as rich renderables: complete at 80 columns, readable without colour."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from ...status.diagnostics import Diagnosis, Limit
from ...status.diagnostics.finding import Finding, Severity, clock
from ...status.diagnostics.host import Layer
from ...status.diagnostics.model import Process
from .layout import ends, fingerprints, listing, plain
from .workers import FEW, more

STYLES = {Severity.CRITICAL: "bold red", Severity.WARNING: "bold yellow", Severity.NOTE: "bold"}
SOUND = "Nothing needs attention."
UNSEEN = "A question mark marks what this host cannot read, such as the sockets of workers on other hosts."
FULL_CHANNELS = (
    "Connections ended by ChannelFull are counted. Messages that a group could not deliver are not: the layer only "
    "logs them, with the group's name, at level INFO to channels_redis.core."
)
INDENT = 3


def render(diagnosis: Diagnosis) -> RenderableType:
    """Render the findings, then the numbers."""
    return Group(
        ends(Text("Diagnosis", "bold"), Text(clock(diagnosis.taken.timestamp()))),
        *(_finding(number, finding) for number, finding in enumerate(diagnosis.findings, 1)),
        *(() if diagnosis.findings else ("", Text(SOUND, "green"))),
        *_processes(diagnosis.processes),
        *map(_limit, diagnosis.limits),
        *_layer(diagnosis.layer),
    )


def _finding(number: int, finding: Finding) -> RenderableType:
    severity = Text(finding.severity.capitalize(), STYLES[finding.severity])
    advice = Text.assemble("-> ", plain(finding.advice), (f" [{finding.id}]", "dim"))
    return Group(
        "",
        ends(Text(f"{number}  {plain(finding.title)}", "bold"), severity),
        Padding(Text(plain(finding.detail)), (0, 0, 0, INDENT)),
        Padding(advice, (0, 0, 0, INDENT)),
    )


def _processes(processes: tuple[Process, ...]) -> Iterator[RenderableType]:
    if not processes:
        return
    shown: Sequence[Process] = processes
    if len(processes) > FEW:  # those of this host, of which the most is known, then those with the most connections
        shown = sorted(processes, key=lambda each: (each.sockets is None, -each.held))[:FEW]
    table = listing("host", least=10)
    for name in ("pid", "port", "sockets", "held", "files", "MiB", "mem", "lag", "cpu"):
        table.add_column(name, justify="right", overflow="fold")
    for process in shown:
        table.add_row(Text(plain(process.host)), *_cells(process))
    yield from ("", table)
    if left := len(processes) - len(shown):
        yield more(left, "--json")
    if any(process.sockets is None for process in processes):
        yield Text(UNSEEN, "dim")


def _cells(process: Process) -> Iterator[str]:
    lag = process.reading("lag")
    yield str(process.pid)
    yield "\n".join(map(str, process.ports)) or "?"
    yield "\n".join(f"{count:,}" for count in process.ports.values()) or "?"
    yield f"{process.held:,}"
    yield _files(process)
    yield _known(process.resident and f"{process.resident / 2**20:,.0f}")
    yield _percent(process.reading("memory"))
    yield _known(None if lag is None else f"{1000 * lag:.0f} ms")
    yield _percent(process.reading("cpu"))


def _files(process: Process) -> str:
    if process.open_files is None or process.allowed_files is None:
        return _percent(process.reading("descriptors"))
    return f"{process.open_files}/{process.allowed_files}"


def _limit(limit: Limit) -> RenderableType:
    connects = limit.connects
    worst = ", ".join(f"{second.handshakes:,} at {clock(second.at)}" for second in connects.worst)
    return Group(
        "",
        Text(f"Pool {plain(limit.pool)}: {limit.held:,} of {limit.limit:,} slots held, by {plain(limit.setting)}"),
        Text(
            f"{connects.total:,} connects in 5 minutes, the median second {connects.median:g}"
            + (f", the worst {worst}" if worst else "")
        ),
        *(Text(text) for text in (fingerprints(limit.site, limit.settings),) if text),
    )


def _layer(layer: Layer) -> Iterator[RenderableType]:
    yield ""
    if not layer.backend:
        yield Text("There is no channel layer.")
        return
    capacity = "" if layer.capacity is None else f", {layer.capacity:,} messages for each channel"
    yield Text(f"Channel layer {plain(layer.backend)}{capacity}")
    yield Text(FULL_CHANNELS, "dim")


def _percent(share: float | None) -> str:
    return _known(None if share is None else f"{100 * share:.0f} %")


def _known(text: object) -> str:
    return str(text) if text else "?"

"""The figures as a Markdown page, and the part of it on the first page. Rounding is never in the package's favour."""

import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .contenders import CONTENDERS
from .latency import table
from .pileup import LEAVE, SHARE, SLOTS

INDEX = Path(__file__).resolve().parent.parent / "docs" / "index.md"
BLOCK = re.compile(r"(?<=<!-- measured -->\n).*?(?=<!-- end of measured -->)", re.DOTALL)
FLOOR, BARE = "floor", "bare"
KIB = 1024
ENOUGH = 5000
"""Idle connections from which the memory per connection is reliable."""
PATTERNS = {
    "herd": "200 in flight",
    "trickle": "one at a time",
    "sparse": "one at a time, 0.2 s apart",
}
LOOPS = {"asyncio": "plain asyncio", "uvloop": "uvloop"}


@dataclass(frozen=True, slots=True)
class Ratio:
    """The ratio of two contenders in the same round: the median of all rounds, and the quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{up(self.median)} ({up(self.low)}–{up(self.high)})"


def up(value: float) -> str:
    """Two decimals, rounded up, since more is worse."""
    return f"{math.ceil(round(value * 100, 6)) / 100:.2f}"


def ratio(times: Sequence[float], base: Sequence[float]) -> Ratio:
    low, median, high = statistics.quantiles([a / b for a, b in zip(times, base, strict=True)], n=4, method="inclusive")
    return Ratio(median, low, high)


def cpu(found: Mapping[str, Any], loop: str, pattern: str, name: str, base: str = BARE) -> Ratio:
    times = found["handshakes"][loop][pattern]
    return ratio(times[name]["cpu"], times[base]["cpu"])


def _best_loop(found: Mapping[str, Any]) -> str:
    """The event loop on which everything else is cheapest, and admission so weighs most."""
    return list(found["handshakes"])[-1]


@dataclass(frozen=True, slots=True)
class Target:
    what: str
    bound: float
    value: float
    unit: str = " ×"

    @property
    def is_met(self) -> bool:
        return self.value <= self.bound

    def row(self) -> str:
        shown = f"{math.ceil(self.value):,}" if self.unit == " bytes" else _short(self.value)
        return f"| {self.what} | {self.bound:,.6g}{self.unit} | {shown}{self.unit} | {'yes' if self.is_met else 'no'} |"


def _short(value: float) -> str:
    return up(value) if value >= 0.1 else f"{math.ceil(round(value * 10_000, 6)) / 10_000:.4f}"


def targets(found: Mapping[str, Any]) -> Iterator[Target]:
    """The targets, each with the measured value."""
    for loop in found["handshakes"]:
        on = f", {LOOPS[loop]}"
        for pattern, bound in (("herd", 1.05), ("trickle", 1.10), ("sparse", 1.10)):
            if pattern in found["handshakes"][loop]:
                against = cpu(found, loop, pattern, "middleware").median
                yield Target(f"admission by the middleware, {PATTERNS[pattern]}{on}", bound, against)
        quota = cpu(found, loop, "trickle", "quota").median
        yield Target(f"the same with one quota, {PATTERNS['trickle']}{on}", 1.40, quota)
        for name, floor in (("1013", FLOOR), ("503", "floor-503")):
            against = cpu(found, loop, "herd", name, floor).median
            yield Target(f"refusal by {name} against {CONTENDERS[floor].title}{on}", 1.10, against)
            yield Target(f"… against an admission{on}", 0.45, cpu(found, loop, "herd", name, "middleware").median)
    calls = found["calls"]
    coming = calls["coming"]["calls"] + calls["going"]["calls"]
    yield Target("ledger calls per connection, 1,000 that come at once and go at once", 0.05, coming, "")
    yield Target("ledger calls per connection, 1,000 in flight", 0.05, calls["herd"]["calls"], "")
    yield Target("ledger calls per connection, one at a time", 0.1, calls["trickle"]["calls"], "")
    yield Target("ledger calls per connection, one at a time, 0.2 s apart", 0.1, calls["sparse"]["calls"], "")
    yield from _latency_targets(found)
    if found["held"] < ENOUGH:
        return
    for name in ("middleware", "everything"):
        yield Target(f"worker memory per slot, {CONTENDERS[name].title}", KIB, _added(found, name), " bytes")


def _latency_targets(found: Mapping[str, Any]) -> Iterator[Target]:
    for trip, rates in found["latency"]["times"].items() if "latency" in found else ():
        beyond = max(each["middleware"]["median"] - 1.15 * each[BARE]["median"] for each in rates.values())
        what = f"median of a handshake beyond 1.15 × the bare one, at any rate, Redis + {trip} ms"
        yield Target(what, 0.3, max(0.0, beyond), " ms")


def _added(found: Mapping[str, Any], name: str) -> float:
    memory = found["memory"]
    return memory[name]["slot"] - memory[BARE]["slot"]


def page(found: Mapping[str, Any]) -> str:
    return "\n".join(_page(found)) + "\n"


INTRODUCTION = """\
# What admission costs

Measured on {taken} by `{command}` (extra `bench`, or `tox -e bench`) in {seconds} s, on {machine}, with {packages}.

All contenders run at the same time, each in a uvicorn process of its own, pinned to one core; their clients and one
Redis have the other. They are measured in turn, in a new order in each of {rounds} rounds. A figure is the CPU time
of the server's process per connection, from start to end, by the process's own clock; a ratio is the median of those
within each round, with its quartiles in brackets. Ratios are rounded up. Anything that makes the bare connection
dearer, and so makes this package look cheaper, is left out: no compression, session, user, channel layer, pings or log
line per connection; httptools is used, and hiredis for the contenders that call Redis for every connection. A limiter
admits a herd together, which saves turns of the event loop: so a ratio may be below 1.

![CPU of an admission and a refusal against the bare consumer](speed.png)
"""


def _page(found: Mapping[str, Any]) -> Iterator[str]:
    packages = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    yield INTRODUCTION.format(packages=packages, **found)
    yield from _goals(found)
    for loop in found["handshakes"]:
        yield from _handshakes(found, loop)
    yield from _latency(found)
    yield from _calls(found)
    yield from _pileup(found)
    yield from _held(found)
    yield from _inside(found)


def _goals(found: Mapping[str, Any]) -> Iterator[str]:
    yield "## Targets"
    yield ""
    yield "| | at most | measured | met |"
    yield "| --- | ---: | ---: | --- |"
    yield from (target.row() for target in targets(found))
    yield ""
    floors = (
        f"{up(cpu(found, loop, 'herd', FLOOR, 'middleware').median)} × ({LOOPS[loop]})" for loop in found["handshakes"]
    )
    yield "An accept and close with nothing behind it takes this part of an admission by the package, which is cheap in"
    yield f"a herd: {', '.join(floors)}. No refusal that a browser understands can cost less."
    yield ""


def _handshakes(found: Mapping[str, Any], loop: str) -> Iterator[str]:
    for refusing, title, base in ((False, "Admissions", BARE), (True, "Refusals", FLOOR)):
        names = [name for name, contender in CONTENDERS.items() if contender.refuses == refusing]
        names = [name for name in names if name in found["handshakes"][loop]["herd"]]
        yield f"## {title}, {LOOPS[loop]}"
        yield ""
        patterns = [pattern for pattern in PATTERNS if pattern in found["handshakes"][loop]]
        if refusing:
            patterns = [pattern for pattern in patterns if pattern != "sparse"]
        heads = " | ".join(f"{PATTERNS[pattern]} | × {CONTENDERS[base].name}" for pattern in patterns)
        yield f"| | {heads} | connections a second |" + (" × an admission by ours |" if refusing else "")
        yield "| --- |" + " ---: |" * (2 * len(patterns) + 1 + refusing)
        for name in names:
            cells = [_cells(found, loop, pattern, name, base) for pattern in patterns]
            rate = statistics.median(found["handshakes"][loop]["herd"][name]["rate"])
            row = f"| {CONTENDERS[name].title} | {' | '.join(cells)} | {math.floor(rate):,} |"
            yield row + (f" {cpu(found, loop, 'herd', name, 'middleware')} |" if refusing else "")
        yield ""


def _cells(found: Mapping[str, Any], loop: str, pattern: str, name: str, base: str) -> str:
    times = found["handshakes"][loop][pattern]
    if name not in times:
        return " | "
    return f"{math.ceil(statistics.median(times[name]['cpu'])):,} µs | {cpu(found, loop, pattern, name, base)}"


LATENCY = """\
## How long a handshake takes

From connecting to the 101, {loop}: the median, and the 99th percentile in brackets. Clients come at a steady rate and
stay, so that the pool grows. Redis is near, or its round trip takes so much more. Compare the times of one line: they
depend on how busy the machine is.
"""


def _latency(found: Mapping[str, Any]) -> Iterator[str]:
    if "latency" not in found:
        return
    yield LATENCY.format(loop=LOOPS[found["latency"]["loop"]])
    yield from table(found["latency"]["times"])
    yield ""


def _calls(found: Mapping[str, Any]) -> Iterator[str]:
    calls = found["calls"]
    yield "## The ledger"
    yield ""
    yield "| connections | calls for each | bytes to and from Redis for each |"
    yield "| --- | ---: | ---: |"
    for name, title in (
        ("coming", "1,000 come at once, and stay"),
        ("going", "… and go at once"),
        ("herd", "3,000 come and go, 1,000 in flight"),
        ("trickle", "300 come and go, one at a time"),
        ("sparse", "20 come and go, one at a time, 0.2 s apart"),
    ):
        yield f"| {title} | {_short(calls[name]['calls'])} | {math.ceil(calls[name]['bytes']):,} |"
    yield ""
    before, after = calls["memory"]
    yield f"The pool's keys take {before:,} bytes with no connection and {after:,} with 1,000. What a call takes with"
    yield "ten to ten thousand workers is in [scaling](scaling.md)."
    yield ""


PILEUP = """\
## Many workers, a slow Redis

Workers at a full pool of {slots} slots, over one Redis that is held to {share:.0%} of a core. Clients knock without
end; {rounds} times {leave} of them leave, until all slots are held again. A slot that becomes free should be found
after two pauses and two calls ([scaling](scaling.md#the-most-calls)); one that is kept for a client in the line is
found after its grace. Each worker makes a call in three seconds as a heartbeat. Where Redis cannot even answer these,
workers lose it, and a longer `HEARTBEAT` is the remedy.

| workers | calls a second | failed | away at once | held, in the end | freed slots found | at the latest | stated |
| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""


def _pileup(found: Mapping[str, Any]) -> Iterator[str]:
    piles = found.get("pileup", ())
    if not piles:
        return
    yield PILEUP.format(slots=SLOTS, share=SHARE, leave=LEAVE, rounds=len(piles[0]["refilled"])).rstrip()
    for each in piles:
        counts = f"{each['rate']:.0f} | {each['failed']} of {each['calls']} | {each['away']}"
        times = (statistics.median(each["refilled"]), max(each["refilled"]), each["stated"])
        cells = " | ".join([counts, f"{each['held']} of {SLOTS}", *(f"{seconds:.1f} s" for seconds in times)])
        yield f"| {each['workers']} | {cells} |"
    yield ""


def _held(found: Mapping[str, Any]) -> Iterator[str]:
    memory, messages = found["memory"], found["messages"]
    yield "## Open connections"
    yield ""
    yield f"| {found['held']:,} idle connections | the worker without any | each | added by us | idle CPU a minute |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for name, each in memory.items():
        added = "" if name == BARE else f"{math.ceil(_added(found, name)):,} bytes"
        yield (
            f"| {CONTENDERS[name].title} | {each['worker'] / 2**20:.1f} MiB | {math.ceil(each['slot']):,} bytes "
            f"| {added} | {math.ceil(each['idle']):,} ms |"
        )
    yield ""
    yield "Memory is the pages that only this process has written to, by the kernel's count."
    if found["held"] >= ENOUGH:
        yield (
            f"Figures are medians of {found['crowds']} crowds, each in new servers. Arenas that a herd has left half "
            "empty are included; `tests/budgets/test_cost.py` counts what is allocated."
        )
    else:
        yield (
            f"With {found['held']:,} connections that is uncertain by a kibibyte and more for each, and is no "
            "target; `tests/budgets/test_cost.py` counts what is allocated."
        )
    yield ""
    yield "| a message, echoed | CPU | × bare |"
    yield "| --- | ---: | ---: |"
    for name, times in messages.items():
        each = f"{math.ceil(10 * statistics.median(times)) / 10} µs"
        yield f"| {CONTENDERS[name].title} | {each} | {ratio(times, messages[BARE])} |"


EXPLANATION = """\
## Where it goes

Without a server, a socket or Redis, the middleware adds {admission:.1f} µs to an admission on a slot that is counted,
and a refusal takes {refusal:.1f} µs more than the application that it spares. The rest of the figures above are
calls to the ledger, and handshakes that wait for one. A herd shares calls, and a single connection takes a slot of the
worker's reserve without one; with quotas a client with a key needs a call, which takes several turns of the event loop,
unless the ledger still counts what that client has just left. The memory of a slot is one coroutine and
its connection, and a second coroutine while it listens. If a herd waits at a mixin before any of its consumers has run,
CPython gives the attributes of each a dict of their own, some 230 bytes. The claims of a connection come on top: at
most 136 bytes for a first quota and 96 for each other.

| under a profiler, which slows them | calls | own time |
| --- | ---: | ---: |
"""


def _inside(found: Mapping[str, Any]) -> Iterator[str]:
    inside = found["inside"]
    yield ""
    yield EXPLANATION.rstrip().format(**{name: each["added"] for name, each in inside.items()})
    for name, each in inside.items():
        for row in each["functions"]:
            yield f"| {name}: `{row['name']}` | {row['calls']:.2f} | {row['own']:.2f} µs |"


def summary(found: Mapping[str, Any]) -> str:
    """The part of the documentation's first page."""
    loop = _best_loop(found)
    others = ("middleware", "incr", "semaphore")
    rows = [
        (what, [up(cpu(found, loop, pattern, name).median) for name in others])
        for what, pattern in (("200 in flight", "herd"), ("one at a time", "trickle"))
    ]
    refusal = {base: up(cpu(found, loop, "herd", "1013", base).median) for base in ("middleware", FLOOR)}
    made = found["calls"]["herd"]["calls"]
    calls = _short(made) if made else "no"
    lines = [
        f"CPU of the server for a connection, against the same consumer without a limit (uvicorn, {LOOPS[loop]}):",
        "",
        "| connections | the middleware | INCR and DECR | a sorted set |",
        "| --- | ---: | ---: | ---: |",
        *(f"| {what} | {' | '.join(f'{each} ×' for each in ratios)} |" for what, ratios in rows),
        "",
        f"A refusal by 1013 costs {refusal['middleware']} × an admission, and {refusal[FLOOR]} × an accept and a close",
        f"with nothing behind it. A herd of 1,000 makes {calls} ledger calls for each connection. A held slot takes at",
        "most 1,024 bytes of the worker; a first quota adds at most 136, each other 96 (`tests/budgets/test_cost.py`).",
        f"Measured on {found['machine'].partition(' (')[0]} by `{found['command']}`;",
        "[all figures, the machine and the versions](speed.md).",
        "",
    ]
    return "\n".join(lines)


def put_into(index: Path, found: Mapping[str, Any]) -> None:
    index.write_text(BLOCK.sub(lambda _: summary(found), index.read_text()))

"""``manage.py ws_herd``: cut many real clients at once, and watch them come back."""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from django.core.management.base import CommandError, CommandParser
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from websockets.exceptions import InvalidURI

from channels_admission.management.base import AdmissionCommand

from demo import options
from demo.beside import beside
from demo.clients import TooFewFiles, allow_sockets
from demo.herd import Herd, Target, WrongTarget
from demo.options import Mix, rules_of
from demo.redises import ServerFailed
from demo.returns import Return, ideal_by_rate
from demo.rules import RULES
from demo.servers import SERVING
from demo.sites import DEFAULTS, WITHOUT_ADMISSION, site

DEFAULT_RULES = ["hint", "full-jitter", "doubling"]
REFUSALS = {1013, 503}
OTHER_FILES = 100
"""Files that this process may have open besides a socket for each client."""
RULE_HELP = "how they come back; may be given several times. " + "; ".join(
    f"{rule.name}: {rule.meaning}" for rule in RULES.values()
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What the herd does at each site."""

    herds: Sequence[Mix]
    """One cut for each."""
    seconds: float
    rate: int | None
    console: Console


@dataclass(frozen=True, slots=True)
class Line:
    """The clients of one rule after one cut, as the command shows them."""

    settings: str
    returned: Return
    ideal: float | None
    """When 99 % of the herd could be in; None without a rate."""
    waits: dict[str, float]
    """How long the clients beside the herd waited for their answers."""

    def as_dict(self) -> dict[str, Any]:
        named = {"settings": self.settings} if self.settings else {}
        return {**named, **self.returned.as_dict(), "ideal_seconds_to_99": self.ideal, **self.waits}


class Command(AdmissionCommand):
    help = "Connect many clients to a server on this machine, cut all at once, and watch them come back."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "url", nargs="?",
            help="where they connect to, such as ws://127.0.0.1:8000/ws/echo/; without it servers are started, with "
            "default settings and, for --connect-cost, also without admission",
        )  # fmt: skip
        parser.add_argument("--clients", type=options.positive, default=400, metavar="N", help="%(default)s by default")
        parser.add_argument("--rule", action="append", choices=RULES, dest="rules", help=RULE_HELP)
        parser.add_argument(
            "--mix",
            type=options.mix,
            metavar="RULE=N,…",
            help="one herd of several rules, such as ticket=600,hammer=600",
        )
        parser.add_argument(
            "--seconds", type=options.positive, default=120, metavar="S", help="the longest to watch (%(default)s)"
        )
        parser.add_argument("--rate", type=options.positive, metavar="N", help="the pool's CONNECT_RATE, for the ideal")
        parser.add_argument(
            "--beside", metavar="URL", help="also stay connected to this URL of an echo, and show how long answers take"
        )
        parser.add_argument("--json", action="store_true", dest="as_json", help="print the figures for programs")
        own = parser.add_argument_group("servers of its own, without a URL")
        own.add_argument(
            "--connect-cost", type=options.seconds, metavar="TIME", help="CPU time that connect() takes, such as 10ms"
        )
        own.add_argument("--path", help="where they connect to: /ws/echo/, or /ws/heavy/ for --connect-cost")
        own.add_argument("--server", choices=SERVING, default="uvicorn", help="%(default)s by default")
        own.add_argument("--workers", type=options.positive, default=2, metavar="N", help="%(default)s by default")
        own.add_argument("--redis", metavar="URL", help=options.REDIS_HELP)

    def handle(
        self, *, url: str | None, clients: int, rules: list[str] | None, mix: Mix | None, as_json: bool, **given: Any
    ) -> None:
        colours: Literal["auto"] | None = None if given["no_color"] else "auto"
        console = Console(highlight=False, stderr=as_json, no_color=False, color_system=colours)
        herds = [mix] if mix else [{name: clients} for name in rules or DEFAULT_RULES]
        plan = Plan(herds, given["seconds"], given["rate"], console)
        try:
            allow_sockets(max(sum(herd.values()) for herd in herds), OTHER_FILES)
            lines = list(_at_sites(plan, **given) if url is None else _at(plan, "", [url], given["beside"]))
        except (WrongTarget, InvalidURI, TooFewFiles, ServerFailed, OSError) as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            raise CommandError("Interrupted.", returncode=130) from None
        if as_json:
            self.stdout.write(json.dumps([line.as_dict() for line in lines], indent=2))
        else:
            console.print(_table(lines))


def _at_sites(
    plan: Plan,
    *,
    server: str,
    workers: int,
    connect_cost: float | None,
    path: str | None,
    rate: int | None,
    redis: str | None,
    **_: Any,
) -> Iterator[Line]:
    """The herd at servers of its own, each with one connected client."""
    sites = {"defaults": DEFAULTS if rate is None else {**DEFAULTS, "CONNECT_RATE": rate}}
    if connect_cost is not None:
        sites = {"without admission": WITHOUT_ADMISSION, **sites}
    path = path or ("/ws/echo/" if connect_cost is None else "/ws/heavy/")
    for name, settings in sites.items():
        with site(server, workers, settings, connect_cost, redis) as running:
            origins = [origin.replace("http", "ws", 1) for origin in running.origins]
            yield from _at(plan, name, [origin + path for origin in origins], *(f"{each}/ws/echo/" for each in origins))


def _at(plan: Plan, settings: str, urls: Sequence[str], *beside_urls: str | None) -> Iterator[Line]:
    """The lines of the herds at one site."""
    targets = [Target.at(url) for url in urls]
    talking = [url for url in beside_urls if url is not None]
    for url in talking:
        Target.at(url)
    clients = max(sum(herd.values()) for herd in plan.herds)
    for herd, returned, waits in asyncio.run(_run(plan, targets, clients, talking)):
        best = None if plan.rate is None else ideal_by_rate(herd, plan.rate)
        yield from (Line(settings, each, best, waits) for each in returned)


async def _run(
    plan: Plan, targets: Sequence[Target], clients: int, talking: Sequence[str]
) -> list[tuple[Mix, list[Return], dict[str, float]]]:
    """Cut everybody once for each herd, with all there before."""
    found = []
    async with Herd(targets, clients) as herd:
        for mix in plan.herds:
            with _progress(plan.console, "coming in", clients) as show:
                missing = await herd.gather(plan.seconds, show)
            if missing:
                raise CommandError(_failure(plan, clients, missing, herd.members[-1].count.endings))
            title = f"coming back: {', '.join(mix)}"
            with _progress(plan.console, title, clients) as show, beside(talking) as waits:
                returned = await herd.cut(rules_of(mix), plan.seconds, show)
            found.append((mix, sorted(returned, key=lambda each: list(mix).index(each.rule.name)), waits))
    return found


def _failure(plan: Plan, clients: int, missing: int, endings: Mapping[int | None, int]) -> str:
    """What a user is told of a herd that did not come in at first; ``endings`` are the failed attempts by code."""
    seen = ", ".join(f"{count} × {code or 'no connection'}" for code, count in endings.items()) or "no attempt"
    advice = " The pool has too few free slots, or lets in too few a second: take fewer --clients."
    return (
        f"Only {clients - missing} of {clients} clients came in within {plan.seconds:g} s; the failed attempts: {seen}."
        + (advice if REFUSALS & endings.keys() else "")
    )


@contextmanager
def _progress(console: Console, title: str, clients: int) -> Iterator[Callable[[int], None]]:
    """A bar that is told how many are there."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"{title:32}", total=clients)
        yield lambda there: progress.update(task, completed=there)


def _table(lines: list[Line]) -> Table:
    """One row for each line; columns that none of them has are left out."""
    table = Table(box=None, pad_edge=False, collapse_padding=True, title="\nAll cut at once", title_justify="left")
    rows = [_cells(line) for line in lines]
    for column in rows[0]:
        is_name = column in ("settings", "rule")
        table.add_column(column, justify="left" if is_name else "right", no_wrap=column != "settings")
    for row in rows:
        table.add_row(*row.values())
    return table


def _cells(line: Line) -> dict[str, str]:
    figures, returned = line.as_dict(), line.returned
    cells = {"settings": line.settings} if line.settings else {}
    cells |= {"rule": returned.rule.name, "clients": str(returned.clients)}
    cells |= {title: _seconds(returned.until(share)) for title, share in {"50 %\nback": 0.5, "99 %": 0.99}.items()}
    if line.ideal is not None:
        cells["ideal"] = _seconds(line.ideal)
    cells["attempts\neach"] = f"{returned.per_client:.2f}"
    if line.waits:
        titles = {"echo\np50": "echo_p50", "p99": "echo_p99", "longest": "echo_max"}
        return cells | {title: f"{line.waits[key]:.3f} s" for title, key in titles.items()}
    cells["100 %"] = _seconds(returned.until(1.0))
    cells["most in\na second"] = str(figures["peak_attempts_per_second"])
    cells["after\nthat"] = str(figures["peak_after_first_second"])
    cells["wasted"] = str(returned.wasted)
    return cells


def _seconds(at: float | None) -> str:
    return "never" if at is None else f"{at:.1f} s"

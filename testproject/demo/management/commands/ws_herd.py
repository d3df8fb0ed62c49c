"""``manage.py ws_herd``: cut many real clients at once, and watch them come back."""

import asyncio
import json
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from websockets.exceptions import InvalidURI

from demo.beside import beside
from demo.clients import TooFewFiles, allow_sockets
from demo.herd import Herd, Return, Target, WrongTarget
from demo.rules import RULES

DEFAULT_RULES = ["hint", "full-jitter", "doubling"]
OTHER_FILES = 100
"""Files that this process may have open besides a socket for each client."""
RULE_HELP = "how they come back; may be given several times. " + "; ".join(
    f"{rule.name}: {rule.meaning}" for rule in RULES.values()
)


class Command(BaseCommand):
    help = "Connect many clients to a server on this machine, cut all at once, and watch them come back."
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("url", help="where they connect to, for example ws://127.0.0.1:8000/ws/echo/")
        parser.add_argument("--clients", type=_positive, default=400, metavar="N", help="%(default)s by default")
        parser.add_argument("--rule", action="append", choices=RULES, dest="rules", help=RULE_HELP)
        parser.add_argument(
            "--seconds", type=_positive, default=120, metavar="S", help="the longest to watch a rule (%(default)s)"
        )
        parser.add_argument(
            "--beside", metavar="URL", help="also stay connected to this URL of an echo, and show how long answers take"
        )
        parser.add_argument("--json", action="store_true", dest="as_json", help="print the figures for programs")

    def handle(self, *, url: str, clients: int, rules: list[str] | None, as_json: bool, **options: Any) -> None:
        console = Console(highlight=False, stderr=as_json)
        try:
            target = Target.at(url)
            if options["beside"]:
                Target.at(options["beside"])
        except (WrongTarget, InvalidURI, OSError) as error:
            raise CommandError(str(error)) from error
        try:
            allow_sockets(clients, OTHER_FILES)
        except TooFewFiles as error:
            raise CommandError(error) from error
        try:
            beside_url = options["beside"]
            returns = asyncio.run(
                _run(target, clients, rules or DEFAULT_RULES, options["seconds"], console, beside_url)
            )
        except KeyboardInterrupt:
            raise CommandError("Interrupted.", returncode=130) from None
        if as_json:
            self.stdout.write(json.dumps([{**each.as_dict(), **waits} for each, waits in returns], indent=2))
        else:
            console.print(_table(returns))


Waits = dict[str, float]
"""How long the client beside the herd waited for its answers."""


async def _run(
    target: Target, clients: int, rules: list[str], seconds: float, console: Console, beside_url: str | None
) -> list[tuple[Return, Waits]]:
    """Cut the herd once for each rule, with everybody there before."""
    returns = []
    async with Herd(target, clients) as herd:
        for name in rules:
            with _progress(console, "coming in", clients) as show:
                arrived = await herd.gather(seconds, show)
            if len(arrived.back) < clients:
                raise CommandError(
                    f"Only {len(arrived.back)} of {clients} clients came in within {seconds:g} s; "
                    f"the others failed with {dict(arrived.endings)}."
                )
            with _progress(console, f"coming back: {name}", clients) as show, beside(beside_url) as waits:
                returned = await herd.cut(RULES[name], seconds, show)
            returns.append((returned, waits))
    return returns


@contextmanager
def _progress(console: Console, title: str, clients: int) -> Iterator[Callable[[int], None]]:
    """A bar that is told how many are there."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"{title:32}", total=clients)
        yield lambda there: progress.update(task, completed=there)


def _table(returns: list[tuple[Return, Waits]]) -> Table:
    clients = returns[0][0].clients
    table = Table(box=None, pad_edge=False, title=f"\n{clients} clients, cut at once", title_justify="left")
    table.add_column("rule")
    for column in ("50 % back", "99 %", "100 %", "attempts\neach", "most in\na second", "after\nthe first", "wasted"):
        table.add_column(column, justify="right")
    if returns[0][1]:
        table.add_column("echo\np99", justify="right")
        table.add_column("longest", justify="right")
    for each, waits in returns:
        figures = each.as_dict()
        table.add_row(
            each.rule.name,
            *(_seconds(figures[f"seconds_to_{share}"]) for share in (50, 99, 100)),
            f"{each.per_client:.2f}",
            *(str(figures[key]) for key in ("peak_attempts_per_second", "peak_after_first_second", "wasted_attempts")),
            *(f"{waits[key]:.2f} s" for key in ("echo_p99", "echo_max") if waits),
        )
    return table


def _seconds(moment: float | None) -> str:
    return "never" if moment is None else f"{moment:.1f} s"


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ArgumentTypeError("must be at least 1")
    return number

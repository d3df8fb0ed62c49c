"""``manage.py ws_capacity``: what a connection takes of the workers, and the limits that fit."""

import asyncio
import json
from dataclasses import asdict
from importlib.util import find_spec
from typing import IO, Any, cast

from django.core.management.base import CommandError, CommandParser, no_translations
from rich.console import Console

from ... import conf
from ...conf import DEFAULT_POOL, Settings
from ...exceptions import ConfigurationError, LedgerError
from ...status import capacity, growth
from ...status.capacity import Cost, WorkerFootprint
from ...status.snapshot import READ_TIMEOUT
from ...status.snapshot import collect as collect_snapshot
from ...status.values import FORMAT
from ..base import LEDGER_DOWN, ReadingCommand
from ..opening import FIRST, Plan, Stopped, host_of, is_loopback, measure
from ..terminal.capacity import SCHEMA, render

FEWEST, MOST = 100, 10_000
"""Connections that may be opened: fewer show nothing, and more are not needed."""
MOST_TIMES = 1000


class Command(ReadingCommand):
    help = (
        "Measure what a connection takes of the workers, and propose limits that fit their memory and open files. "
        "Reads what the workers have told the ledger. With --open it also opens connections of its own, holds them "
        "for some seconds and closes them."
    )
    schema = SCHEMA

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", dest="as_json", help="Print JSON, as described below.")
        parser.add_argument(
            "--open", nargs=2, metavar=("N", "URL"),
            help=f"Open so many connections, {FEWEST} to {MOST:,}, to this URL of the site, and measure with them. "
            "They take at most half of the pool's free slots.",
        )  # fmt: skip
        parser.add_argument(
            "--pool",
            default=DEFAULT_POOL,
            metavar="NAME",
            help="With --open: the pool of the URL; %(default)r if not given.",
        )
        parser.add_argument("--message", metavar="TEXT", help="With --open: what each connection sends.")
        parser.add_argument(
            "--times", type=int, default=1, metavar="N", help="With --message: how often, each time after an answer."
        )
        parser.add_argument(
            "--header",
            action="append",
            default=[],
            metavar="'NAME: VALUE'",
            help="With --open: a header, such as a cookie.",
        )
        parser.add_argument(
            "--confirm", metavar="HOST", help="With --open: the host of the URL again, unless it is this machine's own."
        )

    @no_translations
    def handle(self, **options: Any) -> None:
        try:
            settings = conf.current()
            settings.pool(options["pool"])
            plan = _plan(options)
            workers, cost = asyncio.run(_look(settings, options["pool"], plan))
            growths = asyncio.run(growth.collect(settings))
        except (ConfigurationError, Stopped) as error:
            raise CommandError(str(error)) from error
        except LedgerError as error:
            raise CommandError(f"The ledger cannot be read: {error}", returncode=LEDGER_DOWN) from error
        if not workers:
            raise CommandError("No worker has told what it uses: none runs, or it is older than this command.")
        found = capacity.capacity(workers, settings, cost)
        if options["as_json"]:
            told = {"format": FORMAT, **asdict(found), "growth": [asdict(each) for each in growths]}
            self.stdout.write(json.dumps(told, indent=2))
        else:
            console = Console(file=cast(IO[str], self.stdout), highlight=False)
            console.print(render(found, growths, tuple(settings.pools.values())))


def _plan(options: dict[str, Any]) -> Plan | None:
    """What is to be opened, if anything; :exc:`CommandError` for what is wrong or not confirmed."""
    if not options["open"]:
        for name in ("message", "header", "confirm"):
            if options[name]:
                raise CommandError(f"--{name} goes with --open.")
        return None
    number, url = options["open"]
    if not number.isdecimal() or not FEWEST <= int(number) <= MOST:
        raise CommandError(f"--open: {FEWEST} to {MOST:,} connections, not {number!r:.40}.")
    try:
        host = host_of(url)
    except ValueError as error:
        raise CommandError(str(error)) from error
    if not is_loopback(host) and options["confirm"] != host:
        raise CommandError(
            f"{host} is not this machine. To open {int(number):,} connections to it, add: --confirm {host}"
        )
    if find_spec("websockets") is None:
        raise CommandError("--open needs a library: pip install 'channels-admission[client]'.")
    if not 1 <= options["times"] <= MOST_TIMES:
        raise CommandError(f"--times: 1 to {MOST_TIMES:,}, not {options['times']:,}.")
    return Plan(url, int(number), [_header(each) for each in options["header"]], options["message"], options["times"])


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise CommandError(f"--header: NAME: VALUE, not {text!r:.40}.")
    return name.strip(), value.strip()


async def _look(settings: Settings, pool: str, plan: Plan | None) -> tuple[tuple[WorkerFootprint, ...], Cost | None]:
    """The workers, and what the connections of the plan have cost them."""

    async def read() -> tuple[WorkerFootprint, ...]:
        return await capacity.collect(settings, READ_TIMEOUT)

    async def room() -> int | None:
        snapshot = await collect_snapshot(settings)
        if snapshot.ledger.error is not None:
            raise LedgerError(snapshot.ledger.error)
        (found,) = (each for each in snapshot.pools if each.name == pool)
        is_refusing = any(load.pressure for worker in found.workers for load in worker.load)
        return None if is_refusing else found.free

    if plan is None:
        return await read(), None
    if not await read():
        return (), None
    before, after = await measure(plan, room, read, 3 * settings.heartbeat + READ_TIMEOUT)
    if (cost := capacity.opened(before, after)) is None or cost.connections < (plan.count - FIRST) / 2:
        raise Stopped("The workers of this ledger have not got the connections: is the URL that of their site?")
    return after, cost

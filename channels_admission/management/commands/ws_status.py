"""``manage.py ws_status``: show pools and workers as the ledger has them, for people and programs.

It parses the arguments and collects the snapshot; :mod:`channels_admission.management.terminal` prints it.
"""

import asyncio
import json
import re
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import IO, Any, Literal, cast

from django.core.management.base import CommandError, CommandParser, no_translations
from rich.console import Console

from ... import conf
from ...core.levels import CRITICAL_AT
from ...exceptions import ConfigurationError
from ...status import growth, history
from ...status.diagnostics import Diagnosis, diagnose
from ...status.diagnostics.deploy import advise, as_text
from ...status.diagnostics.host import gather
from ...status.history import History
from ...status.snapshot import READ_TIMEOUT, collect
from ...status.values import Health, Snapshot, WorkerSnapshot
from ..base import ReadingCommand
from ..terminal import nagios, status
from ..terminal.diagnosis import render
from ..terminal.layout import plain
from ..terminal.nagios import Range, ServiceState
from ..terminal.schema import SCHEMA
from ..terminal.watch import EVERY, watch
from ..terminal.workers import FEW, SORTS, TOP, Listing

LEDGER_DOWN = 2
"""The exit code when the ledger cannot be read."""
UNDIAGNOSED = 2
"""The exit code when a diagnosis cannot be made; 1 would mean warnings only."""
CHECK_WITHIN = 10.0
"""Default seconds that a check waits for the ledger, as Nagios plugins do."""
MOST_WORKERS = 100_000
"""The most that ``--top`` takes."""
USAGE = 2
"""The exit code for wrong arguments."""

ADVISE = (
    "Print lines for systemd, limits.conf and nginx that fit the settings, ready to paste, instead of the status. Does "
    "not read the ledger."
)
CONFLICTS = {
    "pool": {"diagnose", "advise"},
    "host": {"diagnose", "advise", "check", "history"},
    "top": {"diagnose", "advise", "check", "history", "as_json"},
    "sort": {"diagnose", "advise", "check", "history", "as_json"},
    "as_json": {"watch", "check"},
}
"""Options, and the options that each excludes."""


class Command(ReadingCommand):
    help = "Show how many slots of each admission pool are held, and by which workers."
    schema = SCHEMA

    def run_from_argv(self, argv: list[str]) -> None:
        """With ``--check``, give wrong arguments the exit code of UNKNOWN instead of a finding's."""
        self._understood = False
        try:
            super().run_from_argv(argv)
        except SystemExit as end:
            if "--check" in argv and end.code == USAGE and not self._understood:
                sys.exit(ServiceState.UNKNOWN)
            raise

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", dest="as_json", help="Print JSON, as described below.")
        parser.add_argument("--pool", metavar="NAME", help="Show this pool only.")
        parser.add_argument(
            "--host",
            metavar="NAME",
            help="Show the workers of this host only; a pool's numbers stay those of all workers.",
        )
        parser.add_argument(
            "--top", type=_workers, metavar="N",
            help=f"Show so many workers of each pool, 0 for all; by default all up to {FEW}, and {TOP} of more.",
        )  # fmt: skip
        parser.add_argument("--sort", choices=SORTS, help="Order the workers by this; default: worst, the worst first.")
        instead = parser.add_mutually_exclusive_group()
        instead.add_argument(
            "--watch", nargs="?", metavar="SECONDS", const=EVERY, type=_number("seconds", 0.1, 3600),
            help="Repeat the status every so many seconds, default 2, until Ctrl-C.",
        )  # fmt: skip
        instead.add_argument("--check", action="store_true", help="Act as a monitoring plugin, as described below.")
        instead.add_argument("--diagnose", action="store_true", help="Find what is wrong, with advice.")
        instead.add_argument(
            "--history", action="store_true", help="Print the pools' last 15 minutes and last day as JSON."
        )
        instead.add_argument("--advise", action="store_true", help=ADVISE)
        parser.add_argument(
            "-w", "--warn", "--warning", metavar="RANGE", type=_range, dest="warn",
            help="With --check: warn outside this range of per cent of the limit; default: from WARN_AT on.",
        )  # fmt: skip
        parser.add_argument(
            "-c", "--critical", metavar="RANGE", type=_range,
            help="With --check: critical outside this range of per cent of the limit; default: from 90 on.",
        )  # fmt: skip
        parser.add_argument(
            "-t", "--timeout", metavar="SECONDS", type=_number("seconds", 0.1, 3600),
            help=f"With --check: seconds to wait for the ledger; default {CHECK_WITHIN:g}.",
        )  # fmt: skip

    @no_translations
    def handle(self, **options: Any) -> None:
        _check_options(options)
        self._understood = True
        if options["advise"]:
            self.stdout.write(_advice(options["as_json"]), ending="\n" if options["as_json"] else "")
        elif options["check"]:
            self._check(options)
        elif options["diagnose"]:
            self._diagnose(_examine(), options)
        elif options["watch"]:
            self._watch(options)
        elif options["history"]:
            self._recall(options["pool"])
        else:
            self._show(options)

    def _show(self, options: Mapping[str, Any]) -> None:
        snapshot = _look(options["pool"], options["host"])
        is_down = snapshot.ledger.health is Health.DOWN
        if options["as_json"]:
            self.stdout.write(json.dumps(snapshot.as_dict(), indent=2))
        elif not is_down:
            _require_host(options["host"], snapshot)
            self._console(options).print(status.status(snapshot, listing=_listing(options)))
        if is_down:
            raise CommandError(status.problem(snapshot.ledger), returncode=LEDGER_DOWN)

    def _check(self, options: Mapping[str, Any]) -> None:
        thresholds = nagios.Ranges(options["warn"], options["critical"])
        try:
            result = nagios.check(_look(options["pool"], within=options["timeout"] or CHECK_WITHIN), thresholds)
        except CommandError as error:
            result = nagios.unknown(str(error))
        self.stdout.write(result.line)
        if result.state:
            sys.exit(result.state)

    def _watch(self, options: Mapping[str, Any]) -> None:
        pool, host, settings = options["pool"], options["host"], _settings(options["pool"])

        async def look() -> Snapshot:
            return _only(pool, host, await collect(settings))

        async def recall(pool: str) -> History:
            return await history.collect(pool, settings)

        console = self._console(options)
        self.stdout.ending = ""  # Django would add a line break to the control codes of a screen
        if code := asyncio.run(watch(console, look, recall, options["watch"], _listing(options))):
            sys.exit(code)

    def _recall(self, pool: str | None) -> None:
        settings = _settings(pool)
        told = asyncio.run(history.collect_all(settings, settings.pools if pool is None else [pool]))
        self.stdout.write(json.dumps(told, indent=2))
        for error in filter(None, (each["error"] for each in told["pools"].values())):
            raise CommandError(f"The history cannot be read: {plain(error)}", returncode=LEDGER_DOWN)

    def _diagnose(self, diagnosis: Diagnosis, options: Mapping[str, Any]) -> None:
        if options["as_json"]:
            self.stdout.write(json.dumps(diagnosis.as_dict(), indent=2))
        else:
            self._console(options).print(render(diagnosis))
        if diagnosis.exit_code:
            sys.exit(diagnosis.exit_code)

    def _console(self, options: Mapping[str, Any]) -> Console:
        """A console on this command's stdout, with Django's rules for colour."""
        is_terminal, force_color = self.stdout.isatty(), options["force_color"]
        colors: Literal["auto", "standard"] | None = "auto" if is_terminal and not options["no_color"] else None
        return Console(
            file=cast(IO[str], self.stdout),
            force_terminal=is_terminal or force_color,
            color_system="standard" if force_color else colors,
            no_color=False,  # else an old rich obeys a NO_COLOR that is empty
            highlight=False,
        )


def _listing(options: Mapping[str, Any]) -> Listing:
    return Listing(options["top"], options["sort"] or "worst")


def _number(what: str, low: float, high: float) -> Callable[[str], float]:
    """A type for argparse: a number between ``low`` and ``high``."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not low <= number <= high:
            raise ArgumentTypeError(f"must be a number of {what} from {low:g} to {high:g}, not {text!r:.40}")
        return number

    return read


def _workers(text: str) -> int:
    """A type for argparse: a whole number."""
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > MOST_WORKERS:
        raise ArgumentTypeError(f"must be a number of workers from 0 to {MOST_WORKERS}, not {text!r:.40}")
    return int(text)


def _range(text: str) -> Range:
    """A type for argparse."""
    try:
        return Range.parse(text)
    except ValueError as error:
        raise ArgumentTypeError(str(error)) from error


def _check_options(options: Mapping[str, Any]) -> None:
    """Raise :exc:`CommandError` for options that exclude each other."""
    given = {name for name, value in options.items() if value is not None and value is not False}
    for option in given & set(CONFLICTS):
        for other in given & CONFLICTS[option]:
            name = option.removeprefix("as_")
            raise CommandError(f"argument --{name}: not allowed with argument --{other}", returncode=USAGE)
    for option in given & {"warn", "critical", "timeout"}:
        if "check" not in given:
            raise CommandError(f"argument --{option}: only allowed with argument --check", returncode=USAGE)
    warning, critical = options["warn"], options["critical"] or Range(100 * CRITICAL_AT)
    if warning and warning.is_plain and critical.is_plain and warning.high > critical.high:
        raise CommandError("argument --warn: must not be above --critical", returncode=USAGE)


def _settings(pool: str | None = None) -> conf.Settings:
    """The settings in force; :exc:`CommandError` if they are wrong or lack the pool."""
    try:
        settings = conf.current()
        if pool is not None:
            settings.pool(pool)
    except ConfigurationError as error:
        raise CommandError(str(error)) from error
    return settings


def _advice(as_json: bool) -> str:
    files = advise(_settings())
    return json.dumps(files, indent=2) if as_json else as_text(files)


def _look(pool: str | None, host: str | None = None, within: float = READ_TIMEOUT) -> Snapshot:
    """A snapshot of all pools or of one, with the workers of all hosts or of one."""
    return _only(pool, host, asyncio.run(collect(_settings(pool), within)))


def _only(pool: str | None, host: str | None, snapshot: Snapshot) -> Snapshot:
    pools = (each for each in snapshot.pools if pool in (None, each.name))
    return replace(snapshot, pools=tuple(replace(each, workers=_of_host(host, each.workers)) for each in pools))


def _of_host(host: str | None, workers: tuple[WorkerSnapshot, ...]) -> tuple[WorkerSnapshot, ...]:
    return tuple(worker for worker in workers if host in (None, worker.host))


def _require_host(host: str | None, snapshot: Snapshot) -> None:
    """Raise :exc:`CommandError` if the host has no known worker."""
    if host is not None and not any(pool.workers for pool in snapshot.pools):
        raise CommandError(f"No worker of the host {host!r:.80} is known.")


def _examine() -> Diagnosis:
    try:
        snapshot = _look(None)
    except CommandError as error:
        raise CommandError(str(error), returncode=UNDIAGNOSED) from error
    settings = conf.current()
    return diagnose(snapshot, gather(snapshot, settings), asyncio.run(growth.collect(settings)))

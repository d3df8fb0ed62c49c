"""``manage.py ws_status``: the pools and workers as the ledger knows them, for people and for programs.

And with ``--advise`` what to write in the configurations of servers for the settings in force.
"""

import asyncio
import json
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Mapping
from dataclasses import replace
from typing import IO, Any, Literal, cast

from django.core.management.base import BaseCommand, CommandError, CommandParser, DjangoHelpFormatter
from rich.console import Console

from ... import conf, diagnosis, render
from ...advice import advise, as_text
from ...diagnosis import Diagnosis, diagnose
from ...exceptions import ConfigurationError
from ...facts import gather
from ...printout import printout
from ...snapshot import Health, Snapshot, collect

LEDGER_DOWN = 2
"""The exit code when the ledger cannot be read."""

ADVISE = (
    "Print lines for systemd, limits.conf and nginx that fit the settings, ready to be pasted, instead of the status. "
    "Asks no ledger."
)
SHAPE = (
    """\
--json prints one object. Fields may be added, and none changes its meaning:

  taken      when, in UTC, ISO 8601
  enabled    false when nothing is refused or counted
  ledger
    kind     "redis", "memory" or another
    address  where it is
    health   "ok", "settling" (started empty or lost its data) or "down"
    error    why it is down, else null
  pools      a list, empty when the ledger is down
    name
    held     slots held by all workers
    limit    slots in the pool, as in force
    configured  slots in the pool by the settings
    free     slots left
    share    held / limit; may pass 1 after the limit was lowered
    warn_at  the share from which the level is "warning"
    level    "calm", "warning", "critical" or "full"
    admitted connections let in so far
    refused  connections refused so far, by reason: "full", "rate",
             "settling", "crowd", "ledger", "paused", "draining", or the
             monitor that refused
    shed     connections closed so far because memory ran out
    channels_full  connections that a full channel ended so far
    classes  slots held by each class that has a share, and by the exempt
    overdue  connections closed so far that nobody had authenticated in time
    drained, aged  the same, by a drain, and at MAX_CONNECTION_AGE
    paused   whether an operator lets nobody in
    dry_run  whether nobody is refused
    would_refuse  those whom a dry run would have refused, by reason
    alert    the level as alerts tell it: it falls 5 points later
    controls what operators have set
      version
      limit, paused, dry_run  null where the settings are in force
        value    slots; 1; 1 or 0
        by, at   who, and when: Unix time
        over     for a limit: seconds in which those beyond it are closed
      drains     a list
        target   a worker, a host, or "*" for all workers
        over     seconds it takes
        by, at
    connects handshakes decided in the last five minutes
      total
      median handshakes in a second, half of all seconds having fewer
      worst  a list, the worst seconds first
        at         the second, Unix time
        handshakes admitted and refused in it
    calls    the workers' exchanges with the ledger so far
      made   one may decide many handshakes
      failed
      seconds that all of them took
    workers  a list
      id         host:pid:nonce
      host, pid
      server     "daphne", "granian", "hypercorn", "uvicorn" or ""
      held       slots held by this worker
      last_beat  seconds since its last report
      uptime     seconds since it started
      draining   whether it closes its connections and takes no others
      load       a list, one for each monitor
        name       "lag", "memory", "descriptors", "cpu" or one of yours
        reading    seconds for the lag (p99), else a share; null where unknown
        median, longest  of the lag (p50 and max), where there is one; else null
        pressure   from 0, nobody is refused, to 1, everybody

--advise --json prints one object instead: the text of each file by its path.

The exit code is 0, or 2 with one line on stderr when the ledger cannot be read.

"""
    + diagnosis.SHAPE
)


class _Formatter(DjangoHelpFormatter, RawDescriptionHelpFormatter):
    """Django's order of options, with the text after them left as it is."""


class Command(BaseCommand):
    help = "Show how many slots of each admission pool are held, and by which workers."
    requires_system_checks = []

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, epilog=SHAPE, formatter_class=_Formatter, **kwargs)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", dest="as_json", help="Print JSON, in the shape told below.")
        instead = parser.add_mutually_exclusive_group()
        instead.add_argument("--pool", metavar="NAME", help="Show this pool only.")
        instead.add_argument("--diagnose", action="store_true", help="Say what is wrong, and what to do about it.")
        instead.add_argument("--advise", action="store_true", help=ADVISE)

    def handle(self, *, as_json: bool, pool: str | None, diagnose: bool, advise: bool, **options: Any) -> None:
        if advise:
            self.stdout.write(_advice(as_json), ending="\n" if as_json else "")
        elif diagnose:
            self._diagnose(_examine(_look(None)), as_json, options)
        else:
            self._show(as_json, pool, options)

    def _show(self, as_json: bool, pool: str | None, options: dict[str, Any]) -> None:
        snapshot = _look(pool)
        is_down = snapshot.ledger.health is Health.DOWN
        if as_json:
            self.stdout.write(json.dumps(snapshot.as_dict(), indent=2))
        elif not is_down:
            self._console(options["no_color"], options["force_color"]).print(render.status(snapshot))
        if is_down:
            raise CommandError(render.problem(snapshot.ledger), returncode=LEDGER_DOWN)

    def _diagnose(self, diagnosis: Diagnosis, as_json: bool, options: Mapping[str, Any]) -> None:
        if as_json:
            self.stdout.write(json.dumps(diagnosis.as_dict(), indent=2))
        else:
            self._console(options["no_color"], options["force_color"]).print(printout(diagnosis))
        if diagnosis.exit_code:
            sys.exit(diagnosis.exit_code)

    def _console(self, no_color: bool, force_color: bool) -> Console:
        """A console on this command's stdout, in colour when Django would colour: on a terminal, or when told to."""
        is_terminal = self.stdout.isatty()
        colors: Literal["auto", "standard"] | None = "auto" if is_terminal and not no_color else None
        return Console(
            file=cast(IO[str], self.stdout),
            force_terminal=is_terminal or force_color,
            color_system="standard" if force_color else colors,
            no_color=False if force_color else None,
            highlight=False,
        )


def _settings() -> conf.Settings:
    """The settings in force; :exc:`CommandError` tells what is wrong with them."""
    try:
        return conf.current()
    except ConfigurationError as error:
        raise CommandError(str(error)) from error


def _advice(as_json: bool) -> str:
    files = advise(_settings())
    return json.dumps(files, indent=2) if as_json else as_text(files)


def _look(pool: str | None) -> Snapshot:
    """The state of all pools, or of one; :exc:`CommandError` when the settings are wrong or name no such pool."""
    settings = _settings()
    try:
        if pool is not None:
            settings.pool(pool)
    except ConfigurationError as error:
        raise CommandError(str(error)) from error
    snapshot = asyncio.run(collect(settings))
    if pool is None:
        return snapshot
    return replace(snapshot, pools=tuple(each for each in snapshot.pools if each.name == pool))


def _examine(snapshot: Snapshot) -> Diagnosis:
    return diagnose(snapshot, gather(snapshot, conf.current()))

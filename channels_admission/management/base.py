"""The base classes of the commands."""

import getpass
import os
from argparse import HelpFormatter, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from django.core.management.base import BaseCommand, CommandError, CommandParser, DjangoHelpFormatter

from ..conf import DEFAULT_POOL
from ..controls import Change
from ..exceptions import AdmissionError, LedgerError

LEDGER_DOWN = 2
"""The exit code when the ledger cannot be reached."""
EXIT_CODES = "The exit code is 0, 1 if the change is refused, and 2 if the ledger cannot be reached."


class AdmissionCommand(BaseCommand):
    """A command that takes ``NO_COLOR`` in the environment for ``--no-color``, as Django does not."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        if os.environ.get("NO_COLOR") and not options["force_color"]:
            options["no_color"] = True
        return super().execute(*args, **options)


class _Formatter(DjangoHelpFormatter, RawDescriptionHelpFormatter):
    """Keeps Django's order of options, and the line breaks of the text below them; wraps a text without any."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        keeper = RawDescriptionHelpFormatter if "\n" in text else HelpFormatter
        return keeper._fill_text(self, text, width, indent)


class ReadingCommand(AdmissionCommand):
    """A command that shows what it reads; its help ends with ``schema``, the fields of its JSON."""

    schema: ClassVar[str]
    requires_system_checks = []

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        options = {"epilog": self.schema, "formatter_class": _Formatter, "allow_abbrev": False}
        return super().create_parser(prog_name, subcommand, **options, **kwargs)


class ControlCommand(AdmissionCommand):
    """A command that changes a pool for all workers and prints what it changed."""

    requires_system_checks = []

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        return super().create_parser(prog_name, subcommand, epilog=EXIT_CODES, **kwargs)

    def add_pool(self, parser: CommandParser) -> None:
        parser.add_argument("pool", nargs="?", default=DEFAULT_POOL, help="The pool; %(default)r unless given.")

    def carry_out(self, change: Callable[..., tuple[Change, ...]], *args: Any, unchanged: str, **kwargs: Any) -> None:
        """Make the change in the name of the system user, and print it."""
        self.show(lambda: change(*args, by=_user(), **kwargs) or (unchanged,))

    def show(self, tell: Callable[..., Iterable[object]], *args: Any) -> None:
        """Print each line of ``tell``, or fail with one line."""
        try:
            for each in tell(*args):
                self.stdout.write(str(each))
        except AdmissionError as error:
            for each in error.made:
                self.stdout.write(str(each))
            if isinstance(error, LedgerError):
                raise CommandError(f"The ledger cannot be reached: {error}", returncode=LEDGER_DOWN) from error
            raise CommandError(str(error)) from error


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return "unknown"

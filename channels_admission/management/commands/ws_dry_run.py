"""``manage.py ws_dry_run``: decide and count, but refuse no connection."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from ... import controls
from ...conf import DEFAULT_POOL
from ..base import ControlCommand

SWITCH = {"on": True, "off": False}


class Command(ControlCommand):
    help = (
        "Make all workers decide and count, but refuse no connection of a pool; overrides DRY_RUN. The pool may then "
        "exceed its limit. Without on, off or --reset, show what is set."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "words",
            nargs="*",
            metavar="[POOL] [on|off]",
            help=f"The pool, default {DEFAULT_POOL!r}, and on or off.",
        )
        parser.add_argument("--reset", action="store_true", help="Use DRY_RUN of the settings again.")

    def handle(self, *, words: list[str], reset: bool, **_: Any) -> None:
        pools = [word for word in words if word not in SWITCH]
        switches = [SWITCH[word] for word in words if word in SWITCH]
        if len(pools) > 1 or len(switches) > 1 or (reset and switches):
            raise CommandError("Give at most one pool, and one of on, off and --reset.")
        pool = (pools or [DEFAULT_POOL])[0]
        if reset or switches:
            state = "as in the settings" if reset else "on" if switches[0] else "off"
            unchanged = f"The dry run of pool {pool} is {state} already."
            self.carry_out(controls.change, pool, dry_run=None if reset else switches[0], unchanged=unchanged)
        else:
            self.show(controls.describe, pool)

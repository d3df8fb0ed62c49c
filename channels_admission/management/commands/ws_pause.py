"""``manage.py ws_pause``: refuse all new connections of a pool until it is resumed."""

from typing import Any

from django.core.management.base import CommandParser

from ... import controls
from ..base import ControlCommand


class Command(ControlCommand):
    help = "Make all workers refuse new connections of a pool, at once, until it is resumed. Open connections stay."

    def add_arguments(self, parser: CommandParser) -> None:
        self.add_pool(parser)
        parser.add_argument("--resume", action="store_true", help="Admit again.")

    def handle(self, *, pool: str, resume: bool, **_: Any) -> None:
        unchanged = f"Pool {pool} is {'open' if resume else 'paused'} already."
        self.carry_out(controls.change, pool, paused=not resume, unchanged=unchanged)

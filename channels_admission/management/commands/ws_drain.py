"""``manage.py ws_drain``: drain a worker, a host, or all workers."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from ... import controls
from ..base import ControlCommand

OVER = 60.0
"""Default seconds that a drain takes."""


class Command(ControlCommand):
    help = (
        "Make workers refuse new connections and close their own at a steady pace, in all pools, with code 1012 and a "
        "hint when to reconnect. The drain of a host also holds for workers that start there later, until it is "
        "cancelled. --all drains the workers that run now. Patterns such as '*' are errors."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        target = parser.add_mutually_exclusive_group(required=True)
        target.add_argument("--worker", metavar="ID", help="This worker: host:pid, or its whole id.")
        target.add_argument("--host", metavar="HOST", help="The workers of this host, as ws_status names it.")
        target.add_argument("--all", action="store_true", help="All workers.")
        parser.add_argument(
            "--over", type=float, metavar="SECONDS", help=f"Seconds until all are closed; default {OVER:g}."
        )
        parser.add_argument("--cancel", action="store_true", help="End the drain; with --all, every drain.")

    def handle(
        self, *, worker: str | None, host: str | None, all: bool, over: float | None, cancel: bool, **_: Any
    ) -> None:
        target = controls.ALL_WORKERS if all else worker or host or ""
        if cancel and over is not None:
            raise CommandError("--cancel does not go with --over.")
        if (worker is not None and ":" not in worker) or (host is not None and ":" in host):
            raise CommandError("A worker's name has a colon, host:pid; a host's name has none.")
        if cancel:
            self.carry_out(controls.cancel, target, unchanged="There is no such drain.")
        else:
            seconds = OVER if over is None else over
            self.carry_out(controls.drain, target, over=seconds, unchanged="No pool is known.")

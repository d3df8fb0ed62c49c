"""``manage.py ws_drain``: empty a worker, a host, or all, at a steady pace."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from ... import controls
from ..base import ControlCommand

OVER = 60.0
"""Seconds that a drain takes, unless told."""


class Command(ControlCommand):
    help = (
        "Have workers refuse new connections and close those they have, in all pools, evenly over a time: with 1012 "
        "and a hint when to come back. A host stays drained, with the workers that start there later, until the drain "
        "is cancelled. --all drains the workers that run now. A name is no pattern: '*' is an error."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        whom = parser.add_mutually_exclusive_group(required=True)
        whom.add_argument("--worker", metavar="ID", help="This worker: host:pid, or its whole id.")
        whom.add_argument("--host", metavar="HOST", help="The workers of this host, as ws_status names it.")
        whom.add_argument("--all", action="store_true", help="All workers.")
        parser.add_argument(
            "--over", type=float, metavar="SECONDS", help=f"Seconds until all are closed; {OVER:g} unless given."
        )
        parser.add_argument("--cancel", action="store_true", help="Admit again. With --all, ends every drain.")

    def handle(
        self, *, worker: str | None, host: str | None, all: bool, over: float | None, cancel: bool, **_: Any
    ) -> None:
        target = controls.ALL_WORKERS if all else worker or host or ""
        if cancel and over is not None:
            raise CommandError("--cancel takes no --over.")
        if (worker is not None and ":" not in worker) or (host is not None and ":" in host):
            raise CommandError("A worker has a colon in its name, host:pid, and a host has none.")
        if cancel:
            self.carry_out(controls.cancel, target, unchanged="There is no such drain.")
        else:
            seconds = OVER if over is None else over
            self.carry_out(controls.drain, target, over=seconds, unchanged="No pool is known.")

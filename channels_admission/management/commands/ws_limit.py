"""``manage.py ws_limit``: set the limit of a pool for all workers."""

from typing import Any

from django.core.management.base import CommandError, CommandParser

from ... import conf, controls
from ...conf import DEFAULT_POOL
from ...exceptions import ConfigurationError
from ..base import ControlCommand

MOST_DIGITS = 12
OVER = 10.0
"""Default seconds in which a lowered limit is enforced."""


class Command(ControlCommand):
    help = (
        "Set the limit of a pool for all workers, at once, until it is reset; without a value, show what is set. With "
        "a limit below the connections held, these stay, and new ones are refused until the pool is below the limit."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "words", nargs="*", metavar="[POOL] [VALUE]",
            help=f"The pool, default {DEFAULT_POOL!r}, and its slots.",
        )  # fmt: skip
        parser.add_argument("--reset", action="store_true", help="Use the limit of the settings again.")
        parser.add_argument(
            "--enforce", action="store_true", help="Close the connections beyond the limit at a steady pace."
        )
        parser.add_argument(
            "--over", type=float, metavar="SECONDS", help=f"Seconds that --enforce takes; default {OVER:g}."
        )

    def handle(self, *, words: list[str], reset: bool, enforce: bool, over: float | None, **_: Any) -> None:
        pool, value = _read(words)
        if reset and (value is not None or enforce):
            raise CommandError("--reset takes neither a value nor --enforce.")
        if (enforce and value is None) or (over is not None and not enforce):
            raise CommandError("--enforce needs a value, and --over needs --enforce.")
        if reset or value is not None:
            seconds = (OVER if over is None else over) if enforce else None
            limit = "the limit of the settings" if value is None else f"a limit of {value:,}"
            unchanged = f"Pool {pool} has {limit} already."
            self.carry_out(controls.change, pool, limit=value, over=seconds, unchanged=unchanged)
        else:
            self.show(controls.describe, pool)


def _read(words: list[str]) -> tuple[str, int | None]:
    """The pool and the value among the words of the command line."""
    *pools, last = words or [DEFAULT_POOL]
    is_value = (
        last.removeprefix("-").isdecimal() and len(last) <= MOST_DIGITS and not (len(words) == 1 and _is_pool(last))
    )
    if len(pools) > 1:
        raise CommandError("Give at most one pool and one value.")
    if not is_value and (pools or (_is_number(last) and not _is_pool(last))):
        raise CommandError(f"A limit is a whole number, not {last!r:.40}.")
    if is_value:
        return (pools or [DEFAULT_POOL])[0], int(last)
    return last, None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _is_pool(word: str) -> bool:
    try:
        return word in conf.current().pools
    except ConfigurationError as error:
        raise CommandError(str(error)) from error

"""Text and lines that all views on a terminal share."""

from rich.console import RenderableType
from rich.table import Table

from ...status import words

FRACTIONS_UNTIL = 10
"""Seconds from which tenths are not shown."""


def plain(text: str) -> str:
    """``text`` on one line, with a question mark for every character that is not printable."""
    return "".join(character if character.isprintable() else "?" for character in " ".join(text.split()))


def duration(seconds: float) -> str:
    """A time span in its longest unit and the next one: ``2 h 5 min``; short ones with tenths of a second."""
    return f"{seconds:.1f} s" if seconds < FRACTIONS_UNTIL else " ".join(words.duration(seconds))


def ends(left: RenderableType, right: RenderableType) -> RenderableType:
    """A line with one renderable at each end."""
    line = Table.grid(expand=True, padding=(0, 2, 0, 0))
    line.add_column(ratio=1, overflow="fold")
    line.add_column(justify="right", no_wrap=True)
    line.add_row(left, right)
    return line


def listing(first: str, *, least: int | None = None) -> Table:
    """A table whose first column takes the width that the others leave, and at least ``least`` characters."""
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), expand=True, header_style="dim")
    table.add_column(first, ratio=1, min_width=least, overflow="fold")
    return table


def fingerprints(site: int | None, settings: str | None) -> str:
    """The fingerprints of a pool's site and settings, where all workers have the same."""
    named = ("" if site is None else f"site {site}", "" if settings is None else f"settings {plain(settings)}")
    return ", ".join(filter(None, named)).capitalize()

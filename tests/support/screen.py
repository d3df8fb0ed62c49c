"""What is printed on a terminal of eighty columns."""

import io

from rich.console import Console

WIDTH = 80


def printed(renderable: object, **options) -> str:
    """Without the blanks at the ends of lines, and without colour unless the options say so."""
    console = Console(file=io.StringIO(), width=WIDTH, highlight=False, **{"color_system": None, **options})
    console.print(renderable)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())

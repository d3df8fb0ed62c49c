"""The cases that every client must pass, and their table in the documentation.

``python -m support.conformance docs/protocol.md`` in the folder of the tests writes the table anew.
"""

import json
import re
import sys
from pathlib import Path

from support import TESTS

LIST = TESTS / "support" / "conformance.json"
TABLE = re.compile(r"(?<=<!-- conformance -->\n)(.*?)(?=<!-- end of conformance -->\n)", re.DOTALL)
"""The place of the table in a page."""


def cases() -> list[dict]:
    """The cases, in order."""
    return json.loads(LIST.read_text())["cases"]


def tickets() -> dict[str, str]:
    """The tickets of the cases, by the letters that stand for them in the table."""
    return json.loads(LIST.read_text())["tickets"]


def table() -> str:
    """One row for each case."""
    rows = ["| # | case | endings | wait, s | ticket |", "| ---: | --- | --- | --- | --- |"]
    rows += [_row(case) for case in cases()]
    return "\n".join(rows) + "\n"


def _row(case: dict) -> str:
    steps = case["steps"]
    cells = (
        f"{case['number']}{' P' if case.get('programs_only') else ''}",
        case["title"],
        "<br>".join(_ending(step["ending"]) for step in steps),
        "<br>".join(_wait(step["wait"]) for step in steps),
        "<br>".join(_code(step["ticket"] or "") or "–" for step in steps),
    )
    return f"| {' | '.join(cells)} |"


def _ending(ending: dict) -> str:
    if ending.get("nothing"):
        return "nothing"
    if ending.get("lost"):
        return f"lost{_uptime(ending)}"
    if "close" in ending:
        return f"{ending['close']} {_code(ending['reason'])}".strip() + _uptime(ending)
    lines = [f"{name}: {value}" for name, value in ending["headers"]]
    return " ".join([f"HTTP {ending['status']}", *map(_code, [*lines, ending["body"]])]).strip()


def _uptime(ending: dict) -> str:
    return f", open for {ending['uptime']:g} s" if ending["uptime"] else ""


def _wait(bounds: list[float] | None) -> str:
    if bounds is None:
        return "no retry"
    shortest, longest = bounds
    return f"{shortest:g}" if shortest == longest else f"{shortest:g} to {longest:g}"


def _code(text: str) -> str:
    written = _short(text).replace("\n", "\\n").replace("\t", "\\t")
    return f"`{written}`" if written else ""


def _short(text: str) -> str:
    for letter, ticket in tickets().items():
        text = text.replace(ticket, f"<{letter}>")
    return text


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(TABLE.sub(lambda _: table(), page.read_text()))

"""Controls as the text that stands in Redis: ``VERSION;NAME=VALUE/OVER,AT,BY;…``.

A drain's name is ``drain:TARGET``, and its value ``VERSION:CLOCK``, the pool's when it was ordered; ``lua/control.lua``
writes these in place of a ``+``. ``lua/overrides.lua`` reads the version, the limit and the pause, and drops orders
that are done. A text that is read is untrusted: an entry that no ledger can have written is dropped.
"""

import re
from collections.abc import Iterator
from urllib.parse import quote, unquote

from ..conf import MAX_LIMIT
from ..core.overrides import LATEST, NOTHING_SET, Controls, Drain, Order, printable

MOST_BYTES = 8192
STAMP = 30
"""Bytes that the version and the clock of an ordered drain take beyond the ``+``."""
LATEST_VERSION = 900_000_000_000_000
"""A higher version is damage: nothing newer could be set."""
MOST_DRAINS = 64
LONGEST = 86_400.0
"""Most seconds over which connections are closed; a longer time is damage."""
HEAD = re.compile(r"(\d{1,15})(?:;|$)")
ENTRY = re.compile(
    r"(?P<name>limit|paused|dry_run|drain:(?P<target>\*|[A-Za-z0-9._-]{1,32}(?::\d{1,10}:[0-9a-f]{1,16})?))"
    r"=(?P<value>\d{1,15})(?::(?P<clock>\d{1,15}))?(?:/(?P<over>\d{1,5}(?:\.\d{1,3})?))?,(?P<at>\d{1,12}(?:\.\d{1,3})?),(?P<by>[A-Za-z0-9._~%-]*)"
)
MOST = {"limit": MAX_LIMIT, "paused": 1, "dry_run": 1}


def entries(controls: Controls) -> str:
    """The controls as text, without the version."""
    return "".join(f";{entry}" for entry in _entries(controls))


def text(controls: Controls) -> str:
    """The controls as text; empty where nothing was ever set."""
    return f"{controls.version}{entries(controls)}" if controls.version else ""


def size(controls: Controls) -> int:
    """Bytes that the text may have once it is stored."""
    stamps = sum(drain.version is None for drain in controls.drains)
    return len(str(LATEST_VERSION)) + len(entries(controls)) + STAMP * stamps


def controls_of(text: str) -> Controls:
    """The controls in a text; :data:`NOTHING_SET` if the text is none."""
    head = HEAD.match(text)
    if head is None or not 0 < int(head[1]) <= LATEST_VERSION or len(text) > MOST_BYTES:
        return NOTHING_SET
    found = [match for entry in text.split(";")[1:] if (match := ENTRY.fullmatch(entry))]
    orders = {match["name"]: order for match in found if (order := _order(match))}
    drains = tuple(drain for match in found if (drain := _drain(match)))
    return Controls(int(head[1]), **orders, drains=drains[:MOST_DRAINS])


def _entries(controls: Controls) -> Iterator[str]:
    for name in MOST:
        order: Order | None = getattr(controls, name)
        if order is not None:
            over = "" if order.over is None else f"/{order.over:.3f}"
            yield f"{name}={order.value}{over},{_signed(order)}"
    for drain in controls.drains:
        ordered = "+" if drain.version is None else f"{drain.version}:{drain.clock}"
        yield f"drain:{drain.target}={ordered}/{drain.over:.3f},{_signed(drain)}"


def _signed(order: Order | Drain) -> str:
    return f"{order.at:.3f},{quote(order.by, safe='')}"


def _order(match: re.Match[str]) -> Order | None:
    value, over = int(match["value"]), _over(match)
    if match["target"] or match["clock"] or value > MOST[match["name"]] or (over is not None and over > LONGEST):
        return None
    return Order(value, _by(match), _at(match), over)


def _drain(match: re.Match[str]) -> Drain | None:
    over = _over(match)
    if not match["target"] or not match["clock"] or over is None or over > LONGEST:
        return None
    return Drain(match["target"], over, _by(match), _at(match), int(match["value"]), int(match["clock"]))


def _at(match: re.Match[str]) -> float:
    """When it was set, at most the last second that a date can represent."""
    return min(float(match["at"]), LATEST)


def _over(match: re.Match[str]) -> float | None:
    return None if match["over"] is None else float(match["over"])


def _by(match: re.Match[str]) -> str:
    return printable(unquote(match["by"], errors="replace"))

"""A worker's footprint as a text of Redis: after its load, which earlier versions read without it."""

import re

from ..core.readings import Footprint, Usage

KIB = 1024
FOOTPRINT = re.compile(r";#([a-z]?)((?:,\d{1,14}){12})$")
SHORT = {"": "", "websockets-sansio": "s", "websockets": "w", "wsproto": "p"}
"""Implementations of WebSockets as one letter, since every record of a worker has it."""
LONG = {short: name for name, short in SHORT.items()}


def footprint_text(footprint: Footprint | None) -> str:
    """``;#``, the letter of the implementation, and twelve numbers, memory in KiB; empty for None."""
    if footprint is None:
        return ""
    numbers = [footprint.memory_limit // KIB, footprint.memory_used // KIB, footprint.files_limit]
    for usage in (footprint.now, footprint.low, footprint.high):
        numbers += [usage.connections, usage.memory // KIB, usage.files]
    return ";#" + ",".join([SHORT.get(footprint.implementation, ""), *map(str, numbers)])


def footprint_of(text: str) -> Footprint | None:
    """The footprint after a load; None without one, or with what no worker can have written."""
    if (found := FOOTPRINT.search(text)) is None:
        return None
    limit, used, files_limit, *usages = map(int, found[2].split(",")[1:])
    now, low, high = (
        Usage(connections, memory * KIB, files)
        for connections, memory, files in zip(usages[::3], usages[1::3], usages[2::3], strict=True)
    )
    return Footprint(now, low, high, limit * KIB, used * KIB, files_limit, LONG.get(found[1], ""))

"""Workers that have told what they use, for the tests of capacity. Memory is in MiB, and per connection in KiB."""

from channels_admission.core.readings import Footprint, Usage
from channels_admission.status.capacity import WorkerFootprint

LIMIT, USED = 1000, 400
"""Of the host, unless the test says otherwise."""


def told(pid: int = 1, **changes) -> WorkerFootprint:
    """A worker of 60 MiB that has had 10 connections and then 510, each with 100 KiB and a file."""
    has = {"host": "web-1", "server": "daphne", "few": 10, "most": 510, "now": 510, "each": 100, "base": 60}
    has |= {"files": 15, "limit": LIMIT, "used": USED, "files_limit": 2048, "silence": 0.1, **changes}

    def usage(connections: int) -> Usage:
        memory = (has["base"] << 20) + connections * (has["each"] << 10)
        return Usage(connections, memory, has["files"] + connections)

    footprint = Footprint(
        usage(has["now"]), usage(has["few"]), usage(has["most"]),
        memory_limit=has["limit"] << 20, memory_used=has["used"] << 20, files_limit=has["files_limit"],
    )  # fmt: skip
    return WorkerFootprint(has["host"], pid, has["server"], has["silence"], footprint)

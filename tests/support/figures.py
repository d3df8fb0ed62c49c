"""What the fault tests measure, as a page of the documentation: ``pytest -m fault --figures docs/faults.md``."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from django.utils.text import capfirst

from demo.redises import find_redis

PACKAGES = ("django", "channels", "redis", "uvicorn", "daphne", "hypercorn", "granian")
PAGE = """\
# Every fault, and what was measured

Made by the tests themselves, with real Redis servers, real ASGI servers in processes of their own, and real signals:

```console
.venv/bin/tox -e servers -- -m fault --figures docs/faults.md
```

Measured on {machine}, with {versions}.

| fault | what must hold | measured |
| --- | --- | --- |
{rows}
"""


class Figures:
    """The rows noted in one run, in the order of the tests."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str]] = []

    def note(self, fault: str, must_hold: str, measured: str) -> None:
        """One row of the table; each text is a few words, a figure with its unit."""
        self.rows.append((fault, must_hold, measured))

    def write(self, path: Path) -> None:
        rows, said = [], ""
        for fault, must_hold, measured in self.rows:
            cells = (capfirst(fault), "the same" if must_hold == said else must_hold, measured)
            rows.append(f"| {' | '.join(cells)} |")
            said = must_hold
        path.write_text(PAGE.format(machine=_machine(), versions=_versions(), rows="\n".join(rows)))


def _machine() -> str:
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{os.cpu_count()} cores, {platform.system()}, {python}"


def _versions() -> str:
    redis = subprocess.run([find_redis(), "--version"], capture_output=True, text=True, check=True).stdout
    server = redis.partition("v=")[2].partition(" ")[0]
    return ", ".join([f"redis-server {server}", *(f"{package} {version(package)}" for package in PACKAGES)])

"""The pages of the reference and the JSON schema that are made from the code, and the address of the repository.

``python -m support.reference`` in the folder of the tests writes them anew.
"""

import json
import os
import re
import runpy
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from support import ROOT
from support.json_schema import status_schema

DOCS = ROOT / "docs"
BLOCK = re.compile(r"(?<=<!-- generated -->\n)(.*?)(?=<!-- end of generated -->\n)", re.DOTALL)
"""The place in a page for what is made from the code."""


def schema() -> str:
    """The fields of the JSON of ``ws_status``, and its exit codes, as ``--help`` prints them."""
    from channels_admission.management.terminal.schema import SCHEMA

    return f"```text\n{SCHEMA.strip()}\n```\n"


def capacity() -> str:
    """The fields of the JSON of ``ws_capacity``, and its exit codes, as ``--help`` prints them."""
    from channels_admission.management.terminal.capacity import SCHEMA

    return f"```text\n{SCHEMA.strip()}\n```\n"


def metrics() -> str:
    """Each metric of both URLs with its type, labels and meaning."""
    from channels_admission.status.values import Health, LedgerSnapshot, Snapshot
    from channels_admission.web.metrics import PoolCollector
    from channels_admission.web.worker_metrics import WorkerCollector

    snapshot = Snapshot(datetime.now(UTC), True, LedgerSnapshot("redis", "", Health.OK), ())
    parts = (("metrics", PoolCollector(snapshot)), ("metrics/workers", WorkerCollector(snapshot)))
    return "\n".join(f"### `{url}`\n\n{_table(collector.collect())}" for url, collector in parts)


def _table(families: Iterable[Any]) -> str:
    rows = ["| metric | type | labels | meaning |", "| --- | --- | --- | --- |"]
    for family in families:
        labels = ", ".join(f"`{label}`" for label in family._labelnames) or "–"
        name = family.name + ("_total" if family.type == "counter" else "")
        rows.append(f"| `{name}` | {family.type} | {labels} | {family.documentation} |")
    return "\n".join(rows) + "\n"


PAGES = {"json.md": schema, "metrics.md": metrics, "capacity.md": capacity}
"""Each page, and what makes its block."""
SCHEMA_FILE = DOCS / "status.schema.json"

REPOSITORY = re.compile(r"https://[\w./-]+?(?=/(?:blob|raw)/HEAD/)|(?<=git\+)https://[\w./-]+")
"""Where a file tells the address of the repository."""
ADDRESSED = (
    "README.md",
    "channels_admission/static/channels_admission/package.json",
    "docs/monitoring/alerts.yml",
    "tests/project/alerts_test.yml",
)
"""The files that tell it, since they are read without the repository."""


def repository() -> str:
    """The address of the repository, from its one place."""
    return runpy.run_path(str(ROOT / "setup.py"))["repository"]()


def addressed(text: str, address: str) -> str:
    """``text`` with ``address`` as that of the repository."""
    return REPOSITORY.sub(lambda _: address, text)


def written_schema() -> str:
    return f"{json.dumps(status_schema(), indent=1)}\n"


def main() -> None:
    import django

    django.setup()
    for name, make in PAGES.items():
        page = DOCS / name
        page.write_text(BLOCK.sub(lambda _, text=make(): text, page.read_text()))
    SCHEMA_FILE.write_text(written_schema())
    for name in ADDRESSED:
        path = ROOT / name
        path.write_text(addressed(path.read_text(), repository()))


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    sys.path[:0] = [str(ROOT), str(ROOT / "testproject")]
    main()

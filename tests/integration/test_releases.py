"""A rolling deployment to a later version of the package: two copies of it, in real servers over one Redis."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import channels_admission

from demo.servers import TESTPROJECT, Redis, Workers
from support.clients import enter_many, leave_all
from support.waiting import eventually

PACKAGE = Path(channels_admission.__file__).parent
TERMS = {"HEARTBEAT": 0.5, "LEASE": 4, "MAX_CONNECTIONS": 30, "PRESSURE": {"lag": None}}
LATER = "99.1.0"


def copied(folder: Path, layout: int) -> Path:
    """A copy of the package as a later version of it, with this layout."""
    changes = {
        "__init__.py": (r'^__version__ = ".*"$', f'__version__ = "{LATER}"'),
        "ledger/layout.py": (r"^LAYOUT = \d+$", f"LAYOUT = {layout}"),
    }
    shutil.copytree(PACKAGE, folder / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, (line, changed) in changes.items():
        path = folder / PACKAGE.name / name
        source, found = re.subn(line, changed, path.read_text(), flags=re.MULTILINE)
        if found != 1:
            raise ValueError(f"{name} has another form")
        path.write_text(source)
    return folder


def asked(workers: Workers, *args: str) -> dict:
    """What ``ws_status`` of the workers' version says."""
    command = [sys.executable, "manage.py", "ws_status", "--json", *args]
    return json.loads(
        subprocess.run(command, cwd=TESTPROJECT, env=workers.env, capture_output=True, check=False).stdout
    )


def numbers(told: dict) -> tuple[int, int, list[tuple[str, int]]]:
    """Slots held, those of another layout, and each worker's version with its slots."""
    (pool,) = told["pools"]
    workers = sorted((each["release"], each["held"]) for each in pool["workers"])
    return pool["held"], pool["elsewhere"]["held"], workers


def finding(workers: Workers) -> str:
    return {each["id"]: each["severity"] for each in asked(workers, "--diagnose")["findings"]}.get(
        "releases-differ", ""
    )


@pytest.mark.parametrize("layout", [1, 2], ids=["the same layout", "another layout"])
async def test_the_limit_holds_over_both_versions(tmp_path, layout):
    ours, later_path = channels_admission.__version__, {"PYTHONPATH": str(copied(tmp_path, layout))}
    with (
        Redis() as redis,
        Workers("uvicorn", 1, redis_url=redis.url, settings=TERMS) as old,
        Workers("uvicorn", 1, redis_url=redis.url, settings=TERMS, env=later_path) as new,
    ):
        early = await enter_many(20, [old.origin])
        assert all(each.is_open for each in early)
        clients = await enter_many(20, [new.origin])
        assert sum(each.is_open for each in clients) == 10
        if layout == 1:
            await eventually(lambda: numbers(asked(new)) == (30, 0, [(ours, 20), (LATER, 10)]))
            assert finding(old) == "note"
        else:
            await eventually(lambda: numbers(asked(old)) == (30, 10, [(ours, 20)]))
            assert numbers(asked(new)) == (30, 20, [(LATER, 10)])
            assert finding(new) == "warning"
        old.stop()
        await eventually(lambda: numbers(asked(new)) == (10, 0, [(LATER, 10)]), 10)

        async def is_full():
            """Whether all slots are in use again. For a while some are kept for the clients that were refused."""
            clients.extend(await enter_many(5, [new.origin]))
            held = sum(each.is_open for each in clients)
            assert held <= 30
            return held == 30

        await eventually(is_full, 10)
        damaged = [log.read_text() for each in (old, new) for log in each.logs if "damaged" in log.read_text()]
        assert damaged == []
        await leave_all([each for each in clients if each.is_open])

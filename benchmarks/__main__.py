"""``python -m benchmarks``: measure for seventeen minutes, and write a page, its figures and a picture."""

import argparse
import asyncio
import gc
import json
import sys
import time
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import handshakes, holdings, inside, latency, pileup
from .chart import draw
from .contenders import CONTENDERS
from .machine import described, versions
from .report import INDEX, page, put_into
from demo.clients import TooFewFiles, allow_sockets

DOCS = Path(__file__).resolve().parent.parent / "docs"
SPARSE = ("bare", "incr", "semaphore", "middleware")
HELD = ("bare", "middleware", "both", "everything")
OTHER_FILES = 500
SPEAKING = ("bare", "middleware", "both")


def _loops() -> list[str]:
    return ["asyncio", *(["uvloop"] if find_spec("uvloop") else [])]


async def measure(quick: bool) -> dict[str, Any]:
    """Every figure, as in the JSON file."""
    shakes, held = (handshakes.QUICK, holdings.QUICK) if quick else (handshakes.FULL, holdings.FULL)
    found: dict[str, Any] = {
        "command": "python -m benchmarks" + (" --quick" if quick else ""),
        "machine": described(),
        "versions": versions(),
        "taken": datetime.now(UTC).date().isoformat(),
        "rounds": shakes.rounds,
        "held": held.held,
        "crowds": held.crowds,
        "handshakes": {},
    }
    _say("our own functions")
    found["inside"] = inside.profile()
    for loop in _loops():
        _say(f"handshakes, {loop}")
        found["handshakes"][loop] = await handshakes.measure(list(CONTENDERS), loop, shakes)
    first = _loops()[-1]
    _say("handshakes far apart")
    sparse = handshakes.Plan(handshakes.SPARSE, 2 if quick else 5)
    found["handshakes"][first].update(await handshakes.measure(SPARSE, first, sparse))
    _say("how long handshakes take")
    rounds, rates = (latency.QUICK, latency.QUICK_RATES) if quick else (latency.FULL, latency.RATES)
    found["latency"] = {"loop": first, "times": await latency.measure(first, rounds, rates)}
    _say("a slow Redis")
    found["pileup"] = pileup.measure(pileup.SIZES[:1] if quick else pileup.SIZES)
    _say("ledger calls")
    found["calls"] = await holdings.measure_calls(first, settled=not quick)
    _say("messages")
    found["messages"] = await holdings.measure_messages(SPEAKING, first, held)
    _say("open connections")
    found["memory"] = await holdings.measure_memory(HELD, first, held)
    return found


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def _allow_sockets(clients: int) -> None:
    try:
        allow_sockets(clients, OTHER_FILES)
    except TooFewFiles as error:
        sys.exit(f"{error} --quick needs fewer.")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure what admission costs.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: four minutes")
    parser.add_argument("--folder", type=Path, default=DOCS, help="folder of speed.json, .md and .png (%(default)s)")
    parser.add_argument("--render", action="store_true", help="measure nothing; write the page from speed.json again")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    figures = options.folder / "speed.json"
    if not options.render:
        _allow_sockets((holdings.QUICK if options.quick else holdings.FULL).held)
        gc.disable()
        started = time.monotonic()
        found = asyncio.run(measure(options.quick))
        found["seconds"] = round(time.monotonic() - started)
        figures.write_text(json.dumps(found, indent=1) + "\n")
    found = json.loads(figures.read_text())
    text = page(found)
    (options.folder / "speed.md").write_text(text)
    draw(found, options.folder / "speed.png")
    if options.folder == DOCS:
        put_into(INDEX, found)
    print(text)


if __name__ == "__main__":
    main()

"""A herd whose ``connect()`` costs CPU time, and those who are connected beside it.

``python -m benchmarks.entrance`` runs it without admission and with default settings, one after the other, and prints
a line for each. The clients know nothing but the hint; a process of its own talks to one connection of each worker.
These connections have slots of the same pool: where clients leave again, the ideal counts with those that are left.

The workers have just started, as has their Redis. With ``--settled`` the herd comes once more to others, when their
pool has settled; the bucket of a rate is full then, and the ideal counts with its tokens.
"""

import argparse
import asyncio
import json
import math
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import psutil

from channels_admission.conf import BURST_TIME

from .crowd import HOST
from .returning import OTHER_FILES, Herd
from demo.beside import beside
from demo.clients import allow_sockets
from demo.returns import ideal_by_rate, ideal_by_slots, until
from demo.rules import RULES
from demo.servers import Workers
from demo.sites import DEFAULTS, WITHOUT_ADMISSION, site
from demo.stage import manage

TIMEOUT = 30.0
"""The most seconds that a pool takes to settle."""


def measure(options: argparse.Namespace, settings: dict[str, Any], *, settled: bool = False) -> dict[str, Any]:
    """One herd: seconds, attempts, the hints told, and the CPU seconds of the workers."""
    with site(options.server, options.workers, {**DEFAULTS, **settings}) as workers:
        if settled:
            wait_until_settled(workers)
        connected = [f"ws://{HOST}:{port}{options.connected}" for port in workers.ports]
        with beside(connected) as waits:
            before = _used(workers)
            herd = asyncio.run(_run(workers.ports, options))
            used = _used(workers) - before
    reached = {f"{share} %": until(share / 100, herd.times(), options.clients) for share in (50, 99)}
    hints = [min(herd.hints), median(herd.hints), max(herd.hints)] if herd.hints else []
    reached["ideal"] = ideal(options, settings, settled=settled)
    attempts = sum(client.attempts for client in herd.clients) / options.clients
    return {**reached, "attempts": attempts, "refused": dict(herd.refused), "hints": hints, **waits, "CPU": used}


def wait_until_settled(workers: Workers) -> None:
    """By what operators are told."""
    ends = time.monotonic() + TIMEOUT
    while (health := json.loads(manage(workers.env, "ws_status", "--json"))["ledger"]["health"]) != "ok":
        if time.monotonic() > ends:
            raise RuntimeError(f"after {TIMEOUT:g} s the ledger is {health}")
        time.sleep(0.5)


def ideal(options: argparse.Namespace, settings: dict[str, Any], *, settled: bool = False) -> float | None:
    """When 99 % could be in by the slots or the rate; None where neither holds them up."""
    herd, slots = {"hint": options.clients}, settings.get("MAX_CONNECTIONS")
    if options.stay is not None and slots is not None:
        return ideal_by_slots(herd, slots - options.workers, options.stay)
    if (rate := settings.get("CONNECT_RATE")) is None:
        return None
    burst = settings.get("CONNECT_BURST", math.ceil(BURST_TIME * rate)) if settled else 0
    return ideal_by_rate(herd, rate, burst)


def _used(workers: Workers) -> float:
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in workers.pids)


async def _run(ports: Sequence[int], options: argparse.Namespace) -> Herd:
    herd = Herd(ports, options.path, [RULES["hint"]] * options.clients, stay=options.stay)
    await herd.run(options.seconds)
    return herd


def _short(figure: Any) -> Any:
    if isinstance(figure, list):
        return [_short(each) for each in figure]
    return round(figure, 3) if isinstance(figure, float) else figure


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.entrance", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--path", default="/ws/heavy/", help="where the herd connects (%(default)s)")
    parser.add_argument("--connected", default="/ws/echo/", help="where the connected are (%(default)s)")
    parser.add_argument("--server", default="uvicorn")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--clients", type=int, default=600)
    parser.add_argument("--seconds", type=float, default=60, help="the longest to watch")
    parser.add_argument("--stay", type=float, help="seconds after which each of the herd leaves again")
    parser.add_argument("--settings", action="append", type=json.loads, help="as JSON; may be given several times")
    parser.add_argument("--settled", action="store_true", help="measure each at a pool that has settled as well")
    options = parser.parse_args()
    allow_sockets(options.clients, OTHER_FILES)
    for settings in options.settings or [WITHOUT_ADMISSION, {}]:
        for settled in (False, True) if options.settled else (False,):
            found = {name: _short(each) for name, each in measure(options, settings, settled=settled).items()}
            print(json.dumps({"settings": settings, "pool": "settled" if settled else "new", **found}), flush=True)


if __name__ == "__main__":
    main()

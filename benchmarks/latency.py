"""``python -m benchmarks.latency``: measure how long a handshake takes, from connecting to the 101, in four minutes.

Redis is near, or its round trip takes some milliseconds more. Clients come at a steady rate and stay, so that the pool
grows. The contenders are measured in turn, in a new order each round.
"""

import argparse
import asyncio
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence

from .contenders import CONTENDERS
from .crowd import Client, connect, leave, rush
from .stage import WARM_UP, stage

NAMES = ("bare", "middleware", "quota")
ROUND_TRIPS = (0, 2, 10)
"""Milliseconds that are added to the round trip to Redis."""
RATES = {5: 4.0, 50: 4.0, 200: 3.0}
"""Connections per second, and for how many seconds they come."""
FULL, QUICK = 2, 1
"""Rounds."""
QUICK_RATES = {50: 1.0}

Times = dict[str, dict[str, float]]
"""By contender, the ``median`` and the ``p99`` in milliseconds."""


async def measure(loop: str, rounds: int, rates: Mapping[int, float] = RATES) -> dict[str, dict[str, Times]]:
    """By round trip and by rate."""
    return {str(trip): await _measure(loop, trip, rounds, rates) for trip in ROUND_TRIPS}


async def _measure(loop: str, trip: int, rounds: int, rates: Mapping[int, float]) -> dict[str, Times]:
    found: dict[str, dict[str, list[float]]] = {str(rate): {name: [] for name in NAMES} for rate in rates}
    with stage(NAMES, loop, trip=trip) as scene:
        for server in scene.servers.values():
            await rush(server.port, WARM_UP, 20, True)
        for _ in range(rounds):
            for rate, seconds in rates.items():
                for name in random.sample(NAMES, len(NAMES)):
                    found[str(rate)][name] += await _come(scene.servers[name].port, rate, seconds)
    return {rate: {name: _told(each) for name, each in times.items()} for rate, times in found.items()}


async def _come(port: int, rate: int, seconds: float) -> Sequence[float]:
    """Milliseconds of each handshake."""
    loop, clients, times = asyncio.get_running_loop(), list[Client](), list[float]()
    began = loop.time()

    async def one(number: int) -> None:
        await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
        started = time.perf_counter()
        client = await connect(port)
        clients.append(client)
        if await client.told != "open":
            raise RuntimeError("A client was refused.")
        times.append(1000 * (time.perf_counter() - started))

    await asyncio.gather(*(one(number) for number in range(round(rate * seconds))))
    await leave(clients)
    return times


def _told(times: Sequence[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return {"median": round(cuts[49], 3), "p99": round(cuts[98], 3)}


def table(found: Mapping[str, Mapping[str, Times]]) -> Iterator[str]:
    """The figures in Markdown: the median, and p99 in brackets."""
    yield f"| Redis | connections a second | {' | '.join(CONTENDERS[name].title for name in NAMES)} |"
    yield "| --- | ---: |" + " ---: |" * len(NAMES)
    for trip, rates in found.items():
        for rate, times in rates.items():
            cells = (f"{each['median']:.2f} ({each['p99']:.1f}) ms" for each in times.values())
            yield f"| + {trip} ms | {rate} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency", description="Measure how long handshakes take."
    )
    parser.add_argument("--loop", default="asyncio", help="asyncio or uvloop (%(default)s)")
    parser.add_argument("--rounds", type=int, default=FULL, help="rounds (%(default)s)")
    options = parser.parse_args()
    print("\n".join(table(asyncio.run(measure(options.loop, options.rounds)))))


if __name__ == "__main__":
    main()

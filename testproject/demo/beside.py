"""A client that stays connected beside a herd, in a process of its own: how long does it wait for its answers?

``python -m demo.beside URL`` talks until its input ends, and prints the figures as JSON, in seconds.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from websockets.asyncio.client import connect

from .herd import Target

PERIOD = 0.02
"""Seconds from one message to the next."""


@contextmanager
def beside(url: str | None) -> Iterator[dict[str, float]]:
    """Figures that are there after the block; none without a URL."""
    figures: dict[str, float] = {}
    if url is None:
        yield figures
        return
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-m", "demo.beside", url], **pipes) as child:
        child.stdout.readline()  # type: ignore[union-attr]
        yield figures
        answer, _ = child.communicate()
    figures.update(json.loads(answer))


async def talk(url: str, waits: list[float]) -> None:
    """Send a message and wait for the answer, for ever."""
    async with connect(url, origin=Target.at(url).origin, proxy=None, ping_interval=None) as connection:
        print("ready", flush=True)
        while True:
            began = time.monotonic()
            await connection.send("x")
            await connection.recv()
            waits.append(time.monotonic() - began)
            await asyncio.sleep(max(0.0, began + PERIOD - time.monotonic()))


async def main(url: str) -> None:
    waits: list[float] = []
    talking = asyncio.create_task(talk(url, waits))
    await asyncio.to_thread(sys.stdin.read)
    talking.cancel()
    waits.sort()
    figures = {"echo_p50": waits[len(waits) // 2], "echo_p99": waits[int(0.99 * len(waits))], "echo_max": waits[-1]}
    print(json.dumps(figures))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

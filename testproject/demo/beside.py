"""Clients that stay connected beside a herd, in a process of their own: how long do they wait for their answers?

``python -m demo.beside URL…`` talks to each URL until its input ends, and prints the figures as JSON, in seconds.
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from websockets.asyncio.client import connect

from .herd import Target
from .returns import echo_figures
from .servers import TESTPROJECT

PERIOD = 0.02
"""Seconds from one message to the next."""


@contextmanager
def beside(urls: Sequence[str]) -> Iterator[dict[str, float]]:
    """Figures that are there after the block; none without a URL."""
    figures: dict[str, float] = {}
    if not urls:
        yield figures
        return
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-m", "demo.beside", *urls], cwd=TESTPROJECT, **pipes) as child:
        child.stdout.readline()  # type: ignore[union-attr]
        yield figures
        answer, _ = child.communicate()
    figures.update(json.loads(answer))


async def talk(url: str, waits: list[float], ready: asyncio.Event) -> None:
    """Send a message and wait for the answer, for ever."""
    async with connect(url, origin=Target.at(url).origin, proxy=None, ping_interval=None) as connection:
        ready.set()
        while True:
            began = time.monotonic()
            await connection.send("x")
            await connection.recv()
            waits.append(time.monotonic() - began)
            await asyncio.sleep(max(0.0, began + PERIOD - time.monotonic()))


async def main(urls: Sequence[str]) -> None:
    waits: list[float] = []
    connected = [asyncio.Event() for _ in urls]
    talks = [asyncio.create_task(talk(url, waits, ready)) for url, ready in zip(urls, connected, strict=True)]
    await asyncio.gather(*(ready.wait() for ready in connected))
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for each in talks:
        each.cancel()
    print(json.dumps(echo_figures(waits)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))

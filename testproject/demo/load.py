"""A consumer that overloads its worker on order, for the tests of shedding."""

import asyncio
import json
import mmap
import os
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from .consumers import EchoConsumer

BIT = 1 << 17
"""Bytes."""
tasks: set[asyncio.Task[None]] = set()


class LoadConsumer(EchoConsumer):
    """Takes JSON orders, and echoes everything else.

    ``{"block": seconds, "rest": seconds, "times": count}`` blocks the event loop so many times, after
    a rest before each. ``{"allocate": bytes, "seconds": …}`` holds so much memory for so long. Both go
    on after the connection has ended. ``{"hold": bytes, "more": bytes, "seconds": …}`` holds ``hold``
    bytes at once and ``more`` bytes gradually in that time, and frees all when the connection ends.
    """

    held: mmap.mmap | None = None

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        if text_data is None or not text_data.startswith("{"):
            await super().receive(text_data, bytes_data)
            return
        order = json.loads(text_data)
        if "block" in order:
            _begin(_block(**order))
        elif "hold" in order:
            _begin(self._hold(**order))
        else:
            _begin(_allocate(**order))
        await self.send("begun")

    async def disconnect(self, code: int) -> None:
        if self.held is not None:
            self.held.close()

    async def _hold(self, hold: int, more: int, seconds: float) -> None:
        # Pages of its own, which the kernel has back at once when they are closed, as from no allocator.
        self.held = mmap.mmap(-1, hold + more, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.held.write(b"\1" * hold)
        for _ in range(more // BIT):
            await asyncio.sleep(seconds * BIT / more)
            if self.held.closed:
                return
            self.held.write(b"\1" * BIT)


class HoardConsumer(EchoConsumer):
    """Echoes, and allocates as many bytes as the variable ``HOARD`` says once it has accepted."""

    hoard = b""

    async def connect(self) -> None:
        await super().connect()
        self.hoard = b"\1" * int(os.environ.get("HOARD", "0"))


def marked() -> float:
    """A monitor: 1 in the worker whose process id is in the file ``MARKED``, else 0."""
    return float(Path(os.environ["MARKED"]).read_text() == str(os.getpid()))


def _begin(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(work)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


async def _block(block: float, rest: float, times: int) -> None:
    for _ in range(times):
        # So that an answer to the order is under way before the first block.
        await asyncio.sleep(rest)
        time.sleep(block)


async def _allocate(allocate: int, seconds: float) -> None:
    # Written to, since pages that are only reserved take no memory; a block so large is unmapped at once when freed.
    held = b"\1" * allocate
    await asyncio.sleep(seconds)
    del held

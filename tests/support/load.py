"""Load from a process of its own: echoes on connections held open, or a storm of handshakes that are refused.

``python load.py echo PORT COUNT RATE`` opens COUNT WebSockets and waits for lines on its standard
input, each a number of seconds: for so long every WebSocket sends RATE echoes a second, and a line of
JSON then tells how long they took. ``python load.py storm PORT COUNT SECONDS`` is COUNT clients of whom
each opens a WebSocket once a second, and tells the number of times each close code was seen.
Both take a list of ports, joined by commas.
"""

import asyncio
import base64
import json
import os
import random
import struct
import sys
import time
from collections import Counter
from itertools import chain

from websockets.asyncio.client import connect

HOST = "127.0.0.1"
HANDSHAKE = (
    "GET /ws/echo/ HTTP/1.1\r\nHost: {host}:{port}\r\nOrigin: http://{host}:{port}\r\nUpgrade: websocket\r\n"
    "Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
CLOSE = 0x88
MASKED = 0x80


async def refused(port: int) -> int:
    """The close code of one handshake, told by a client as cheap as can be, so that the servers have the machine."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(HANDSHAKE.format(host=HOST, port=port, key=key).encode())
        await reader.readuntil(b"\r\n\r\n")
        opcode, length, code = struct.unpack(">BBH", await reader.readexactly(4))
        if opcode != CLOSE:
            return 0
        await reader.readexactly(length - 2)
        writer.write(struct.pack(">BBIH", CLOSE, MASKED | 2, 0, code))
        return code
    finally:
        writer.close()


async def storm(ports: list[int], count: int, seconds: float) -> None:
    codes: Counter[str] = Counter()
    until = time.monotonic() + seconds

    async def knock(number: int) -> None:
        await asyncio.sleep(random.random())
        while time.monotonic() < until:
            started = time.monotonic()
            codes[str(await refused(ports[number % len(ports)]))] += 1
            await asyncio.sleep(started + random.uniform(0.9, 1.1) - time.monotonic())

    await asyncio.gather(*(knock(number) for number in range(int(count))))
    print(json.dumps(codes), flush=True)


async def echo(ports: list[int], count: int, rate: float) -> None:
    sockets = []
    for number in range(int(count)):
        origin = f"{HOST}:{ports[number % len(ports)]}"
        options = {"origin": f"http://{origin}", "compression": None, "ping_interval": None}
        sockets.append(await connect(f"ws://{origin}/ws/echo/", **options))
    print(json.dumps("open"), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        times = await asyncio.gather(*(echoes(socket, rate, float(line)) for socket in sockets))
        print(json.dumps(percentiles(list(chain.from_iterable(times)))), flush=True)


async def echoes(socket, rate: float, seconds: float) -> list[float]:
    times = []
    await asyncio.sleep(random.random() / rate)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        started = time.monotonic()
        await socket.send("still here")
        await socket.recv()
        times.append(time.monotonic() - started)
        await asyncio.sleep(1 / rate)
    return times


def percentiles(times: list[float]) -> dict[str, float]:
    """Milliseconds."""
    times.sort()
    at = {f"p{percent}": times[len(times) * percent // 100] * 1000 for percent in (50, 99)}
    return {"count": len(times), **at, "most": times[-1] * 1000}


if __name__ == "__main__":
    kind, ports, *numbers = sys.argv[1:]
    asyncio.run({"echo": echo, "storm": storm}[kind]([int(port) for port in ports.split(",")], *map(float, numbers)))

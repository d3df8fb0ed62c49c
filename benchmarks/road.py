"""``python -m benchmarks.road PORT MILLISECONDS``: a road to Redis that takes so long both ways together.

It prints the port of its own, and ends with its standard input.
"""

import asyncio
import sys

HOST = "127.0.0.1"
CHUNK = 65536


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    while data := await reader.read(CHUNK):
        if seconds:
            loop.call_later(seconds, writer.write, data)
        else:
            writer.write(data)
    loop.call_later(seconds, writer.close)


async def main(port: int, seconds: float) -> None:
    """Each way takes half of ``seconds``."""

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(HOST, port)
        await asyncio.gather(_carry(reader, back, seconds / 2), _carry(there, writer, seconds / 2))

    server = await asyncio.start_server(accept, HOST, 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), float(sys.argv[2]) / 1000))

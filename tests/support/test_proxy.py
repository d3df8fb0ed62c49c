"""The faults of the proxy do what they say, or the tests that use it would prove nothing."""

import asyncio
import time
from contextlib import suppress

import pytest

from support.proxy import HOST, Proxy


@pytest.fixture
async def heard():
    """What a server has heard; it answers each line with the same."""
    lines: list[bytes] = []

    async def serve(reader, writer):
        while line := await reader.readline():
            lines.append(line)
            writer.write(line)
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    lines_and_port = lines, server.sockets[0].getsockname()[1]
    yield lines_and_port
    server.close()


@pytest.fixture
async def road(heard):
    """The proxy, a connection over it to the server, and what the server has heard."""
    lines, port = heard
    async with Proxy(port) as proxy:
        reader, writer = await asyncio.open_connection(HOST, proxy.port)
        yield proxy, reader, writer, lines
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def say(reader, writer, line: bytes, timeout: float = 0.2) -> bytes | None:
    writer.write(line)
    try:
        async with asyncio.timeout(timeout):
            return await reader.readline()
    except TimeoutError:
        return None


async def test_without_a_fault_everything_passes(road):
    _, reader, writer, heard = road
    assert await say(reader, writer, b"one\n") == b"one\n"
    assert heard == [b"one\n"]


async def test_a_slow_road_takes_its_time_each_way(road):
    proxy, reader, writer, _ = road
    with proxy.slow(0.05):
        began = time.monotonic()
        assert await say(reader, writer, b"one\n") == b"one\n"
        assert 0.1 <= time.monotonic() - began < 0.2
    assert await say(reader, writer, b"two\n", timeout=0.04) == b"two\n"


async def test_swallowed_replies_never_come(road):
    proxy, reader, writer, heard = road
    with proxy.swallowing_replies():
        assert await say(reader, writer, b"one\n") is None
        assert heard == [b"one\n"]
    assert await say(reader, writer, b"two\n") == b"two\n"


async def test_a_cut_road_delivers_later(road):
    proxy, reader, writer, heard = road
    with proxy.cut():
        assert await say(reader, writer, b"one\n") is None
        assert heard == []
    assert await reader.readline() == b"one\n"


async def test_a_reset_ends_every_connection(road):
    proxy, reader, writer, _ = road
    await say(reader, writer, b"one\n")
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await reader.readline()
    again = await asyncio.open_connection(HOST, proxy.port)
    assert await say(*again, b"two\n") == b"two\n"
    again[1].close()
    await again[1].wait_closed()

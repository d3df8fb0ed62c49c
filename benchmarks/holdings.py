"""The cost of open connections: memory of the worker, CPU while idle, and CPU per message.

Also the load on the ledger as connections start and end: calls, and bytes on the wire.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from channels_admission.ledger.base import SETTLING

from .crowd import Client, enter, leave, rush
from .machine import cpu_time
from .stage import WARM_UP, Server, stage

ALL_AT_ONCE = 1000
"""Clients of the herd whose calls are counted; each stays until all are admitted."""
FEW = 20
CALM = 1.5
"""Seconds after which everything has been reported to the ledger."""
HEARTBEAT = 30
TEXT = b"a message of thirty-two letters."
SPEAKERS = 20


@dataclass(frozen=True, slots=True)
class Plan:
    held: int
    """Connections held open by each server."""
    idle: float
    """Seconds."""
    crowds: int
    """How often."""
    messages: int
    rounds: int


FULL = Plan(held=5000, idle=10.0, crowds=3, messages=10_000, rounds=11)
QUICK = Plan(held=1000, idle=3.0, crowds=1, messages=2_000, rounds=3)


async def measure_memory(names: Sequence[str], loop: str, plan: Plan) -> dict[str, dict[str, float]]:
    """By contender: ``worker`` bytes without connections, ``slot`` bytes per connection, ``idle`` CPU ms per minute."""
    crowds = [await _hold_each(names, loop, plan) for _ in range(plan.crowds)]
    return {
        name: {what: statistics.median(crowd[name][what] for crowd in crowds) for what in crowds[0][name]}
        for name in names
    }


async def _hold_each(names: Sequence[str], loop: str, plan: Plan) -> dict[str, dict[str, float]]:
    """Measure in new servers: memory that an earlier crowd has left would hide what the next one takes."""
    with stage(names, loop) as scene:
        return {name: await _hold(server, plan) for name, server in scene.servers.items()}


async def _hold(server: Server, plan: Plan) -> dict[str, float]:
    await rush(server.port, FEW, 1, hopes=True)
    await server.cpu()
    empty = server.memory()
    clients = await enter(server.port, plan.held)
    await server.cpu()
    slot = (server.memory() - empty) / plan.held
    await asyncio.sleep(CALM)
    before, started = cpu_time(server.pid), time.monotonic()
    await asyncio.sleep(plan.idle)
    idle = (cpu_time(server.pid) - before) * 1000 * 60 / (time.monotonic() - started)
    await leave(clients)
    return {"worker": empty, "slot": slot, "idle": idle}


async def measure_messages(names: Sequence[str], loop: str, plan: Plan) -> dict[str, list[float]]:
    """Microseconds of the server's CPU per echoed message, one figure per round."""
    with stage(names, loop) as scene:
        speakers = {name: await enter(server.port, SPEAKERS) for name, server in scene.servers.items()}
        found: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(plan.rounds):
            for name in random.sample(names, len(names)):
                found[name].append(await _speak(scene.servers[name], speakers[name], plan.messages))
        for crowd in speakers.values():
            await leave(crowd)
        return found


async def _speak(server: Server, clients: list[Client], messages: int) -> float:
    each = messages // len(clients)

    async def speak(client: Client) -> None:
        for _ in range(each):
            await client.echo(TEXT)

    before = await server.cpu()
    await asyncio.gather(*map(speak, clients))
    return (await server.cpu() - before) / (each * len(clients)) * 1e6


async def measure_calls(loop: str, *, settled: bool) -> dict[str, Any]:
    """Ledger calls and bytes per connection, and the ledger's memory with and without connections.

    Heartbeats are half a minute apart, so that only connections cause the calls. ``settled``: wait until the ledger has
    settled, for which it waits for all heartbeats; before that no worker has a reserve, and a trickle asks each time.
    """
    with stage(["middleware"], loop, HEARTBEAT=HEARTBEAT, LEASE=180) as scene:
        (server,) = scene.servers.values()
        await rush(server.port, WARM_UP, 50, hopes=True)
        await asyncio.sleep(SETTLING * HEARTBEAT + CALM if settled else CALM)
        scene.bytes()
        asked = -scene.bytes() + scene.bytes()
        found: dict[str, Any] = {"memory": [scene.memory()]}

        async def counted(name: str, count: int, coming: Any) -> Any:
            calls, sizes = scene.calls(), scene.bytes()
            result = await coming
            await asyncio.sleep(CALM)
            sizes = scene.bytes() - sizes - asked
            found[name] = {"calls": (scene.calls() - calls) / count, "bytes": sizes / count, "count": count}
            return result

        clients = await counted("coming", ALL_AT_ONCE, enter(server.port, ALL_AT_ONCE))
        found["memory"].append(scene.memory())
        await counted("going", ALL_AT_ONCE, leave(clients))
        await counted("herd", ALL_AT_ONCE * 3, rush(server.port, ALL_AT_ONCE * 3, ALL_AT_ONCE, hopes=True))
        await counted("trickle", 300, rush(server.port, 300, 1, hopes=True))
        await counted("sparse", 20, rush(server.port, 20, 1, hopes=True, pause=0.2))
        return found

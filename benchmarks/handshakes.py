"""The cost of a handshake: the CPU time of the server's process per connection, from start to end.

All contenders are measured in turn, in a new order each round, and compared within a round.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from .crowd import rush
from .machine import cpu_time
from .stage import WARM_UP, Stage, stage


@dataclass(frozen=True, slots=True)
class Pattern:
    """How clients arrive: their number, how many at a time, and the pause in seconds after each."""

    count: int
    in_flight: int
    pause: float = 0.0


@dataclass(frozen=True, slots=True)
class Plan:
    patterns: dict[str, Pattern]
    rounds: int


FULL = Plan({"herd": Pattern(1000, 200), "trickle": Pattern(300, 1)}, 9)
QUICK = Plan({"herd": Pattern(400, 200), "trickle": Pattern(100, 1)}, 3)
SPARSE = {"sparse": Pattern(20, 1, 0.2)}
"""One at a time, so far apart that no call to the ledger serves two."""

Times = dict[str, dict[str, list[float]]]
"""By contender: ``cpu``, microseconds per connection, and ``rate``, connections per second, of each round."""


async def measure(names: Sequence[str], loop: str, plan: Plan) -> dict[str, Times]:
    """By pattern."""
    with stage(names, loop) as scene:
        for server in scene.servers.values():
            await rush(server.port, WARM_UP, 50, not server.contender.refuses)
            await server.cpu()
        found: dict[str, Times] = {
            pattern: {name: {"cpu": [], "rate": []} for name in names} for pattern in plan.patterns
        }
        for _ in range(plan.rounds):
            for pattern, times in found.items():
                for name in random.sample(names, len(names)):
                    cpu, rate = await _one(scene, name, plan.patterns[pattern])
                    times[name]["cpu"].append(cpu)
                    times[name]["rate"].append(rate)
        return found


async def _one(scene: Stage, name: str, pattern: Pattern) -> tuple[float, float]:
    server = scene.servers[name]
    before = cpu_time(server.pid)  # idle since its last measurement
    seen = await rush(server.port, pattern.count, pattern.in_flight, not server.contender.refuses, pattern.pause)
    used = await server.cpu() - before
    if set(seen.seen) != {server.contender.seen}:
        raise RuntimeError(f"The clients of {name} saw {dict(seen.seen)}.")
    return used / pattern.count * 1e6, pattern.count / seen.seconds

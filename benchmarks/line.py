"""``python -m benchmarks.line``: do clients that keep to the hint and hand back their ticket get in first?

Real servers, and in one herd clients with tickets, clients that come every half second, and some that never come back.
For each group it prints when half of it and 99 % were in, beside the ideal, and the attempts of each client. With
``--plot`` it draws a ``--mix`` of your own, as in the README.
"""

import argparse
import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .returning import OTHER_FILES, Herd
from demo.clients import allow_sockets
from demo.options import Mix, mix, positive, rules_of
from demo.returns import Return, ideal_by_rate, ideal_by_slots
from demo.rules import RULES
from demo.sites import DEFAULTS, site

RATE = {"CONNECT_RATE": 100}
SLOTS = {"MAX_CONNECTIONS": 200}
STAY = 3.0


@dataclass(frozen=True, slots=True)
class Scene:
    """A herd, and the settings of its servers."""

    groups: Mix
    settings: dict[str, int] = field(default_factory=RATE.copy)
    stay: float | None = None
    """How long each client keeps its slot; None for ever."""

    @property
    def ideal(self) -> float:
        """When 99 % could be in."""
        if self.stay is not None:
            return ideal_by_slots(self.groups, self.settings["MAX_CONNECTIONS"], self.stay)
        return ideal_by_rate(self.groups, self.settings["CONNECT_RATE"])


SCENES = {
    "5 % hammer": Scene({"ticket": 1140, "hammer": 60}),
    "50 % hammer": Scene({"ticket": 600, "hammer": 600}),
    "95 % hammer": Scene({"ticket": 60, "hammer": 1140}),
    "a third never comes back": Scene({"ticket": 400, "gone": 200, "hammer": 600}),
    "hint alone": Scene({"hint": 2000}, {"CONNECT_RATE": 200}),
    "full pool": Scene({"ticket": 300, "hammer": 300}, SLOTS, STAY),
    "full pool, hint alone": Scene({"hint": 600}, SLOTS, STAY),
}


async def run(ports: Sequence[int], scene: Scene, seconds: float) -> Herd:
    herd = Herd(ports, "/ws/echo/", rules_of(scene.groups), stay=scene.stay, roams=True)
    await herd.run(seconds)
    return herd


def returns(herd: Herd, scene: Scene) -> list[Return]:
    """That of each group."""
    return [
        Return(RULES[name], count, herd.times(RULES[name]), herd.attempts[name], Counter(), None)
        for name, count in scene.groups.items()
    ]


def figures(found: Iterable[Return], scene: Scene) -> Iterator[dict[str, Any]]:
    """Those of each group."""
    for each in found:
        back = {f"{share} %": each.until(share / 100) for share in (50, 99)}
        ratio = {"ideal": scene.ideal, "attempts": each.per_client}
        yield {"rule": each.rule.name, "clients": each.clients, **back, **ratio}


def lines(name: str, found: Iterator[dict[str, Any]]) -> Iterator[str]:
    """Rows of a Markdown table."""
    for each in found:
        late = each["99 %"]
        ratio = "–" if late is None else f"{late / each['ideal']:.2f} ×"
        times = " | ".join("–" if each[share] is None else f"{each[share]:.1f} s" for share in ("50 %", "99 %"))
        yield (
            f"| {name} | `{each['rule']}` | {each['clients']:,} | {times} | {each['ideal']:.1f} s | {ratio} "
            f"| {each['attempts']:.2f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.line", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--scene", action="append", choices=SCENES, help="may be given several times; all by default")
    parser.add_argument("--mix", type=mix, help="a herd of your own, such as ticket=400,hammer=400")
    parser.add_argument("--rate", type=positive, default=100, help="admissions a second of that herd (%(default)s)")
    parser.add_argument("--plot", type=Path, help="the picture of that herd")
    parser.add_argument("--server", default="uvicorn")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=75, help="the longest to watch")
    parser.add_argument("--settings", type=json.loads, default={}, help="further settings, as JSON")
    options = parser.parse_args()
    if options.plot and not options.mix:
        parser.error("--plot needs a --mix")
    print("| herd | rule | clients | 50 % back | 99 % | ideal | of it | attempts each |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    if options.mix:
        scenes = {"mixed": Scene(options.mix, {"CONNECT_RATE": options.rate})}
    else:
        scenes = {name: SCENES[name] for name in options.scene or SCENES}
    for name, scene in scenes.items():
        allow_sockets(sum(scene.groups.values()), OTHER_FILES)
        keys = {**DEFAULTS, **scene.settings, **options.settings}
        with site(options.server, options.workers, keys) as workers:
            herd = asyncio.run(run(workers.ports, scene, options.seconds))
        found = returns(herd, scene)
        print(*lines(name, figures(found, scene)), sep="\n", flush=True)
        if options.plot:
            from .picture import draw_mixed  # needs matplotlib

            clients = f"{sum(scene.groups.values()):,} clients at once, {options.workers} workers"
            rate = f"{scene.settings['CONNECT_RATE']} admissions a second"
            draw_mixed(found, scene.ideal, f"{clients}, {rate}, ideally {scene.ideal:.1f} s", options.plot)


if __name__ == "__main__":
    main()

"""``python -m benchmarks.foreign``: what other libraries do with a refusal, as a table in Markdown.

Each client runs in a pool of one slot that is held for 25 seconds, which refuses by a close frame, in another one that
refuses by HTTP 503, in one that refuses by a close frame and holds nobody, and in a pool with room that closes it once
with 1012 and a hint of four seconds. Takes a quarter of an hour. Needs Node, npm, Chromium, and for gql its package.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from .measuring import FULL, LATER, Client, Seen, install, measure

NODE = ("graphql-ws", "subscriptions-transport-ws", "partysocket", "reconnecting-websocket")
CHROMIUM = ("htmx-2", "htmx-4", "phoenix", "SignalR", "ActionCable", "Turbo", "robust-websocket")
PYTHON = ("gql", "websockets")
PACKAGES = {
    "htmx-2": "htmx-ext-ws",
    "htmx-4": "htmx4",
    "SignalR": "@microsoft/signalr",
    "ActionCable": "@rails/actioncable",
    "Turbo": "@hotwired/turbo",
}
AT_A_TIME = {"node": 4, "chromium": 2, "python": 1}
"""Clients, each with three or four processes."""
HAMMERING = "robust-websocket"
"""Runs alone, as each Python program does."""


def everyone() -> list[Client]:
    clients = [Client(name + more, "node") for more in ("", "+") for name in NODE]
    clients += [Client(name + more, "chromium") for more in ("", "+") for name in CHROMIUM]
    return clients + [Client(name, "python") for name in PYTHON]


def rounds(clients: Sequence[Client]) -> Iterator[list[Client]]:
    """The clients that run at the same time."""
    for runtime, most in AT_A_TIME.items():
        some = [each for each in clients if each.runtime == runtime and each.name != HAMMERING]
        yield from (some[first : first + most] for first in range(0, len(some), most))
    yield from ([each] for each in clients if each.name == HAMMERING)


def table(seen: Mapping[str, Mapping[str, Seen]], versions: Mapping[str, str]) -> Iterator[str]:
    first = f"| client | 1013: attempts in {FULL:.0f} s | then one every | without a hold | got in"
    yield f"{first} | 503: attempts | got in | back after 1012 | hint |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
    for name, kinds in seen.items():
        close, http, restart = kinds["close"], kinds["http"], kinds["restart"]
        back = "never" if restart.returned is None else f"{restart.returned:.1f} s"
        then = "–" if close.interval is None else f"{close.interval:.1f} s"
        unheld = f"{kinds['unheld'].while_full:,}" if "unheld" in kinds else ""
        cells = [str(close.while_full), then, unheld, _entered(close), str(http.while_full), _entered(http), back]
        yield f"| {versions[name]} | {' | '.join(cells)} | {'heeded' if close.heeds else 'not'} |"


def _entered(seen: Seen) -> str:
    """After how many seconds with room; a client whose attempts go on may still come."""
    if seen.entered is not None:
        return f"{seen.entered:.1f} s"
    return f"after {LATER:.0f} s" if seen.goes_on else "never"


def described(client: Client, modules: Path) -> str:
    """The name of a client with the version of its library, as it is installed."""
    name = client.name.removesuffix("+")
    package = PACKAGES.get(name, name)
    if client.runtime == "python":
        return f"{name} {metadata.version(name)}"
    found = json.loads((modules / package / "package.json").read_text())["version"]
    return f"{name} {found}{' with the lines below' * client.name.endswith('+')}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.foreign", description=__doc__)
    parser.add_argument("--folder", type=Path, help="where the libraries are kept between two runs")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these clients; a + after a name is its adapter")
    parser.add_argument("--settings", type=json.loads, default={}, help="further settings of the pools, in JSON")
    args = parser.parse_args(arguments)
    clients = [each for each in everyone() if not args.only or each.name in args.only]
    seen: dict[str, Mapping[str, Seen]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for some in rounds(clients):
            seen |= measure(some, folder, args.settings)
        versions = {client.name: described(client, install(folder)) for client in clients}
    print("\n".join(table(seen, versions)))


if __name__ == "__main__":
    main()

"""Run foreign clients against a real server, each in pools of its own, and read what the server has recorded."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from websockets.sync.client import connect

from demo.servers import Redis, Workers

HERE = Path(__file__).parent
STATIC = HERE.parent.parent / "channels_admission" / "static" / "channels_admission"
FULL, LATER = 25.0, 15.0
"""Seconds for which a pool is full, and for which a client may come after that."""
START = 30.0
"""Seconds within which each client must have begun."""
RETRY_AFTER = (4, 8)
TOLERANCE = 0.5
"""Seconds by which an attempt may miss the hint and still heed it."""
POOLS: Mapping[str, Mapping[str, Any]] = {
    "close": {"REFUSE_WITH": "close"},
    "http": {"REFUSE_WITH": "http"},
    "restart": {"REFUSE_WITH": "close"},
    "unheld": {"REFUSE_WITH": "close", "REFUSAL_HOLD": 0},
}
"""The pools of each client, with their settings; in ``restart`` there is room."""
CHROMIUM = (
    "chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Client:
    """A client and its adapter: ``+`` at the end of the name."""

    name: str
    runtime: str
    """``node``, ``chromium`` or ``python``."""

    @property
    def kinds(self) -> list[str]:
        """The pools that it runs in. One with an adapter shows its ticket, and is never held."""
        return [kind for kind in POOLS if kind != "unheld" or not self.name.endswith("+")]

    def pool(self, kind: str) -> str:
        return f"{self.name.lower().replace('+', '-a')}-{kind}"

    def command(self, url: str, origin: str, modules: Path, profile: str) -> list[str]:
        if self.runtime == "python":
            return [sys.executable, "-m", "benchmarks.foreign.programs", self.name, url]
        if self.runtime == "node":
            return ["node", str(modules / "clients.mjs"), self.name, url]
        return [*CHROMIUM, f"--user-data-dir={profile}", f"{origin}/page/{self.name}?{url}"]


@dataclass(frozen=True, slots=True)
class Seen:
    """The attempts of a client in one pool, and the time at which its slot came free, if it was full."""

    attempts: Sequence[Mapping[str, Any]]
    room: float

    @property
    def while_full(self) -> int:
        """Attempts in the first ``FULL`` seconds; the pool stays full for longer, until the last client has begun."""
        return sum(each["at"] < min(self.room, self.attempts[0]["at"] + FULL) for each in self.attempts)

    @property
    def interval(self) -> float | None:
        """Seconds from one attempt to the next, from half of ``FULL`` on until there is room; None without two."""
        later = [each["at"] for each in self.attempts if self.attempts[0]["at"] + FULL / 2 <= each["at"] < self.room]
        return (later[-1] - later[0]) / (len(later) - 1) if len(later) > 1 else None

    @property
    def entered(self) -> float | None:
        """Seconds from the room to the first admission."""
        return next((each["at"] - self.room for each in self.attempts if each["admitted"]), None)

    @property
    def waits(self) -> list[tuple[float, float | None]]:
        """From the end of each attempt to the next one, and the hint."""
        pairs = zip(self.attempts, self.attempts[1:], strict=False)
        return [(after["at"] - before["ended"], before["hint"]) for before, after in pairs if "ended" in before]

    @property
    def heeds(self) -> bool:
        """Whether no attempt came before the time of its hint, and all soon after."""
        told = [(wait, hint) for wait, hint in self.waits if hint is not None]
        return bool(told) and all(-0.1 <= wait - hint <= TOLERANCE for wait, hint in told)

    @property
    def goes_on(self) -> bool:
        """Whether it may still come: its last attempt was less than ``FULL`` ago."""
        return bool(self.attempts) and self.room + LATER - self.attempts[-1]["at"] < FULL

    @property
    def returned(self) -> float | None:
        """Seconds from the end of an open connection to the next attempt."""
        pairs = zip(self.attempts, self.attempts[1:], strict=False)
        return next((b["at"] - a["ended"] for a, b in pairs if a["admitted"] and "ended" in a), None)


def install(folder: Path) -> Path:
    """Install the libraries in the folder, if they are not there; the folder of their files."""
    for name in ("package.json", "package-lock.json", "clients.mjs"):
        shutil.copy(HERE / name, folder)
    if not (folder / "node_modules").exists():
        subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, check=True)
    return folder / "node_modules"


def measure(clients: Sequence[Client], folder: Path, settings: Mapping[str, Any]) -> dict[str, dict[str, Seen]]:
    """What each client did in each of its pools; the clients run at the same time."""
    modules = install(folder)
    pools = {
        client.pool(kind): {"MAX_CONNECTIONS": 1, "RETRY_AFTER": RETRY_AFTER, **settings, **POOLS[kind]}
        for client in clients
        for kind in client.kinds
    }
    with Redis() as redis, ExitStack() as stack:
        options = {"LEDGER": redis.url, "POOLS": pools, "HEARTBEAT": 1}
        application = "benchmarks.foreign.application:application"
        paths = os.pathsep.join([str(HERE.parent.parent), str(HERE.parent.parent / "testproject")])
        env = {"FOREIGN_MODULES": str(modules), "PYTHONPATH": paths}
        workers = Workers("uvicorn", 1, redis_url=redis.url, settings=options, application=application, env=env)
        running = stack.enter_context(workers)
        url = running.origin.replace("http", "ws", 1) + "/ws/{}"
        full = [client.pool(kind) for client in clients for kind in client.kinds if kind != "restart"]
        with ExitStack() as holders:
            for pool in full:
                holders.enter_context(_holder(url.format(pool) + "/?holder", running.origin))
            for client in clients:
                for kind in client.kinds:
                    profile = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
                    command = client.command(url.format(client.pool(kind)) + "/", running.origin, folder, profile)
                    stack.enter_context(_process(command, folder))
            _wait(running.origin, {client.pool(kind) for client in clients for kind in client.kinds})
            time.sleep(FULL)
        room = time.time()
        time.sleep(LATER)
        seen = _seen(running.origin)
    return {
        client.name: {kind: Seen(seen.get(client.pool(kind), []), room) for kind in client.kinds} for client in clients
    }


def _seen(origin: str) -> dict[str, Any]:
    with urlopen(f"{origin}/seen/") as answer:
        return json.load(answer)


def _wait(origin: str, pools: Set[str]) -> None:
    """Until each client has made its first attempt."""
    deadline = time.monotonic() + START
    while missing := pools - _seen(origin).keys():
        if time.monotonic() > deadline:
            raise TimeoutError(f"No attempt of {', '.join(sorted(missing))} within {START} s.")
        time.sleep(0.2)


@contextmanager
def _holder(url: str, origin: str) -> Iterator[None]:
    with connect(url, origin=origin, proxy=None) as connection:
        connection.send("here")
        connection.recv(10)
        yield


@contextmanager
def _process(command: Sequence[str], folder: Path) -> Iterator[None]:
    env = {**os.environ, "ADMISSION_STATIC": str(STATIC)}
    with (folder / "clients.log").open("ab") as log:
        told = subprocess.DEVNULL if command[0] == CHROMIUM[0] else log
        process = subprocess.Popen(command, env=env, stdout=log, stderr=told)
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

"""``manage.py demo``: a crowd of clients, and three workers with one limit."""

import asyncio
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen
from threading import Event
from types import FrameType
from typing import Any

from django.core.management.base import CommandError, CommandParser
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from channels_admission.management.base import AdmissionCommand

from demo.clients import Client, by_refusal, by_worker, crowd
from demo.consumers import HERD
from demo.options import REDIS_HELP, port, positive
from demo.redises import GivenRedis, ServerFailed, find_redis
from demo.servers import SERVING, TESTPROJECT, Workers
from demo.stage import ADMINISTRATOR, PASSWORD, stage
from demo.views import RESTARTER

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TRY_AGAIN_LATER = 1013
MOST_IN_HERD = 400
"""Clients of the herd whose command is printed."""
RUSH = 0.5
"""Seconds within which the crowd arrives; if all arrived at once, one worker would often get every slot."""
HEARTBEAT = 0.5
"""Seconds between the workers' reports: short, so that ``ws_status`` soon shows every refusal."""
WATCH = 0.5
"""Seconds between checks that the workers still run."""


class Command(AdmissionCommand):
    help = (
        "Start Redis and several ASGI workers, let more clients connect than there are slots, and show what each saw."
    )
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--server", choices=SERVING, default="uvicorn", help="the ASGI server (%(default)s)")
        parser.add_argument("--clients", type=positive, default=200, help="clients in the crowd (%(default)s)")
        parser.add_argument("--limit", type=positive, default=50, help="MAX_CONNECTIONS (%(default)s)")
        parser.add_argument("--workers", type=positive, default=3, help="worker processes (%(default)s)")
        parser.add_argument("--rate", type=positive, default=20, help="the page's CONNECT_RATE (%(default)s)")
        parser.add_argument("--herd-limit", type=positive, default=150, help="the page's MAX_CONNECTIONS (%(default)s)")
        parser.add_argument("--redis", metavar="URL", help=REDIS_HELP)
        parser.add_argument("--port", type=port, default=0, help="the port to serve on (any free one)")
        parser.add_argument(
            "--once", action="store_true", help="end after the crowd; exit code 1 if the limit did not hold"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        self._colour = ("--no-color",) if options["no_color"] else ()
        self.console = Console(highlight=False, no_color=False, color_system=None if options["no_color"] else "auto")
        self._wish = Event()
        signal.signal(signal.SIGUSR1, lambda number, frame: self._wish.set())
        with ExitStack() as stack:
            stack.enter_context(_stoppable())
            try:
                self._show(stack, **options)
            except KeyboardInterrupt:
                sys.exit(130)
            except (ServerFailed, OSError) as error:
                raise CommandError(error) from error

    def _show(
        self,
        stack: ExitStack,
        *,
        server: str,
        clients: int,
        limit: int,
        workers: int,
        port: int,
        once: bool,
        rate: int,
        herd_limit: int,
        redis: str | None,
        **_: Any,
    ) -> None:
        given = None if redis is None else stack.enter_context(GivenRedis(redis))
        own = "" if given else f"{Path(find_redis()).name} and "
        self.console.print(f"Starting {own}{workers} {server} workers …", style="dim")
        herd = {"MAX_CONNECTIONS": herd_limit, "CONNECT_RATE": rate, "CONNECT_BURST": rate, "RETRY_AFTER": [0.5, 60]}
        settings = {"MAX_CONNECTIONS": limit, "HEARTBEAT": HEARTBEAT, "POOLS": {HERD: herd}}
        more = {RESTARTER: str(os.getpid())}
        running = stack.enter_context(stage(server, workers, settings, port, more, given=given))
        stack.callback(_ignore_signals)
        with _cancelling():
            problems = asyncio.run(self._meet(running, clients, limit))
        if problems:
            raise CommandError("This is not as it must be: " + "; ".join(problems) + ".\n" + running.log())
        self.console.print("\n[green]✓[/] The limit held: every client beyond it was told to try again later.\n")
        if not once:
            self._serve(running, _herd(running, herd_limit, rate))

    async def _meet(self, running: Workers, count: int, limit: int) -> list[str]:
        """Connect the crowd, print its results and the status, and return what is wrong."""
        self.console.print(
            f"\n[bold]{count} clients[/] come within {RUSH:g} s to "
            f"[bold]{running.count} {running.server} workers[/] with one limit of [bold]{limit}[/]\n"
        )
        async with crowd(running.origin, "/ws/echo/", count, RUSH) as clients:
            self.console.print(_table(clients, running.pids))
            await asyncio.sleep(2 * HEARTBEAT)
            self.console.print("\n[bold]manage.py ws_status[/]\n")
            exit_code = await _ws_status(running, *self._colour)
            problems = list(_problems(clients, min(limit, count)))
        if exit_code:
            problems.append(f"ws_status ended with exit code {exit_code}")
        return problems

    def _serve(self, running: Workers, herd: str) -> None:
        self.console.print(f"Demo page  [bold]{running.origin}/[/]")
        self.console.print(f"Admin      [bold]{running.origin}/admin/[/]  user {ADMINISTRATOR}, password {PASSWORD}")
        self.console.print(f"A herd     [bold]{escape(herd)}[/]", soft_wrap=True)
        self.console.print("Ctrl-C ends everything.")
        left = running.processes
        try:
            while left:
                time.sleep(WATCH)
                if self._wish.is_set():
                    self._wish.clear()
                    self._restart(running)
                    left = running.processes
                left = self._those_left(left)
        except KeyboardInterrupt:
            self.console.print()
            return
        raise CommandError("Every worker has ended.\n" + running.log())

    def _those_left(self, processes: list[Popen[bytes]]) -> list[Popen[bytes]]:
        """The processes that still run; reports the others, since a user may kill a worker to try it out."""
        left = [process for process in processes if process.poll() is None]
        for process in processes:
            if process not in left:
                self.console.print(
                    f"Worker {process.pid} has ended, and its slots come back. Workers left: {len(left)}."
                )
        return left

    def _restart(self, running: Workers) -> None:
        self.console.print("Restarting the workers …", style="dim")
        began = time.monotonic()
        running.restart()
        self.console.print(f"They serve again after {time.monotonic() - began:.1f} s.", style="dim")


def _herd(running: Workers, limit: int, rate: int) -> str:
    """The command line of a herd that leaves a third of the page's pool free."""
    url = f"{running.origin.replace('http', 'ws', 1)}/ws/herd/"
    clients = str(max(1, min(MOST_IN_HERD, limit * 2 // 3)))
    program = Path(sys.executable)
    if program.is_relative_to(Path.cwd()):
        program = program.relative_to(Path.cwd())
    return shlex.join([str(program), sys.argv[0], "ws_herd", url, "--clients", clients, "--rate", str(rate)])


def _table(clients: list[Client], workers: list[int]) -> Table:
    """The numbers of clients by result, the open ones by worker."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(min_width=48)
    table.add_column(justify="right")
    held = by_worker(clients)
    table.add_row("[green]open[/]", f"[bold]{held.total()}[/]")
    for pid in workers:
        table.add_row(f"[dim]  in worker {pid}[/]", f"[dim]{held[pid]}[/]")
    for (code, reason), number in by_refusal(clients).most_common():
        closed = f"closed with {code}" if code is not None else "failed"
        table.add_row(f"[yellow]{closed}[/] {escape(reason)}", f"[bold]{number}[/]")
    return table


async def _ws_status(running: Workers, *options: str) -> int:
    """Run ``ws_status`` in a process of its own, and return its exit code."""
    sys.stdout.flush()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "manage.py", "ws_status", *options, cwd=TESTPROJECT, env=running.env, start_new_session=True
    )
    try:
        return await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _problems(clients: list[Client], expected: int) -> Iterator[str]:
    held = by_worker(clients).total()
    if held != expected:
        yield f"{held} clients are open, not {expected}"
    for (code, reason), number in by_refusal(clients).items():
        if code != TRY_AGAIN_LATER or not reason.startswith("Try Again Later"):
            yield f"{number} clients saw {code} {reason}"


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turn the first of :data:`SIGNALS` into a KeyboardInterrupt, and ignore the rest during the clean-up."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        _ignore_signals()
        raise KeyboardInterrupt

    def pass_on(number: int, frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _cancelling() -> Iterator[None]:
    """Let asyncio turn an interrupt into a cancellation, which it only does in place of Python's own handler."""
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, ours)


def _ignore_signals() -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)

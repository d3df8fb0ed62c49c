"""Real servers in processes of their own, for the demo and the integration tests: a Redis, and ASGI workers.

Both are context managers that end whatever they started, also when starting failed half-way, and
signal no other process. Times are in seconds.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import psutil
import redis

import channels_admission

from .redises import GivenRedis, ServerFailed, find_redis

TESTPROJECT = Path(__file__).resolve().parent.parent
APPLICATION = "project.asgi:application"

START_TIMEOUT = 30.0
STOP_TIMEOUT = 3.0
"""Seconds between SIGTERM and SIGKILL; some servers wait for open WebSockets for ever."""
POLL = 0.02
BACKLOG = 2048
LOG_END = 30
"""Lines of each log shown in an error."""

SERVING = {
    "uvicorn": "Uvicorn running on",
    "daphne": "Listening on TCP address",
    "hypercorn": "Running on",
    "granian": "Started worker-",
}
"""The servers, each with the text that every worker logs once it accepts connections."""
MANAGING = {"gunicorn": "Listening at:"}
"""Servers that run uvicorn in child processes, and the text that they log."""


class Redis:
    """An empty Redis without persistence on a free port of the loopback interface.

    ``args`` are further arguments of the server, whose program is that of :func:`~.redises.find_redis`.
    """

    host = "127.0.0.1"
    settings: ClassVar[Mapping[str, str]] = {}
    """What workers need in ``CHANNELS_ADMISSION`` to use it."""

    def __init__(self, *args: str) -> None:
        self.port = 0
        self._args = args
        self.process: subprocess.Popen[bytes] | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    def __enter__(self) -> Self:
        self._temporary = tempfile.TemporaryDirectory(prefix="redis-")
        try:
            self.port = self._free_port()
            self.start()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._leave()

    def start(self) -> None:
        """Start empty on the same port as before, and wait until it answers; :exc:`ServerFailed` if it does not."""
        log = Path(self._folder(), "redis.log")
        self.process = spawn(self._command(), log)
        wait_until(self._answers, [self.process], [log], "Redis")

    def _free_port(self) -> int:
        return free_port(self.host)

    def _command(self) -> list[str]:
        return [
            find_redis(), "--port", str(self.port), "--bind", self.host,
            "--save", "", "--appendonly", "no", "--dir", self._folder(), *self._args,
        ]  # fmt: skip

    def stop(self) -> None:
        """End it at once, paused or not; its data are lost."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def restart(self) -> None:
        """Stop, and start empty on the same port."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Stop answering, with connections kept open."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        # Another Redis may have taken the port in the meantime.
        with redis.Redis(self.host, self.port, socket_timeout=1, socket_connect_timeout=1) as client:
            try:
                return bool(client.info("server")["process_id"] == self._running().pid)
            except redis.RedisError:
                return False

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise RuntimeError("Redis is not started.")
        return self.process

    def _folder(self) -> str:
        if self._temporary is None:
            raise RuntimeError("Use Redis as a context manager.")
        return self._temporary.name

    def _leave(self) -> None:
        self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()


def redis_at(url: str | None, *args: str) -> Redis | GivenRedis:
    """The running Redis at ``url``, or one to be started with ``args``."""
    return Redis(*args) if url is None else GivenRedis(url)


class Workers:
    """``count`` worker processes of an ASGI server that serve the test project.

    By default all accept on one port; with ``shared_port=False`` each has its own.
    ``settings`` becomes their ``CHANNELS_ADMISSION``, ``args`` are further arguments of the
    server, ``env`` is added to their environment, ``port`` 0 is any free one, and ``launcher`` is
    a command that runs the rest of its command line. On entering, every
    worker accepts connections, or :exc:`ServerFailed` is raised; ``OSError`` if the port is taken.
    """

    def __init__(
        self,
        server: str,
        count: int,
        *,
        redis_url: str,
        settings: Mapping[str, Any] | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        shared_port: bool = True,
        database: Path | str | None = None,
        application: str = APPLICATION,
        launcher: Sequence[str] = (),
    ) -> None:
        if server not in SERVING | MANAGING:
            raise ValueError(f"Unknown server {server!r}; known are {', '.join(SERVING | MANAGING)}.")
        if port and not shared_port:
            raise ValueError("Workers with a port each cannot all have the same one.")
        self.server = server
        self.count = count
        self.host = host
        self.shared_port = shared_port
        self.ports: list[int] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.logs: list[Path] = []
        self._args = tuple(args)
        self._launcher = tuple(launcher)
        self._port = port
        self._application = application
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.env = environment(redis_url, settings, database, env)

    @property
    def port(self) -> int:
        """The port of all workers, or of the first if each has its own."""
        return self.ports[0]

    @property
    def origins(self) -> list[str]:
        """``http://host:port`` for each port, which is also an accepted Origin."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return [f"http://{host}:{port}" for port in self.ports]

    @property
    def origin(self) -> str:
        return self.origins[0]

    @property
    def pids(self) -> list[int]:
        """The processes that run the application, in the order of the workers.

        Those of :attr:`processes`, except under Granian, whose processes there are the parents of these.
        """
        if self.server != "granian":
            return [process.pid for process in self.processes]
        return [pid for log in self.logs for pid in _granian_pids(log.read_text())]

    def __enter__(self) -> Self:
        self._temporary = tempfile.TemporaryDirectory(prefix="workers-")
        try:
            self._start()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            ended = {process.pid: code for process in self.processes if (code := process.poll()) is not None}
            error.add_note(f"Workers that had ended, and how: {ended or 'none'}. What all said last:\n{self.log()}")
        self._leave()

    def stop(self) -> None:
        """Stop all workers, and kill those that take longer than :data:`STOP_TIMEOUT`."""
        end(self.processes)

    def restart(self) -> None:
        """Stop, and start again on the same ports, which are closed in between."""
        self.stop()
        self._port = self.port
        self.ports, self.processes, self.logs = [], [], []
        self._start()

    def log(self) -> str:
        """The last lines of every worker's log."""
        return last_lines(self.logs)

    def _start(self) -> None:
        with ExitStack() as sockets:
            if self.server == "granian":
                self._start_granian()
            else:
                listeners = self._listen(sockets)
                self.ports = list(dict.fromkeys(listener.getsockname()[1] for listener in listeners))
                for listener in listeners:
                    self._start_one(_on_socket(self.server, listener.fileno()), [listener.fileno()])
            wait_until(self._all_serve, self.processes, self.logs, self.server)

    def _listen(self, sockets: ExitStack) -> list[socket.socket]:
        """A listening socket for each worker, the same one for all on a shared port."""
        if self.shared_port:
            return [sockets.enter_context(listen(self.host, self._port))] * self.count
        return [sockets.enter_context(listen(self.host)) for _ in range(self.count)]

    def _start_granian(self) -> None:
        """Granian accepts no inherited socket, and shares its own among its children."""
        per_process = self.count if self.shared_port else 1
        for _ in range(self.count // per_process):
            port = free_port(self.host, self._port)
            self.ports.append(port)
            self._start_one(_granian(self.host, port, per_process))

    def _start_one(self, command: Sequence[str], fds: Sequence[int] = ()) -> None:
        log = Path(self._folder(), f"{self.server}-{len(self.processes) + 1}.log")
        self.logs.append(log)
        command = [*self._launcher, sys.executable, "-m", *command, *self._args, self._application]
        self.processes.append(spawn(command, log, self.env, fds))

    def _all_serve(self) -> bool:
        said = sum(log.read_text().count((SERVING | MANAGING)[self.server]) for log in self.logs)
        return said >= self.count and all(accepts(self.host, port) for port in self.ports)

    def _folder(self) -> str:
        if self._temporary is None:
            raise RuntimeError("Use Workers as a context manager.")
        return self._temporary.name

    def _leave(self) -> None:
        self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()


def _on_socket(server: str, fd: int) -> list[str]:
    """The command line of one worker that accepts from an inherited socket."""
    return {
        "uvicorn": ["uvicorn", "--fd", str(fd), "--no-access-log"],
        "daphne": ["daphne", "--fd", str(fd), "--access-log", os.devnull],
        "gunicorn": ["gunicorn", "--bind", f"fd://{fd}", "--worker-class", "uvicorn_worker.UvicornWorker"],
        "hypercorn": ["hypercorn", "--bind", f"fd://{fd}", "--workers", "0"],
    }[server]


def _granian(host: str, port: int, workers: int) -> list[str]:
    return [
        "granian", "--interface", "asgi", "--host", host, "--port", str(port),
        "--workers", str(workers), "--respawn-failed-workers", "--no-reload",
    ]  # fmt: skip


def _granian_pids(log: str) -> list[int]:
    latest = {number: int(pid) for number, pid in re.findall(r"Spawning worker-(\d+) with PID: (\d+)", log)}
    return list(latest.values())


def environment(
    redis_url: str,
    settings: Mapping[str, Any] | None,
    database: Path | str | None = None,
    more: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The environment for the test project with these settings, and with this process's package.

    Without ``database`` the database is in memory, without tables.
    """
    package = str(Path(channels_admission.__file__).resolve().parent.parent)
    path = os.environ.get("PYTHONPATH")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([package, path] if path else [package]),
        "DJANGO_SETTINGS_MODULE": "project.settings",
        "REDIS_URL": redis_url,
        "TESTPROJECT_DB": str(database or ":memory:"),
        "CHANNELS_ADMISSION": json.dumps(settings or {}),
        **(more or {}),
    }


def free_port(host: str, port: int = 0) -> int:
    """``port``, or any free port for 0; ``OSError`` if the port is in use."""
    with listen(host, port) as listener:
        return int(listener.getsockname()[1])


def listen(host: str, port: int = 0) -> socket.socket:
    """A listening TCP socket, on any free port unless one is given; ``OSError`` if it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=BACKLOG)


def accepts(host: str, port: int) -> bool:
    """Whether a server listens there. Granian says that it has started shortly before it does."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def spawn(
    command: Sequence[str], log: Path, env: Mapping[str, str] | None = None, fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start ``command`` in the test project, in a session of its own, so that Ctrl-C does not reach it."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command, cwd=TESTPROJECT, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            pass_fds=fds, start_new_session=True,
        )  # fmt: skip


def wait_until(
    ready: Callable[[], bool], processes: Sequence[subprocess.Popen[bytes]], logs: Sequence[Path], name: str
) -> None:
    """Return once ``ready()``; :exc:`ServerFailed` when a process ends before, or after :data:`START_TIMEOUT`."""
    deadline = time.monotonic() + START_TIMEOUT
    while not ready():
        ended = [process for process in processes if process.poll() is not None]
        if ended:
            raise ServerFailed(f"{name} ended with exit code {ended[0].returncode}.\n{last_lines(logs)}")
        if time.monotonic() > deadline:
            raise ServerFailed(f"{name} does not serve after {START_TIMEOUT:g} s.\n{last_lines(logs)}")
        time.sleep(POLL)


def last_lines(logs: Sequence[Path]) -> str:
    lines = []
    for log in logs:
        lines.append(f"--- {log.name}")
        lines += log.read_text(errors="replace").splitlines()[-LOG_END:] if log.exists() else []
    return "\n".join(lines)


def end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End the processes and their descendants: SIGTERM, and SIGKILL to those left after :data:`STOP_TIMEOUT`."""
    family = [member for process in processes for member in _session(process.pid)]
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + STOP_TIMEOUT
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    for process in processes:
        process.wait()
    psutil.wait_procs(family, timeout=STOP_TIMEOUT)


def _session(leader: int) -> Iterator[psutil.Process]:
    """The processes in the session that ``leader`` began, which may itself be gone."""
    for pid in psutil.pids():
        with suppress(OSError, psutil.NoSuchProcess):
            if os.getsid(pid) == leader:
                yield psutil.Process(pid)

"""The files of testproject/deploy/ at work: workers as the unit starts them, on two hosts, behind nginx or HAProxy.

Only what their README names is replaced.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Self

import psutil
import pytest

from demo.servers import SERVING, TESTPROJECT, Redis, end, environment, free_port, spawn, wait_until
from support.machines import Machine, machines

DEPLOY = TESTPROJECT / "deploy"
UNIT = DEPLOY / "systemd" / "site@.service"


def find(program: str) -> str:
    """Where it is; without it the test is skipped, and in CI fails."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin")
    if not found:
        if "CI" in os.environ:
            pytest.fail(f"{program} must be there in CI.")
        pytest.skip(f"no {program} on the PATH")
    return found


def variable(name: str) -> str:
    """What ``admission.env`` sets it to."""
    return re.search(rf"^{name}=(.*)$", (DEPLOY / "admission.env").read_text(), re.MULTILINE)[1]


def settings_of_the_files() -> str:
    """The JSON in ``admission.env``."""
    return variable("CHANNELS_ADMISSION")


def unit() -> dict[str, str]:
    """The lines of the unit, by their keys."""
    return dict(line.split("=", 1) for line in UNIT.read_text().splitlines() if re.match(r"\w+=", line))


class Backend:
    """A worker, as the unit starts it."""

    def __init__(self, machine: Machine, port: int, env: Mapping[str, str], log: Path) -> None:
        self.machine, self.port, self.log = machine, port, log
        self._env = {**env, "BALANCER": machine.gateway}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"{self.machine.address}:{self.port}"

    @property
    def pid(self) -> int:
        return self.process.pid

    def start(self) -> None:
        """Return once it serves."""
        self.log.unlink(missing_ok=True)
        self.process = spawn([*self.machine.launcher, *self._command()], self.log, self._env)
        wait_until(lambda: SERVING["uvicorn"] in self.log.read_text(), [self.process], [self.log], "the worker")

    def _command(self) -> list[str]:
        command = unit()["ExecStart"].replace("%i", str(self.port)).replace("${BALANCER}", self.machine.gateway)
        command = command.replace("/srv/site/.venv/bin/python", shlex.quote(sys.executable))
        return shlex.split(command.replace("0.0.0.0", self.machine.address))

    def stop(self) -> None:
        """As systemd does."""
        self.process.send_signal(signal.Signals[unit()["KillSignal"]])
        self.process.wait(float(unit()["TimeoutStopSec"]))


class Site:
    """Three workers on two hosts, and their Redis."""

    def __init__(self, hosts: list[Machine], redis: Redis, backends: list[Backend]) -> None:
        self.hosts, self.redis, self.backends = hosts, redis, backends

    @property
    def pids(self) -> list[int]:
        return [backend.pid for backend in self.backends]


@contextmanager
def site(folder: Path, settings: Mapping[str, object]) -> Iterator[Site]:
    with ExitStack() as stack:
        hosts = stack.enter_context(machines(2))
        redis = stack.enter_context(_Reachable(hosts[0].gateway))
        env = environment(redis.url, settings)
        places = [(hosts[0], "a"), (hosts[0], "b"), (hosts[1], "c")]
        backends = [
            Backend(host, _port(host, number), env, folder / f"worker-{name}.log")
            for number, (host, name) in enumerate(places)
        ]
        try:
            for backend in backends:
                backend.start()
            yield Site(hosts, redis, backends)
        finally:
            end([backend.process for backend in backends if backend.process])


class _Reachable(Redis):
    """A Redis at an address that the hosts reach as well."""

    def __init__(self, host: str) -> None:
        super().__init__("--protected-mode", "no")
        self.host = host


def _port(machine: Machine, number: int) -> int:
    """On a host of its own any will do; beside others, one that is free."""
    return 8001 + number if machine.launcher else free_port(machine.address)


class Balancer:
    """A program in front of the workers, while the ``with`` lasts."""

    name: str
    env: Mapping[str, str] | None = None

    def __init__(self, site: Site, folder: Path) -> None:
        self.port = free_port("127.0.0.1")
        self.origin = f"http://127.0.0.1:{self.port}"
        self._site, self._folder = site, folder / self.name
        self._folder.mkdir()

    def __enter__(self) -> Self:
        log = self._folder / "log"
        self.process = spawn(self.command(), log, self.env)
        try:
            wait_until(self._serves, [self.process], [log], self.name)
        except BaseException:
            end([self.process])
            raise
        return self

    def __exit__(self, *error: object) -> None:
        end([self.process])

    def command(self) -> list[str]:
        raise NotImplementedError

    def _serves(self) -> bool:
        with closing(socket.socket()) as client:
            return client.connect_ex(("127.0.0.1", self.port)) == 0


class Nginx(Balancer):
    """nginx with the files of ``deploy/nginx/``."""

    name = "nginx"

    def __init__(self, site: Site, folder: Path) -> None:
        super().__init__(site, folder)
        shutil.copytree(DEPLOY / "nginx", self._folder, dirs_exist_ok=True)
        (self._folder / "listen.conf").write_text(f"listen 127.0.0.1:{self.port};\nserver_name 127.0.0.1;\n")
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "\n".join(f"{kind}_temp_path {self._folder}/{kind};" for kind in kinds)
        (self._folder / "local" / "paths.conf").write_text(paths)
        self._write()

    def _write(self, down: Backend | None = None) -> None:
        lines = (DEPLOY / "nginx" / "workers.conf").read_text()
        for backend, place in zip(self._site.backends, re.findall(r"(?<=server )\S+", lines), strict=True):
            lines = lines.replace(place, f"{backend.address} down" if backend is down else backend.address)
        (self._folder / "workers.conf").write_text(lines)

    def command(self, *more: str) -> list[str]:
        globals = f"daemon off; pid {self._folder}/nginx.pid; error_log stderr;"
        return [find("nginx"), "-p", str(self._folder), "-c", str(self._folder / "nginx.conf"), "-g", globals, *more]

    def drain(self, backend: Backend) -> None:
        self._write(down=backend)
        self._reload()

    def renew(self, backend: Backend) -> None:
        self._write()
        self._reload()

    def _reload(self) -> None:
        """Return when no process takes clients by the old files any more."""
        old = psutil.Process(self.process.pid).children()
        subprocess.run(self.command("-s", "reload"), check=True, capture_output=True)
        wait_until(lambda: all(map(_shuts_down, old)), [self.process], [], self.name)


def _shuts_down(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return "shutting down" in " ".join(process.cmdline()) or process.status() == psutil.STATUS_ZOMBIE
    return True


class Haproxy(Balancer):
    """HAProxy with ``deploy/haproxy/haproxy.cfg``."""

    name = "haproxy"

    @property
    def env(self) -> dict[str, str]:
        workers = {f"WORKER_{number}": backend.address for number, backend in enumerate(self._site.backends, 1)}
        own = {"LISTEN": f"127.0.0.1:{self.port}", "ADMIN_SOCKET": str(self._folder / "admin.sock")}
        return {**os.environ, **own, **workers}

    def command(self) -> list[str]:
        return [find("haproxy"), "-W", "-f", str(DEPLOY / "haproxy" / "haproxy.cfg")]

    def _serves(self) -> bool:
        return super()._serves() and self._ready(3)

    def drain(self, backend: Backend) -> None:
        self._say(f"set server admission/{self._name(backend)} state drain")

    def renew(self, backend: Backend) -> None:
        self._say(f"set server admission/{self._name(backend)} state ready")
        wait_until(lambda: self._ready(3), [self.process], [], self.name)

    def _name(self, backend: Backend) -> str:
        return f"worker-{1 + self._site.backends.index(backend)}"

    def is_down(self, backend: Backend) -> bool:
        """Whether its health check says so."""
        return self._states()[self._name(backend)][0].startswith("DOWN")

    def _ready(self, count: int) -> bool:
        with suppress(OSError):
            return sum(state == "UP" and check == "L7OK" for state, check in self._states().values()) == count
        return False

    def _states(self) -> dict[str, tuple[str, str]]:
        """Each worker's state, and the outcome of its last check."""
        rows = [row.split(",") for row in self._say("show stat").splitlines() if row.startswith("admission,worker-")]
        return {row[1]: (row[17], row[36]) for row in rows}

    def _say(self, order: str) -> str:
        with closing(socket.socket(socket.AF_UNIX)) as admin:
            admin.connect(str(self._folder / "admin.sock"))
            admin.sendall(f"{order}\n".encode())
            return b"".join(iter(lambda: admin.recv(65536), b"")).decode()


BALANCERS = {"nginx": Nginx, "haproxy": Haproxy}

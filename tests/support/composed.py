"""The parts of deploy/containers/compose.yaml at work as plain processes, from the same files.

A container becomes a process with a process namespace and a host name of its own, where the machine allows it. Only
addresses, ports and paths are replaced.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from demo.servers import SERVING, Redis, end, environment, free_port, spawn, wait_until
from support.deployment import DEPLOY, find
from support.machines import RENAME

CONTAINERS = DEPLOY / "containers"
COMPOSE: Mapping[str, Any] = yaml.safe_load((CONTAINERS / "compose.yaml").read_text())
SERVICES: Mapping[str, Any] = COMPOSE["services"]
WORKERS = [name for name in SERVICES if name.startswith("worker-")]
HOST = "127.0.0.1"


def variables() -> dict[str, str]:
    """The environment of the workers."""
    lines = (CONTAINERS / SERVICES[WORKERS[0]]["env_file"]).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def settings_of_the_workers() -> dict[str, Any]:
    return json.loads(variables()["CHANNELS_ADMISSION"])


def mounts(service: str) -> dict[str, Path]:
    """The files and folders of this clone that a container has, by their places in it."""
    pairs = (text.split(":")[:2] for text in SERVICES[service].get("volumes", ()))
    return {target: CONTAINERS / source for source, target in pairs if source.startswith(".")}


def has_containers() -> bool:
    """Whether this process may make process namespaces and host names."""
    return os.geteuid() == 0 and subprocess.run([*_launcher("probe"), "true"], check=False).returncode == 0


def _launcher(name: str) -> list[str]:
    namespaces = ["unshare", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc"]
    return [*namespaces, sys.executable, "-c", RENAME, name]


class Container:
    """A worker, as its image starts it."""

    def __init__(self, name: str, env: Mapping[str, str], log: Path) -> None:
        self.name, self.port, self.log = name, free_port(HOST), log
        self._env = env
        self._launcher = _launcher(name) if has_containers() else []
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def origin(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        """Return once it serves."""
        self.log.unlink(missing_ok=True)
        self.process = spawn([*self._launcher, *self._command()], self.log, self._env)
        wait_until(lambda: SERVING["uvicorn"] in self.log.read_text(), [self.process], [self.log], self.name)

    def _command(self) -> list[str]:
        text = re.search(r"^CMD (.*)$", (CONTAINERS / "Dockerfile").read_text(), re.MULTILINE)[1]
        replaced = {"python": sys.executable, "0.0.0.0": HOST, "8000": str(self.port)}
        return [replaced.get(word, word) for word in json.loads(text)]

    def kill(self) -> None:
        """As for want of memory: the first process of the container, and with it all others."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class Site:
    """What runs, and where nginx and Prometheus answer."""

    def __init__(self, redis: Redis, workers: Sequence[Container], nginx: str, prometheus: str) -> None:
        self.redis, self.workers, self.nginx, self.prometheus = redis, workers, nginx, prometheus


@contextmanager
def composed(folder: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        redis = stack.enter_context(Redis(*SERVICES["redis"]["command"][1:]))
        env = _environment(redis, folder)
        workers = [Container(name, env, folder / f"{name}.log") for name in WORKERS]
        for worker in workers:
            stack.callback(worker.kill)
            worker.start()
        nginx = stack.enter_context(_nginx(folder / "nginx", workers))
        prometheus = stack.enter_context(_prometheus(folder / "prometheus", nginx))
        yield Site(redis, workers, nginx, prometheus)


def _environment(redis: Redis, folder: Path) -> dict[str, str]:
    """The workers' own, with the Redis and the volume of this machine."""
    (place,) = (text.split(":")[1] for text in SERVICES[WORKERS[0]]["volumes"] if text.startswith("locks:"))
    (folder / "locks").mkdir()
    own = {name: value.replace(place, str(folder / "locks")) for name, value in variables().items()}
    return environment(redis.url, None, more={**own, "REDIS_URL": redis.url})


def _mount(service: str, at: str, folder: Path) -> None:
    """Copy what the service's container has below ``at``."""
    folder.mkdir()
    for target, source in mounts(service).items():
        place = folder / Path(target).relative_to(at)
        shutil.copytree(source, place) if source.is_dir() else shutil.copy(source, place)


@contextmanager
def _nginx(folder: Path, workers: Sequence[Container]) -> Iterator[str]:
    _mount("nginx", "/etc/nginx", folder)
    port = free_port(HOST)
    listen = folder / "listen.conf"
    listen.write_text(listen.read_text().replace("listen 80 ", f"listen {HOST}:{port} "))
    lines = (folder / "workers.conf").read_text().replace(" resolve;", ";")  # of later versions than some systems have
    for worker in workers:
        lines = lines.replace(f"{worker.name}:8000", f"{HOST}:{worker.port}")
    (folder / "workers.conf").write_text(lines)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    (folder / "local" / "resolver.conf").write_text("\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds))
    globals = f"daemon off; pid {folder}/nginx.pid; error_log stderr;"
    command = [find("nginx"), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-g", globals]
    with _running(command, folder / "log", port):
        yield f"http://{HOST}:{port}"


@contextmanager
def _prometheus(folder: Path, nginx: str) -> Iterator[str]:
    _mount("prometheus", "/etc/prometheus", folder)
    port, file = free_port(HOST), folder / "prometheus.yml"
    text = file.read_text().replace("nginx:80", nginx.removeprefix("http://")).replace(": 15s", ": 1s")
    file.write_text(text)
    subprocess.run([find("promtool"), "check", "config", str(file)], check=True, capture_output=True)
    options = [f"--web.listen-address={HOST}:{port}", f"--storage.tsdb.path={folder}/data", "--log.level=warn"]
    command = [find("prometheus"), f"--config.file={file}", *options]
    with _running(command, folder / "log", port):
        yield f"http://{HOST}:{port}"


@contextmanager
def _running(command: list[str], log: Path, port: int) -> Iterator[None]:
    process = spawn(command, log)
    try:
        wait_until(lambda: _answers(port), [process], [log], command[0])
        yield
    finally:
        end([process])


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex((HOST, port)) == 0

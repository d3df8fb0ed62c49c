"""The code and the commands in the documents, taken as they stand, and a project that is made of them."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from django.core.management import call_command

import channels_admission

from demo.servers import Redis, end, free_port, wait_until
from support import ROOT

PACKAGE = Path(channels_admission.__file__).resolve().parent
HOST = "127.0.0.1"
REDIS = "127.0.0.1:6379"
"""The address of Redis that the documents tell the reader to replace."""
PORT = "127.0.0.1:8000"
"""The address of the server, likewise."""
WORKERS = 2
SERVE = f"uvicorn mysite.asgi:application --workers {WORKERS}"
TIMEOUT = 10.0
"""Seconds within which a status shows what has happened."""

STEP = re.compile(
    r"^```python\n# (?P<name>\S+\.py)\n(?P<code>.*?)^```"
    r"|^```console\n(?P<console>.*?)^```"
    r"|[Rr]emove the line `(?P<line>[^`]+)`",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Write:
    """A file, whose name is the first line of its block."""

    name: str
    code: str


@dataclass(frozen=True)
class Remove:
    """A line of the settings."""

    line: str


@dataclass(frozen=True)
class Run:
    """A command, and what it prints; ``…`` stands for anything."""

    command: str
    output: str


def steps(page: str) -> Iterator[Write | Remove | Run]:
    """What the page, named from the root of the repository, tells its reader to do, in order."""
    for step in STEP.finditer((ROOT / page).read_text()):
        if step["name"]:
            yield Write(step["name"], step["code"])
        elif step["line"]:
            yield Remove(step["line"])
        else:
            for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", step["console"], re.MULTILINE):
                yield Run(command, output)


class Project:
    """A project in ``folder`` over ``redis``. ``names`` are replaced, each by what the reader would put there."""

    def __init__(self, folder: Path, redis: Redis, names: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.port = free_port(HOST)
        self._names = {REDIS: f"{redis.host}:{redis.port}", PORT: f"{HOST}:{self.port}", **(names or {})}
        self._server: subprocess.Popen[bytes] | None = None
        self._log = folder / "uvicorn.log"
        # Django's variable would be that of the tests.
        others = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
        self._env = {
            **others,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), str(folder)]),
            "UVICORN_PORT": str(self.port),
            "COLUMNS": "100",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @classmethod
    @contextmanager
    def with_a_chat(cls, folder: Path, names: Mapping[str, str] | None = None) -> Iterator[Self]:
        """A site that has WebSockets and no admission yet: the tutorial's, before its settings."""
        call_command("startproject", "mysite", str(folder))
        with Redis() as redis, cls(folder, redis, names) as project:
            for step in steps("docs/tutorial.md"):
                if isinstance(step, Write) and step.name in {"chat/consumers.py", "chat/routing.py"}:
                    project.write(step)
            project.append("mysite/settings.py", 'ASGI_APPLICATION = "mysite.asgi.application"\n')
            yield project

    def follow(self, page: str) -> None:
        """Write the files of the page, and remove the lines that it tells to remove."""
        for step in steps(page):
            if isinstance(step, Write):
                self.write(step)
            elif isinstance(step, Remove):
                self.remove(step)

    def write(self, step: Write) -> None:
        """Write the file; settings are appended to those that are there."""
        path = self.folder / step.name
        path.parent.mkdir(exist_ok=True)
        if step.name.endswith("settings.py"):
            self.append(step.name, step.code)
        else:
            path.write_text(self._replaced(step.code))

    def append(self, name: str, code: str) -> None:
        with (self.folder / name).open("a") as file:
            file.write("\n" + self._replaced(code))

    def remove(self, step: Remove) -> None:
        path = self.folder / "mysite" / "settings.py"
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.strip().rstrip(",") != step.line.rstrip(",")]
        assert len(kept) < len(lines), f"The settings have no line {step.line!r}."
        path.write_text("".join(kept))

    def run(self, command: str, env: Mapping[str, str] | None = None) -> str:
        """What the command prints; its errors fail the test."""
        env = {**self._env, **(env or {})}
        done = subprocess.run(command.split(), cwd=self.folder, env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    def check(self) -> str:
        """What ``manage.py check`` says."""
        return self.run("python manage.py check").strip()

    def shows(self, step: Run) -> bool:
        """Run the command until it prints what the page says; a status is asked again for some seconds."""
        # Workers are named and timed by the reader's own machine.
        output = re.sub(r"^web-1 .*$", "… uvicorn …", step.output, flags=re.MULTILINE)
        expected = ".*?".join(map(re.escape, " ".join(output.split()).split("…")))
        deadline = time.monotonic() + (TIMEOUT if "ws_status" in step.command else 0)
        while True:
            printed = " ".join(self.run(step.command).split())
            if re.fullmatch(expected, printed):
                return True
            assert time.monotonic() < deadline, f"{step.command} prints:\n{printed}\nand not:\n{step.output}"
            time.sleep(0.5)

    def serve(self, command: str = SERVE) -> None:
        """Run the server until :meth:`stop`, and return when all its workers serve."""
        self.stop()
        self._log.unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self._server = subprocess.Popen(
                command.split(), cwd=self.folder, env=self._env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        wait_until(self._serves, [self._server], [self._log], "uvicorn")

    def stop(self) -> None:
        if self._server is not None:
            end([self._server])
            self._server = None

    @contextmanager
    def started(self, command: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """A program of the project that runs until the end of the context."""
        with log.open("wb") as output:
            process = subprocess.Popen(
                command.split(), cwd=self.folder, env={**self._env, "PYTHONUNBUFFERED": "1"}, stdout=output,
                stderr=output, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        try:
            yield process
        finally:
            end([process])

    def _serves(self) -> bool:
        return self._log.read_text().count("Application startup complete") == WORKERS

    def _replaced(self, text: str) -> str:
        for name, value in self._names.items():
            text = text.replace(name, value)
        return text

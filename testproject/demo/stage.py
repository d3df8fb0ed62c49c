"""The servers of the demo: a Redis, a database with an administrator, and workers."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from .redises import GivenRedis, ServerFailed
from .servers import TESTPROJECT, Redis, Workers, environment

ADMINISTRATOR = PASSWORD = "demo"


@contextmanager
def stage(
    server: str,
    count: int,
    settings: Mapping[str, Any],
    port: int = 0,
    more: Mapping[str, str] | None = None,
    shared_port: bool = True,
    given: GivenRedis | None = None,
) -> Iterator[Workers]:
    """Start ``count`` workers of ``server``, with ``more`` in their environment, and stop everything at the end.

    All accept on one port, or, without ``shared_port``, each on its own. Their Redis is the one that is
    ``given``, or one of their own. :exc:`~.redises.ServerFailed` when something does not start, ``OSError`` when
    ``port`` is taken.
    """
    with nullcontext(given) if given else Redis() as redis, tempfile.TemporaryDirectory(prefix="demo-") as folder:
        settings = {**settings, **redis.settings}
        database = Path(folder, "db.sqlite3")
        env = environment(redis.url, settings, database)
        administer(env)
        with Workers(
            server,
            count,
            redis_url=redis.url,
            settings=settings,
            database=database,
            port=port,
            env=more,
            shared_port=shared_port,
        ) as workers:
            yield workers


def administer(env: Mapping[str, str]) -> None:
    """Make the database, with its administrator."""
    manage(env, "migrate", "--verbosity", "0")
    secret = {"DJANGO_SUPERUSER_PASSWORD": PASSWORD}
    name = ("--username", ADMINISTRATOR, "--email", "demo@example.org")
    manage({**env, **secret}, "createsuperuser", "--noinput", "--verbosity", "0", *name)


def manage(env: Mapping[str, str], *command: str) -> str:
    """Run a management command of the test project and return its output; :exc:`ServerFailed` if it fails."""
    done = subprocess.run(
        [sys.executable, "manage.py", *command], cwd=TESTPROJECT, env=env, capture_output=True, text=True
    )
    if done.returncode:
        raise ServerFailed(
            f"manage.py {command[0]} ended with exit code {done.returncode}.\n{done.stdout}{done.stderr}"
        )
    return done.stdout

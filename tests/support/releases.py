"""Releases of the package as they were recorded: their scripts, and how they call them.

``python -m support.releases`` in the folder of the tests records this release. It is run when a release is made, and
before the first one also for each change of the layout.
"""

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import django
import msgpack
from django.test import override_settings
from redis import Redis

from support import ROOT, TESTS

FOLDER = TESTS / "releases"
WALL = "redis.call('TIME')"
CLOCKED = "(function() local now = redis.call('GET', KEYS[1] .. ':now') return {now / 1000, 0} end)()"
"""In place of :data:`WALL`, the test's clock in milliseconds, as ``support.reports`` tells it."""
LEASE, HEARTBEAT, LIMIT = 6.0, 1.0, 20


@dataclass(frozen=True)
class Release:
    """What a release does in Redis."""

    release: str
    layout: int
    script: str
    names: dict[str, str]
    """The keys of a pool, by how the script calls them, with places for the prefix, the host and the worker."""
    reply: dict[str, int]
    """The places of some parts of a reply."""
    plain: dict[str, Any]
    """The script's argument in a pool without quotas and classes, and in one with them."""
    shared: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "Release":
        return cls(**json.loads(path.read_text()))

    def write(self) -> None:
        text = json.dumps(vars(self), indent=1, ensure_ascii=False)
        (FOLDER / f"{self.release}.json").write_text(f"{text}\n")

    @cached_property
    def clocked(self) -> str:
        if self.script.count(WALL) != 1:
            raise ValueError("the script asks for the time elsewhere, too")
        return self.script.replace(WALL, CLOCKED)


def recorded() -> list[Release]:
    return [Release.read(path) for path in sorted(FOLDER.glob("*.json"))]


class Former:
    """A worker of a recorded release, without quotas, or with one of ``QUOTA`` slots for each user."""

    def __init__(self, release: Release, client: Redis, prefix: str, nonce: str, clock, *, is_shared: bool) -> None:
        self.release, self.client, self.prefix, self.clock = release, client, prefix, clock
        self.sha = client.script_load(release.clocked)
        self.worker, self.is_shared = f"host:1:{nonce}", is_shared
        self.seq, self.held, self.version = 0, 0, 0
        self.claims: dict[str, int] = {}

    def say(self, *users: str, wanted: int = 0, **changes: Any) -> dict[str, Any]:
        """Report, and ask for slots; those that are granted are held. The parts of the reply by their names."""
        self.seq += 1
        sample = self.release.shared if self.is_shared else self.release.plain
        said = {"worker": self.worker, "seq": self.seq, "held": self.held, "version": self.version}
        argument = {**sample, **said, "wanted": len(users) or wanted, "allowance": self.held, **changes}
        if self.is_shared:
            argument["shared"] = {**sample["shared"], **self._claimed(users), "heard": self.seq - 1}
        return self._replied(self._call(argument), users)

    def drop(self, user: str = "") -> None:
        """A connection ends."""
        self.held -= 1
        if user:
            self.claims[user] -= 1

    def _claimed(self, users: Iterable[str]) -> dict[str, Any]:
        names = sorted({*users, *self.claims})
        asks = [{"class": 1, "claims": [1 + names.index(user)]} for user in users]
        held = [self.claims.get(name, 0) for name in names]
        return {"keys": [key(name) for name in names], "held": held, "asks": asks}

    def _call(self, argument: dict[str, Any]) -> list[Any]:
        names = self.release.names
        if not self.is_shared:
            names = {name: where for name, where in names.items() if name not in SHARED}
        keys = [where.format(prefix=self.prefix, host=argument["host"], worker=self.worker) for where in names.values()]
        self.client.set(f"{keys[0]}:now", round(1000 * self.clock()))
        packed = msgpack.packb({**argument, "host": None}, use_bin_type=False)
        return self.client.evalsha(self.sha, len(keys), *keys, packed)

    def _replied(self, reply: list[Any], users: Iterable[str]) -> dict[str, Any]:
        if reply[0] != b"ok":
            raise RuntimeError(f"the release refuses the report: {reply[:3]}")
        found = {name: reply[place] for name, place in self.release.reply.items()}
        self.version = max(self.version, found["version"])
        self.held += found["granted"]
        for user, letter in zip(users, found["verdicts"].decode(), strict=False):
            if letter == "a":
                self.claims[user] = self.claims.get(user, 0) + 1
        return found


SHARED = ("tickets", "claims", "own", "attempts", "holders")
"""Keys that only a pool with quotas or classes needs."""


def key(user: str) -> bytes:
    return user.encode().ljust(15, b".")


def record() -> Release:
    """This release."""
    from channels_admission import __version__, conf
    from channels_admission.core.protocol import Fair, Report
    from channels_admission.core.quotas.shares import Bound, Class
    from channels_admission.ledger.codec import KEYS
    from channels_admission.ledger.layout import LAYOUT, key_of
    from channels_admission.ledger.redis.argument import Caller
    from channels_admission.ledger.script import RECONCILE

    with override_settings(CHANNELS_ADMISSION={"LEASE": LEASE, "HEARTBEAT": HEARTBEAT, "LEDGER": "memory"}):
        settings = conf.current()
    report = Report(
        "host:1:a", 1, 0, 0, LIMIT, 0, LIMIT, born=7, server="uvicorn", release=__version__, heartbeat=True
    )  # fmt: skip
    fair = Fair(classes=(Class("", 1.0),), quotas=(Bound("user", 3),), heard=0, parts=1)
    parts = {"host": "host:{host}", "own": "claims:{worker}"}

    def sample(fair: Fair | None) -> dict[str, Any]:
        packed = Caller(settings, "default").argument(Report(**{**_fields(report), "fair": fair}))
        return {**msgpack.unpackb(packed), "host": "aaaaaaaaaaaa"}

    names = {name: key_of("{prefix}", "default", parts.get(name, name), LAYOUT) for name in KEYS if name != "swept"}
    reply = {
        "granted": 2, "total": 3, "limit": 4, "workers": 5, "version": 6, "settling": 7, "lapsed": 8, "controls": 14,
        "verdicts": 17, "healed": 20,
    }  # fmt: skip
    return Release(
        release=__version__, layout=LAYOUT, script=RECONCILE, reply=reply, plain=sample(None), shared=sample(fair),
        names={name: where.replace("{default}", "{{default}}") for name, where in names.items()},
    )  # fmt: skip


def _fields(report: Any) -> dict[str, Any]:
    return {name: getattr(report, name) for name in report.__slots__}


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    sys.path[:0] = [str(ROOT), str(ROOT / "testproject")]
    django.setup()
    FOLDER.mkdir(exist_ok=True)
    record().write()

"""The ledgers as a simulation calls them: at once, with a look at what is then stored."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import redis

from channels_admission.conf import DEFAULT_POOL, Settings
from channels_admission.core.overrides import Controls, Drain
from channels_admission.core.protocol import Reply, Report
from channels_admission.ledger import script
from channels_admission.ledger.memory import MemoryLedger
from channels_admission.ledger.overrides import controls_of, entries
from channels_admission.ledger.record import RECORD, SEAL
from channels_admission.ledger.redis import RedisLedger
from channels_admission.runtime.identity import host_token

from support.damage import VALUES, some
from support.reports import ClockedRedisLedger

NOW = "redis.call('GET', KEYS[2] .. ':now')"
CONTROL = script.CONTROL.replace("redis.call('TIME')", f"{{math.floor({NOW} / 1000), ({NOW} % 1000) * 1000}}")
RESERVE = RECORD.index("reserve")


@dataclass
class Stored:
    """What a ledger has stored for the pool."""

    total: int | None = 0
    counts: dict[str, int] = field(default_factory=dict)
    leased: set[str] = field(default_factory=set)
    reserve: int = 0
    """Slots of the total that no connection holds."""
    reserves: dict[str, int] = field(default_factory=dict)
    """The same of each worker's count."""


class StoredInRedis(ClockedRedisLedger):
    """The Redis ledger, its exchange made at once: time, script and a look at the result in one round trip."""

    def __init__(self, settings: Settings, clock: Callable[[], float], replaced: dict[str, str] | None = None) -> None:
        super().__init__(settings, clock, replaced)
        self.state = Stored()
        self._names = [
            self._key(DEFAULT_POOL, part)
            for part in ("counts", "leases", f"host:{host_token()}", "seconds", "controls", "minutes", "tickets")
        ]
        self._client = redis.Redis.from_url(settings.ledger.host["address"])
        self._client.script_load(self._source)

    def apply(self, report: Report) -> Reply:
        return _result(RedisLedger.reconcile(self, DEFAULT_POOL, report))

    async def _run(self, script: str, keys: list[str], arguments: list[str | int]) -> Any:
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.set(f"{keys[0]}:now", round(self._clock() * 1000))
            pipeline.evalsha(self._sha, len(keys), *keys, *arguments)
            pipeline.hgetall(keys[0])
            pipeline.lrange(keys[1], 0, -1)
            _, reply, fields, leased = pipeline.execute()
        self._look(fields, leased)
        return reply

    def _look(self, fields: dict[bytes, bytes], leased: list[bytes]) -> None:
        total = fields.get(b"#total")
        counts = {name.decode(): _number(text.split(b"|", 1)[0]) for name, text in fields.items() if name[:1] != b"#"}
        names = {name.decode(errors="replace") for name in leased}
        records = {name.decode(): text[:-SEAL].split(b"|") for name, text in fields.items() if name[:1] != b"#"}
        reserves = {name: _number(parts[RESERVE]) for name, parts in records.items() if len(parts) > RESERVE}
        reserve = _number(fields.get(b"#reserve", b""))
        self.state = Stored(None if total is None else _number(total), counts, names, reserve, reserves)

    def order(self, drain: Drain) -> None:
        """Set a drain, as an operator does."""
        counts, controls = (self._key(DEFAULT_POOL, part) for part in ("counts", "controls"))
        self._client.set(f"{counts}:now", round(self._clock() * 1000))
        set_now = controls_of((self._client.hget(controls, "set") or b"").decode())
        drains = tuple(each for each in set_now.drains if each.target != drain.target)
        arguments = set_now.version, entries(Controls(drains=(*drains, drain))), 3_600_000
        if not self._client.eval(CONTROL, 2, controls, counts, *arguments):
            raise RuntimeError("the order was not taken")

    def save(self) -> list[bytes | None]:
        return [self._client.dump(name) for name in self._names]

    def restore(self, dumps: list[bytes | None]) -> None:
        self.forget(*self._names)
        for name, dump in zip(self._names, dumps, strict=True):
            if dump is not None:
                self._client.restore(name, 0, dump)
        self._look(self._client.hgetall(self._names[0]), self._client.lrange(self._names[1], 0, -1))

    def tear(self, rng: random.Random) -> None:
        part = rng.choice([*self._names[:2], "#total", "#version", "#clock", "#real", "#settled", "#counters"])
        if part.startswith("#"):
            self._client.hdel(self._names[0], part)
        else:
            self._client.delete(part)

    def damage(self, rng: random.Random) -> bool:
        """Write something into any place of the pool; whether it changes what is counted."""
        before = self.save()[:2]
        if place := some(self._client, self._settings.prefix, rng):
            place.damage(rng.choice(VALUES))
        return self.save()[:2] != before

    def forget(self, *names: str) -> None:
        self._client.delete(*(names or self._names))

    def close(self) -> None:
        self.forget(*self._names, f"{self._names[0]}:now")
        self._client.close()


class StoredInMemory(MemoryLedger):
    """The memory ledger, its exchange made at once."""

    def apply(self, report: Report) -> Reply:
        return _result(self.reconcile(DEFAULT_POOL, report))

    @property
    def state(self) -> Stored:
        entries = self._pools[self._settings.prefix, DEFAULT_POOL].entries
        counts = {name: entry.held for name, entry in entries.items()}
        reserves = {name: entry.reserve for name, entry in entries.items()}
        return Stored(sum(counts.values()), counts, set(counts), sum(reserves.values()), reserves)

    def close(self) -> None:
        self.forget_all()


def _number(text: bytes) -> int:
    return int(text) if text.isdigit() and len(text) < 20 else 0


def _result(coroutine: Any) -> Any:
    """What a coroutine returns that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("it waits")

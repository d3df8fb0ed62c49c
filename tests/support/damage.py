"""Damage to what a pool keeps in Redis: every field of every key, and what something else might write there."""

import random
from collections.abc import Iterator

import redis

DELETED = None
"""Instead of a value: the field is gone."""
LONG = b"1" * 100_000
VALUES: tuple[bytes | None, ...] = (
    DELETED, b"", b"x", b"0", b"3", b"-5", b"nan", b"-nan", b"inf", b"-inf", b"1e300", b"1e5", b"0x10",
    b"99999999999999", b"99999999999999999999", b"9zz", b" 7",
    b"|", b"||||||||", b",", b";", b"1|2|3|4|5|6|7", b"0|1,0,3,5,5,;", b"a=1,b=2",
    b"5;limit=999999;", b"1900000000000;limit=999,1.000,x", b"\xff\x00\n",
    LONG, b"a=1," * 25_000, b"|" * 100_000, b"1;" * 50_000,
)  # fmt: skip
FEW = (
    DELETED, b"3", b"nan", b"1900000000000;limit=999,1.000,x", b"99999999999999", b"9zz", b"||||||||", b"\xff\x00\n",
    LONG,
)  # fmt: skip
"""One of each sort."""


class Place:
    """One value of a pool in Redis: a field of a hash, a part of a record in one, or an element of a list."""

    def __init__(self, client: redis.Redis, key: bytes, field: bytes | int, part: int | None = None) -> None:
        self.client = client
        self.key = key
        self.field = field
        self.part = part

    def __str__(self) -> str:
        return f"{self.key!r} {self.field!r}" + ("" if self.part is None else f" part {self.part}")

    def damage(self, value: bytes | None) -> None:
        if isinstance(self.field, int):
            self.client.lset(self.key, self.field, value or b"")
        elif value is DELETED:
            self.client.hdel(self.key, self.field)
        else:
            self.client.hset(self.key, self.field, self._within(value))

    def _within(self, value: bytes) -> bytes:
        if self.part is None:
            return value
        parts = (self.client.hget(self.key, self.field) or b"|" * 8).split(b"|")
        parts[self.part] = value
        return b"|".join(parts)


def places(client: redis.Redis, prefix: str) -> Iterator[Place]:
    """Each place of the pools under ``prefix``, and in each hash a field that is none of ours."""
    for key in sorted(client.scan_iter(f"{prefix}:*")):
        kind = client.type(key)
        if kind == b"list":
            yield from (Place(client, key, place) for place in range(client.llen(key)))
        elif kind == b"hash":
            fields = client.hgetall(key)
            yield from (Place(client, key, field) for field in (*sorted(fields), b"none of ours"))
            records = sorted(field for field in fields if key.endswith(b":counts") and field[:1] != b"#")
            yield from (Place(client, key, field, part) for field in records for part in range(5))


def one_of_each(client: redis.Redis, prefix: str) -> list[Place]:
    """The places, one of those that differ by the name of a worker, a client's key or a moment only."""
    found: dict[object, Place] = {}
    for place in places(client, prefix):
        name = place.key.removeprefix(prefix.encode()).split(b":")[2]
        is_named = place.field in (b"set", b"seal", b"none of ours") or str(place.field).startswith("b'#")
        is_own = place.key.count(b":") > 3 and name == b"claims"
        found.setdefault((name, is_own, place.field if is_named else None, place.part), place)
    return list(found.values())


def some(client: redis.Redis, prefix: str, rng: random.Random) -> Place | None:
    """Any place, if there is one; each key is as likely as the others."""
    by_key: dict[bytes, list[Place]] = {}
    for place in places(client, prefix):
        by_key.setdefault(place.key, []).append(place)
    return rng.choice(by_key[rng.choice(sorted(by_key))]) if by_key else None

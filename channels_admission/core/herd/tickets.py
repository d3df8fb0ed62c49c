"""Tickets: the places of refused clients in the line of a pool. Pure.

A ticket is :data:`LENGTH` characters of URL-safe base64: 18 bytes, which are place, due and number of a
:class:`Ticket`, four bytes each, and the first six of a keyed BLAKE2s over these and the pool. So any worker can check
it without a call. One forged ticket in 2^48 passes, and wins no more than a place in the line.
"""

import hashlib
import hmac
import re
import struct
from base64 import urlsafe_b64decode
from binascii import b2a_base64
from collections.abc import Sequence
from typing import NamedTuple

LENGTH = 24
"""Characters of a ticket."""
WRITTEN = re.compile(rf"[A-Za-z0-9_-]{{{LENGTH}}}", re.ASCII)
PER_SECOND = 100
"""Times in a ticket are hundredths of a second."""
FIELDS = struct.Struct(">III")
ROUND = 1 << 32
"""Hundredths of a second after which the times of tickets begin anew: 497 days."""
SEAL_BYTES = 6
URL_SAFE = bytes.maketrans(b"+/", b"-_")


class Ticket(NamedTuple):
    """A place in the line. Times are Unix seconds of the ledger's clock, in whole hundredths."""

    place: float
    """The time by which tickets are served: the earliest first."""
    due: float
    """When the client was told to come; later than ``place`` after it came in time and found nothing free, earlier
    where ``place`` lies beyond the upper bound of ``RETRY_AFTER``."""
    number: int
    """At random, below 2^32. With ``place`` it is what makes the ticket good once."""


class Signer:
    """Writes and reads the tickets of ``pool``; the first of the ``secrets`` signs, and all of them are good."""

    def __init__(self, pool: str, secrets: Sequence[bytes]) -> None:
        self._pool = pool.encode()
        self._keyed = [hashlib.blake2s(digest_size=SEAL_BYTES, key=each, person=b"ticket") for each in secrets]
        """To be copied for each seal, which costs half as much as a new one."""

    def write(self, ticket: Ticket) -> str:
        place, due, number = ticket
        fields = FIELDS.pack(round(place * PER_SECOND) % ROUND, round(due * PER_SECOND) % ROUND, number)
        return b2a_base64(fields + self._seal(fields, self._keyed[0]), newline=False).translate(URL_SAFE).decode()

    def read(self, text: str, now: float) -> Ticket | None:
        """The ticket, its times being those nearest to ``now``; None if it is not one of this pool's."""
        if not WRITTEN.fullmatch(text):
            return None
        sealed = urlsafe_b64decode(text)
        fields, seal = sealed[: FIELDS.size], sealed[FIELDS.size :]
        if not any(hmac.compare_digest(seal, self._seal(fields, keyed)) for keyed in self._keyed):
            return None
        place, due, number = FIELDS.unpack(fields)
        return Ticket(_nearest(place, now), _nearest(due, now), number)

    def _seal(self, fields: bytes, keyed: "hashlib.blake2s") -> bytes:
        seal = keyed.copy()
        seal.update(fields + self._pool)
        return seal.digest()


def _nearest(hundredths: int, now: float) -> float:
    """The time nearest to ``now`` of all that are written so."""
    here = round(now * PER_SECOND)
    return (here + (hundredths - here + ROUND // 2) % ROUND - ROUND // 2) / PER_SECOND

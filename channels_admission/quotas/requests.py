"""The asks of handshakes: the quotas and classes of a pool applied to a scope.

Keys come from clients, and may be long or private. This module returns only keyed hashes of fixed length, of the
quota's name and the key.
"""

import hashlib
import logging
from collections import Counter
from functools import partial
from itertools import chain, repeat
from typing import Any

from .. import conf
from ..conf import PoolSettings, Settings
from ..conf.quotas import ADDRESS, EXEMPT, PENDING, Function, Quota
from ..conf.shares import classes
from ..core.counters import CLASSIFY_FAILED, FAULT, KEY_FAILED
from ..core.protocol import COUNTED, KEY_BYTES, Ask, Claimed, Key
from .address import client_of

logger = logging.getLogger("channels_admission")

AUTHENTICATED = "admission_authenticated"
"""Key of a scope with a true value if its client has authenticated."""
MOST_UNKNOWN = 20
"""Most names of unknown classes that are logged."""


class Rules:
    """The quotas and classes of one pool, unauthenticated connections included.

    A function of the site's own that raises an exception refuses no connection: without its key the connection is not
    counted under that quota, and without its class it has the one with the least share. Each is counted in
    ``counters``, and each type is logged once.
    """

    def __init__(self, pool: PoolSettings, settings: Settings, counters: Counter[str] | None = None) -> None:
        self.pool = pool
        self._counters: Counter[str] = Counter() if counters is None else counters
        self._failed: set[tuple[str, type[Exception]]] = set()
        self._secret = conf.secret()
        built_in: dict[str, Function] = {
            ADDRESS: partial(client_of, proxies=settings.trusted_proxies),
            "user": user_of,
        }
        self._keys: list[Function] = [
            built_in[quota.key] if isinstance(quota.key, str) else quota.key for quota in pool.quotas
        ]
        self.pending: Claimed = (*[None] * len(pool.quotas), self._hash(PENDING, ""))
        """The claim of unauthenticated connections."""
        self._places = {each.name: place for place, each in enumerate(classes(pool))}
        self.shares = [each.share for each in classes(pool)]
        """The share of the limit of each class."""
        known = [place for place, share in enumerate(self.shares) if 0 < share <= 1]
        self._least = min(known, key=self.shares.__getitem__)
        """The class of a connection whose class is unknown because of an exception."""
        self._has_rates = any(quota.rate for quota in pool.quotas)
        self._unknown: set[str] = set()

    def ask(self, scope: Any) -> Ask:
        """The ask of a handshake, by its scope."""
        class_index = self._class_index(scope, self._least)
        if self.is_exempt(class_index):
            return Ask(class_index=class_index)
        keys, authenticated = self._keys_of(scope), is_authenticated(scope)
        claims = self._claims(keys)
        if self.pool.pending_share is not None and not authenticated:
            claims += self.pending[-1:]
        return Ask(claims, class_index, tries=self._tries(keys, authenticated=authenticated))

    def ask_again(self, scope: Any, known: Claimed, before: int) -> Ask | None:
        """The late ask of a connection of the class ``before``, if its scope has new keys or another class."""
        class_index = self._class_index(scope, before) or before
        keys = () if self.is_exempt(class_index) else self._keys_of(scope, known)
        if not any(keys) and class_index == before:
            return None
        bounded = self.shares[class_index] < self.shares[before]
        tries = self._tries(keys, authenticated=is_authenticated(scope))
        return Ask(self._claims(keys), class_index, late=True, bounded=bounded, tries=tries)

    def without_pending(self, claims: Claimed) -> Claimed:
        """The claims of a connection once it has authenticated."""
        return claims[: len(self.pool.quotas)]

    def is_exempt(self, class_index: int) -> bool:
        return class_index == self._places[EXEMPT]

    def _keys_of(self, scope: Any, known: Claimed = ()) -> Claimed:
        """The scope's key for each quota; None where a key is ``known``."""
        quotas = zip(self.pool.quotas, self._keys, chain(known, repeat(None)), strict=False)
        return tuple(self._key(scope, quota, function) if key is None else None for quota, function, key in quotas)

    def _key(self, scope: Any, quota: Quota, function: Function) -> Key | None:
        try:
            key = function(scope)
            return None if key is None else self._hash(quota.name, str(key))
        except Exception as error:
            self._note(KEY_FAILED + quota.name, "connections are not counted under this quota", error)
            return None

    def _claims(self, keys: Claimed) -> Claimed:
        """The keys under which a slot is counted."""
        if not self._has_rates:
            return keys
        return tuple(
            COUNTED if key and quota.max is None else key for quota, key in zip(self.pool.quotas, keys, strict=False)
        )

    def _tries(self, keys: Claimed, *, authenticated: bool) -> Claimed:
        """The keys under which an attempt counts.

        An authenticated client is not counted under its address, which an attacker may share.
        """
        if not self._has_rates or not any(keys):
            return ()
        return tuple(
            key if quota.rate and not (authenticated and quota.key == ADDRESS) else None
            for quota, key in zip(self.pool.quotas, keys, strict=False)
        )

    def _hash(self, name: str, key: str) -> Key:
        text = f"{name}\0{key}".encode("utf-8", "surrogatepass")
        return hashlib.blake2s(text, digest_size=KEY_BYTES, key=self._secret).digest()

    def _class_index(self, scope: Any, otherwise: int) -> int:
        """The class of a connection; ``otherwise`` if the site's function fails."""
        if self.pool.classify is None:
            return 0
        try:
            name = self.pool.classify(scope)
            if name is None:
                return 0
            place = self._places.get(name)
            if place is None:
                self._log_unknown(str(name))
            return place or 0
        except Exception as error:
            self._note(CLASSIFY_FAILED, "connections have the class with the least share", error)
            return otherwise

    def _note(self, kind: str, effect: str, error: Exception) -> None:
        """Count an exception in a function of the site's own, and log each of its types once."""
        self._counters[FAULT + kind] += 1
        if len(self._failed) < MOST_UNKNOWN and (kind, type(error)) not in self._failed:
            self._failed.add((kind, type(error)))
            logger.error(
                "Pool %r: the function of %s raises %s; meanwhile %s.",
                self.pool.name, kind, type(error).__name__, effect, exc_info=error,
            )  # fmt: skip

    def _log_unknown(self, name: str) -> None:
        if len(self._unknown) < MOST_UNKNOWN and name not in self._unknown:
            self._unknown.add(name)
            logger.warning("The pool %r has no share for the class %r.", self.pool.name, name[:40])


def user_of(scope: Any) -> str | None:
    """The primary key of the scope's user; None if unauthenticated."""
    user = scope.get("user")
    if user is None or not getattr(user, "is_authenticated", False) or (pk := getattr(user, "pk", None)) is None:
        return None
    return str(pk)


def is_authenticated(scope: Any) -> bool:
    """Whether the client has authenticated, by the scope's user or by :data:`AUTHENTICATED`."""
    return bool(scope.get(AUTHENTICATED)) or user_of(scope) is not None

"""Errors of redis-py as errors of a ledger, without secrets."""

import re

from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    ConnectionError,
    MasterDownError,
    MaxConnectionsError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)

from ...conf.ledger import SHORTEST_SECRET
from ...exceptions import LedgerError, LedgerRefused, LedgerUnavailable

LONGEST_ERROR = 500
"""Characters of an error's text that are told."""
QUOTING = {ord(mark): None for mark in "\\'\""}

PASSING = re.compile(
    r"\b(OOM|READONLY|BUSY|LOADING|MASTERDOWN|NOREPLICAS|TRYAGAIN|CLUSTERDOWN|MOVED|ASK|UNKILLABLE|Script killed)\b"
)
"""Error replies that waiting mends, wherever they stand: Redis 6 wraps a script's errors into a sentence."""
PASSING_ERRORS = (OutOfMemoryError, ReadOnlyError, MasterDownError, TryAgainError, ClusterDownError, AskError)
"""The same, where the client has taken the word off the reply (a MovedError is an AskError)."""
UNAUTHENTICATED = re.compile(
    r"unauthenticated (multi)?bulk length|Authentication required|HELLO must be called with the client already"
)
"""Error replies to a client without a password. The first comes for a call that is long, as those of the ledger are."""


def translated(error: BaseException, passwords: frozenset[str]) -> BaseException:
    """The ledger's own error for ``error``; its text is left out where it holds one of the ``passwords``."""
    if isinstance(error, LedgerError) or not isinstance(error, Exception):
        return error
    error = origin(error)
    text = type(error).__name__
    if not _quotes(str(error), passwords):
        text = f"{text}: {str(error)[:LONGEST_ERROR]}"
    if UNAUTHENTICATED.search(str(error)):
        text = f"Redis wants a password that LEDGER does not give ({text})"
    return LedgerRefused(text) if _is_permanent(error) else LedgerUnavailable(text, reset=_is_reset(error))


def _quotes(text: str, passwords: frozenset[str]) -> bool:
    """Whether a text holds a password, be it within quotes within quotes."""
    secrets = (spelt for each in passwords if len(each) >= SHORTEST_SECRET for spelt in (each, repr(each), ascii(each)))
    return any(spelt.translate(QUOTING) in text.translate(QUOTING) for spelt in secrets)


def origin(error: Exception) -> Exception:
    """What went wrong at a node, where the client of a cluster only says that no node would do."""
    while isinstance(error, RedisClusterException):
        cause = error.__cause__ or error.__context__
        if not isinstance(cause, RedisError | RedisClusterException | OSError):
            break
        error = cause
    return error


def _is_permanent(error: Exception) -> bool:
    if isinstance(error, AuthenticationError | AuthorizationError | NoPermissionError):
        return True
    if isinstance(error, ResponseError):
        return not (isinstance(error, PASSING_ERRORS) or PASSING.search(str(error)))
    # Anything else is a mistake in the set-up, such as an option the client finds wrong when it connects.
    return not isinstance(error, RedisError | RedisClusterException | OSError)


def _is_reset(error: Exception) -> bool:
    """Whether a new connection may mend it: the old one broke, or leads to a server that lost its office."""
    return isinstance(error, ConnectionError | ReadOnlyError | OSError) and not isinstance(error, MaxConnectionsError)

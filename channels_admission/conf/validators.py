"""Validators of settings: each returns the converted value or raises :exc:`Wrong`."""

import difflib
import os
import re
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.util import find_spec
from inspect import iscoroutinefunction, signature
from numbers import Real
from traceback import extract_tb
from typing import Any

REASON_BYTES = 123
"""The longest reason of a close frame, in bytes of UTF-8 (RFC 6455, section 5.5)."""
MAX_AGE = 31_536_000
"""Seconds (one year); a larger age is taken for a mistake."""
MAX_RATE = 1_000_000
"""Admissions per second; a higher rate is taken for a mistake."""
SENDABLE_CODES = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1011, 1012, 1013, 1014, *range(3000, 5000)})
"""Close codes that a server may send (RFC 6455, section 7.4, and IANA's registry); 1010 is for clients."""


class Wrong(Exception):
    """A value is not valid for its key: ``must`` completes "must be …", ``why`` is a sentence about a part of it.

    Without ``must`` the sentence stands alone.
    """

    def __init__(self, must: str, why: str = "") -> None:
        super().__init__(must)
        self.why = why


class Failed(Wrong):
    """The import of the site's own module raises an exception."""


def brief(value: object, most: int = 60) -> str:
    """The value as Python writes it, cut after ``most`` characters with a mark that says so."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def closest(name: object, known: Iterable[str]) -> str | None:
    """The only one of the ``known`` names with this word, else the most similar one, or None."""
    folded = str(name).casefold()
    by_fold = {candidate.casefold(): candidate for candidate in known}
    with_word = [candidate for candidate in by_fold if folded in candidate.split("_")]
    close = with_word if len(with_word) == 1 else difflib.get_close_matches(folded, by_fold, 1)
    return by_fold[close[0]] if close else None


def nearest(name: object, known: Iterable[str]) -> str:
    """The question "Did you mean …?" for the end of a message, or an empty text."""
    close = closest(name, known)
    return f" Did you mean {close!r}?" if close is not None else ""


def misnamed(name: object, known: Iterable[str]) -> str:
    """An unknown key of a dict that may contain secrets, as shown in messages.

    It is quoted only where it is similar to a known key and in capitals. Other keys may be secrets.
    """
    is_name = re.fullmatch(r"[A-Z_]{1,20}", str(name)) and nearest(name, known)
    return repr(name) if is_name else "One of its keys"


def is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _is_async(found: Callable[..., Any]) -> bool:
    """Whether its call returns an awaitable."""
    return iscoroutinefunction(found) or iscoroutinefunction(type(found).__call__)


def imported(path: object) -> Any:
    """What a dotted path names; :exc:`Wrong` says what is not there, and :exc:`Failed` that a module fails."""
    if not isinstance(path, str) or not all(map(str.isidentifier, path.split("."))) or "." not in path:
        raise Wrong("", f"{path!r:.60} is not a dotted path.")
    module, _, name = path.rpartition(".")
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise _failed(module, error) from error
        raise Wrong("", f"There is no module {error.name!r:.60} (in {path!r:.60}).") from error
    except Exception as error:
        raise _failed(module, error) from error
    try:
        return getattr(found, name)
    except AttributeError as error:
        if _is_module(found, name):
            raise Wrong("", f"{path!r:.60} is a module; name a function in it.") from error
        raise Wrong("", f"The module {module!r:.60} has no {name!r:.60}.{nearest(name, vars(found))}") from error


def _is_module(package: Any, name: str) -> bool:
    """Whether a package has a module of that name, which is not imported for it."""
    return hasattr(package, "__path__") and find_spec(f"{package.__name__}.{name}") is not None


def _failed(module: str, error: Exception) -> Failed:
    """The import of a module raised ``error``: where, and what."""
    frames = [frame for frame in extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    at = frames[-1] if len(frames) > 1 else None
    where = f" ({at.filename}, line {at.lineno})" if at else ""
    text = "".join(each if each.isprintable() else " " for each in str(error))
    return Failed("", f"The import of {module!r:.60} fails{where}: {type(error).__name__}: {text:.200}.")


def function(path: object, named: str, called: str, *arguments: str) -> Callable[..., Any]:
    """The function at a dotted path, which is called with ``arguments``; it is not called here.

    ``named`` and ``called`` say what it must be, in the messages of errors.
    """
    if not isinstance(path, str):
        raise Wrong(named)
    found = imported(path)
    if not callable(found):
        raise Wrong(called, f"{path!r:.60} is not callable.")
    if _is_async(found):
        raise Wrong(f"{called} without await", f"{path!r:.60} is an async function.")
    try:
        signature(found).bind(*arguments)
    except TypeError:
        given = f"one argument, the {arguments[0]}" if arguments else "no argument"
        raise Wrong("", f"{path!r:.60} is called with {given}, but is {name_of(found)}{signature(found)}.") from None
    except ValueError:  # a function in C may tell no signature
        pass
    return found  # type: ignore[no-any-return]


def name_of(found: Any) -> str:
    return str(getattr(found, "__name__", type(found).__name__))


def whole(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise Wrong(f"a whole number from {low} to {high}")
        return value

    return read


def optional_whole(low: int, high: int) -> Callable[[Any], int | None]:
    def read(value: Any) -> int | None:
        if value is None:
            return None
        try:
            return whole(low, high)(value)
        except Wrong as wrong:
            raise Wrong(f"{wrong} or None") from None

    return read


def seconds(low: float, high: float) -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if not is_number(value) or not low <= value <= high:
            raise Wrong(f"a number of seconds from {low:g} to {high:g}")
        return float(value)

    return read


def share(value: Any) -> float:
    if not is_number(value) or not 0 < value <= 1:
        raise Wrong("a share of the limit above 0 and at most 1, such as 0.7")
    return float(value)


def one_of(*choices: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in choices:
            raise Wrong("one of " + ", ".join(map(repr, choices)))
        return str(value)

    return read


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Wrong("True or False")
    return value


def optional_flag(value: Any) -> bool | None:
    if not (value is None or isinstance(value, bool)):
        raise Wrong("True, False or None")
    return value


def prefix(value: Any) -> str:
    if not isinstance(value, str) or not 1 <= len(value) <= 64 or not value.isprintable() or set(value) & set("{} "):
        raise Wrong("1 to 64 printable characters without spaces and braces")
    return value


def reason(value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable() or len(value.encode()) > 100:
        raise Wrong("one printable line of at most 100 bytes (a close frame carries 123 with the retry time)")
    return value


def close_code(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value not in SENDABLE_CODES:
        raise Wrong("a close code a server may send: 1013 (Try Again Later), another registered one, or 3000 to 4999")
    return value


def retry_bounds(value: Any) -> tuple[float, float]:
    if not isinstance(value, tuple | list) or len(value) != 2 or not all(map(is_number, value)):
        raise Wrong("two numbers of seconds, (least, most)")
    low, high = map(float, value)
    if not 0.5 <= low <= high <= 3600:
        raise Wrong("two numbers of seconds, (least, most), with 0.5 <= least <= most <= 3600")
    return low, high


def optional_seconds(low: float, high: float = 3600) -> Callable[[Any], float | None]:
    def read(value: Any) -> float | None:
        if value is not None and (not is_number(value) or not low <= value <= high):
            raise Wrong(f"None or a number of seconds from {low:g} to {high}")
        return None if value is None else float(value)

    return read


def rate(value: Any) -> float | None:
    if value is not None and (not is_number(value) or not 0.01 <= value <= MAX_RATE):
        raise Wrong(f"None or a number of admissions per second from 0.01 to {MAX_RATE}")
    return None if value is None else float(value)


def burst(value: Any) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_RATE):
        raise Wrong(f"None or a whole number of admissions from 1 to {MAX_RATE}")
    return None if value is None else int(value)


def token(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9._~+/=-]{32,256}", value)):
        return value
    raise Wrong("None or 32 to 256 letters, digits and ._~+/=-, such as secrets.token_urlsafe() gives")


def size(value: Any) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 2**20 <= value <= 2**50):
        raise Wrong("None or a whole number of bytes, at least 1048576 (1 MiB)")
    return None if value is None else int(value)


def folder(value: Any) -> str | None:
    """An absolute path; whether it can be used is seen in each worker."""
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if path is not None and not (isinstance(path, str) and os.path.isabs(path) and "\0" not in path):
        raise Wrong("None or the absolute path of a directory")
    return path

"""The guard of a test run, a variable of the environment: processes that inherit it count in memory, not in Redis."""

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager

VARIABLE = "CHANNELS_ADMISSION_GUARD"


def is_guarded(environ: Mapping[str, str]) -> bool:
    """Whether the guard is on in this environment."""
    return environ.get(VARIABLE, "") == "on"


@contextmanager
def guarding(environ: MutableMapping[str, str], *, on: bool = True) -> Iterator[None]:
    """Turn the guard on, or off, and restore what was before."""
    before = environ.get(VARIABLE)
    environ[VARIABLE] = "on" if on else "off"
    try:
        yield
    finally:
        if before is None:
            del environ[VARIABLE]
        else:
            environ[VARIABLE] = before

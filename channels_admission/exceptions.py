"""Exceptions. A refused connection is a value (:class:`~.types.Refusal`), not an exception.

::

    AdmissionError
    ├── ConfigurationError      CHANNELS_ADMISSION is wrong (also a Django ImproperlyConfigured)
    ├── ControlError            an override cannot be set
    └── LedgerError             a call of the ledger failed
        ├── LedgerUnavailable   an outage: temporary, worth a retry
        └── LedgerRefused       permanent: a password, an ACL or a key must be changed
"""

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils import translation


class AdmissionError(Exception):
    """The base of every exception of this package."""

    made: tuple[Any, ...] = ()
    """The :class:`~.controls.Change` of each pool that was changed before the exception."""


class ConfigurationError(AdmissionError, ImproperlyConfigured):
    """The settings are wrong; the message lists every problem with its hint."""


class ControlError(AdmissionError):
    """An override cannot be set; the message says why, and suggests what may be meant.

    ``text`` and ``hint`` are translatable formats of ``values``. The message itself is English, for terminals and logs.
    """

    def __init__(self, text: str, hint: str = "", **values: object) -> None:
        super().__init__(f"{text} {hint}".strip().format(**values))
        self._parts = [part for part in (text, hint) if part]
        self._values = values

    def translated(self) -> str:
        """The message in the active language."""
        return " ".join(translation.gettext(part).format(**self._values) for part in self._parts)


class LedgerError(AdmissionError):
    """A call of the ledger failed; the message never contains a password."""


class LedgerUnavailable(LedgerError):
    """The ledger cannot be reached, or is temporarily unable to serve.

    ``reset`` is true if the connection broke during the call, so that a retry on a new connection may succeed at once.
    """

    def __init__(self, message: str, *, reset: bool = False) -> None:
        super().__init__(message)
        self.reset = reset


class LedgerRefused(LedgerError):
    """The ledger refuses every call until the configuration is changed."""

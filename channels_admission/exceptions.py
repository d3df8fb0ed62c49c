"""The faults this package raises; a refused connection is a value (:class:`~.core.protocol.Refusal`), not a fault.

::

    AdmissionError
    ├── ConfigurationError      CHANNELS_ADMISSION is wrong (also a Django ImproperlyConfigured)
    ├── ControlError            what an operator wants to set cannot be set
    └── LedgerError             an exchange with the ledger failed
        ├── LedgerUnavailable   an outage: heals by itself, worth asking again
        └── LedgerRefused       a permanent refusal: somebody must change a password, an ACL or a key
"""

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils import translation


class AdmissionError(Exception):
    """The root of every exception of this package."""

    made: tuple[Any, ...] = ()
    """The :class:`~.controls.Change` of each pool that had been changed before another one could not be."""


class ConfigurationError(AdmissionError, ImproperlyConfigured):
    """The settings are wrong; the message lists every problem with its hint."""


class ControlError(AdmissionError):
    """What an operator wants to set cannot be set; the message says why, and what could be meant.

    ``text`` and ``hint`` are marked for translation and take ``values``. The message itself is in English, for
    terminals and logs.
    """

    def __init__(self, text: str, hint: str = "", **values: object) -> None:
        super().__init__(f"{text} {hint}".strip().format(**values))
        self._parts = [part for part in (text, hint) if part]
        self._values = values

    def translated(self) -> str:
        """The message in the language that is active."""
        return " ".join(translation.gettext(part).format(**self._values) for part in self._parts)


class LedgerError(AdmissionError):
    """An exchange with the ledger failed; the message never holds a password."""


class LedgerUnavailable(LedgerError):
    """The ledger cannot be reached or asks to be left alone for now.

    ``reset`` is true where the connection broke under the call, so that one more try over a new
    connection may well succeed at once.
    """

    def __init__(self, message: str, *, reset: bool = False) -> None:
        super().__init__(message)
        self.reset = reset


class LedgerRefused(LedgerError):
    """The ledger answers, but will go on refusing until its set-up or ours is changed."""

"""``ALERTS``: the recipients of alerts, beside the receivers of signals."""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from .validators import Wrong, misnamed, nearest

KEYS = ("MAIL_ADMINS", "WEBHOOK", "LEDGER")


@dataclass(frozen=True, slots=True)
class Recipients:
    """Recipients of alerts; ``webhook`` is a URL that takes JSON by POST, and may contain a secret."""

    mail_admins: bool = False
    webhook: str | None = field(default=None, repr=False)
    ledger: bool = False
    """Whether every worker also sends an alert when it loses or regains the ledger."""

    def __bool__(self) -> bool:
        return self.mail_admins or self.webhook is not None


def recipients(value: Any) -> Recipients:
    if not isinstance(value, dict):
        raise Wrong("a dict of " + ", ".join(KEYS))
    for name in value:
        if name not in KEYS:
            known = nearest(name, KEYS)
            raise Wrong("a dict of " + ", ".join(KEYS), f"{misnamed(name, KEYS)} is unknown.{known}")
    mail_admins, webhook, ledger = value.get("MAIL_ADMINS", False), value.get("WEBHOOK"), value.get("LEDGER", False)
    if not isinstance(mail_admins, bool) or not isinstance(ledger, bool):
        raise Wrong("a dict in which MAIL_ADMINS and LEDGER are True or False")
    if webhook is not None and not _is_url(webhook):
        raise Wrong("a dict in which WEBHOOK is a URL that begins with https:// or http://, without user and password")
    return Recipients(mail_admins, webhook, ledger)


def _is_url(value: Any) -> bool:
    if not isinstance(value, str) or not value.isprintable() or " " in value:
        return False
    try:
        url = urlsplit(value)
        # urllib takes user:password@ before the host for a part of the host's name.
        return url.scheme in ("http", "https") and bool(url.hostname) and "@" not in url.netloc and url.port != 0
    except ValueError:
        return False

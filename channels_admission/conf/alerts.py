"""``ALERTS`` read: who is told when a pool fills, beside the receivers of the signals."""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from .validators import Wrong, misnamed, nearest

KEYS = ("MAIL_ADMINS", "WEBHOOK", "LEDGER")


@dataclass(frozen=True, slots=True)
class Recipients:
    """``webhook`` is a URL that takes JSON by POST, or None; it may hold a secret."""

    mail_admins: bool = False
    webhook: str | None = field(default=None, repr=False)
    ledger: bool = False
    """Whether they also hear, from every worker, that the ledger is lost or regained."""

    def __bool__(self) -> bool:
        return self.mail_admins or self.webhook is not None


def recipients(value: Any) -> Recipients:
    if not isinstance(value, dict):
        raise Wrong("a dict of " + ", ".join(KEYS))
    for name in value:
        if name not in KEYS:
            known = nearest(name, KEYS)
            raise Wrong(f"a dict of {', '.join(KEYS)}, and {misnamed(name, KEYS)} is none of them.{known}")
    mail_admins, webhook, ledger = value.get("MAIL_ADMINS", False), value.get("WEBHOOK"), value.get("LEDGER", False)
    if not isinstance(mail_admins, bool) or not isinstance(ledger, bool):
        raise Wrong("a dict in which MAIL_ADMINS and LEDGER are True or False")
    if webhook is not None and not _is_url(webhook):
        raise Wrong("a dict in which WEBHOOK is a URL that begins with https:// or http:// and has no user or password")
    return Recipients(mail_admins, webhook, ledger)


def _is_url(value: Any) -> bool:
    if not isinstance(value, str) or not value.isprintable() or " " in value:
        return False
    try:
        url = urlsplit(value)
        # urllib takes a user and password before the host for a part of its name.
        return url.scheme in ("http", "https") and bool(url.hostname) and "@" not in url.netloc and url.port != 0
    except ValueError:
        return False

"""Alerts by mail and to a webhook, sent from one thread of the process."""

import json
import logging
import os
import queue
import threading
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.error import HTTPError

from django.core.mail import mail_admins

from ..conf.alerts import Recipients
from ..runtime.faults import running

logger = logging.getLogger("channels_admission")

TIMEOUT = 5.0
"""Seconds for which a webhook may be silent; for mail see Django's ``EMAIL_TIMEOUT``."""
MOST_WAITING = 100
"""Alerts that wait in the process, beside the one that is being sent; further ones are dropped."""


class Alert(NamedTuple):
    """``text`` is for people, ``details`` for the webhook."""

    to: Recipients
    text: str
    details: Mapping[str, Any]


class Sender:
    """Sends alerts one after the other. The end of the process does not wait for them."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Start with no alert and no thread, as in a forked child: its parent sends the parent's alerts."""
        self._waiting: queue.Queue[Alert] = queue.Queue(MOST_WAITING)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def send(self, to: Recipients, text: str, details: Mapping[str, Any]) -> bool:
        """Send an alert soon; False if it was dropped. Returns at once and never fails."""
        try:
            self._waiting.put_nowait(Alert(to, text, details))
        except queue.Full:
            return False
        try:
            with self._lock:
                self._thread = running(self._thread, self._run, name="admission alerts")
        except (RuntimeError, MemoryError) as error:
            logger.error("Alerts wait for the next one, since no thread could be started: %s", error)
        return True

    def _run(self) -> None:
        while True:
            alert = self._waiting.get()
            if (url := alert.to.webhook) is not None:
                _attempt(_post, url, alert.details)
            if alert.to.mail_admins:
                _attempt(mail_admins, alert.text, alert.text + "\n")


def _attempt(send: Callable[..., object], *args: Any) -> None:
    try:
        send(*args)
    except Exception as error:
        # The type and the HTTP status only: a webhook's address may hold a secret.
        status = f" {error.code}" if isinstance(error, HTTPError) else ""
        logger.error("An alert could not be sent: %s%s", type(error).__name__, status)


def _post(url: str, details: Mapping[str, Any]) -> None:
    headers = {"Content-Type": "application/json", "User-Agent": "channels-admission"}
    # The settings allow http and https only.
    request = urllib.request.Request(url, json.dumps(details).encode(), headers, method="POST")  # noqa: S310
    with urllib.request.build_opener(_NoRedirects).open(request, timeout=TIMEOUT):
        pass


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Takes a redirect for an error. To follow it would be a GET without the alert, which may well succeed."""

    def redirect_request(self, *_: Any) -> None:
        return None


sender = Sender()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=sender.begin)

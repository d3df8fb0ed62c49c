"""Alerts on their way out of the process, by mail and to a webhook, in a thread that holds up nobody."""

import json
import logging
import os
import queue
import threading
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

from django.core.mail import mail_admins

from ..conf.alerts import Recipients
from ..runtime.faults import running

logger = logging.getLogger("channels_admission")

TIMEOUT = 5.0
"""Seconds that a webhook has to answer; for mail see Django's ``EMAIL_TIMEOUT``."""
MOST_WAITING = 100
"""Alerts that may wait; those beyond them are dropped, and the log says so."""


class Webhook:
    """Sends one after the other. The end of the process waits for none."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew: a forked child has no threads of its parent, and sends none of its parent's alerts."""
        self._waiting: queue.Queue[Callable[[], object]] = queue.Queue(MOST_WAITING)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def send(self, to: Recipients, subject: str, facts: Mapping[str, Any]) -> None:
        """Send an alert to whoever of ``to`` there is; returns at once and never fails."""
        if to.mail_admins:
            self._put(lambda: mail_admins(subject, subject + "\n"))
        if (url := to.webhook) is not None:
            self._put(lambda: _post(url, facts))

    def _put(self, job: Callable[[], object]) -> None:
        try:
            self._waiting.put_nowait(job)
        except queue.Full:
            logger.error("An alert was dropped: %d others wait to be sent.", MOST_WAITING)
        try:
            with self._lock:
                self._thread = running(self._thread, self._run, name="admission alerts")
        except (RuntimeError, MemoryError) as error:
            logger.error("Alerts wait for the next one, since no thread could be started: %s", error)

    def _run(self) -> None:
        while True:
            job = self._waiting.get()
            try:
                job()
            except Exception as error:
                # Its own words only: a webhook's address may hold a secret.
                logger.error("An alert could not be sent: %s", type(error).__name__)


def _post(url: str, facts: Mapping[str, Any]) -> None:
    headers = {"Content-Type": "application/json", "User-Agent": "channels-admission"}
    # The settings allow http and https only.
    request = urllib.request.Request(url, json.dumps(facts).encode(), headers, method="POST")  # noqa: S310
    with urllib.request.urlopen(request, timeout=TIMEOUT):  # noqa: S310
        pass


outbox = Webhook()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=outbox.forget)

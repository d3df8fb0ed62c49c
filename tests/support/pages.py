"""The pages of the admin, and workers for them to show."""

import asyncio
import time
from dataclasses import replace
from html.parser import HTMLParser

from channels_admission import conf
from channels_admission.ledger import open_ledger

from support.reports import Reporter

PAGE = "/admin/channels_admission/pool/"
FEED = "/admin/channels_admission/pool/feed/"
INDEX = "/admin/"
HISTORY = "/admin/channels_admission/pool/history/"


def report(worker: str = "web-1:4242:ab12", held: int = 0, *, pool: str = "default", **changes) -> None:
    """Let the memory ledger hear of ``worker``, ``host:pid:nonce``."""
    limit = conf.current().pool(pool).max_connections
    reporter = Reporter(open_ledger(conf.current()), worker.split(":")[-1], limit=limit, pool=pool)
    reporter.last = replace(reporter.last, worker=worker, seq=time.monotonic_ns())
    asyncio.run(reporter.say(held, **changes))


class Page(HTMLParser):
    """The elements of a page, each as its name and attributes, those inside templates included."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))

    def shown(self, notice: str) -> bool:
        (hidden,) = {"hidden" in given for _, given in self.elements if given.get("data-notice") == notice}
        return not hidden

    def board(self) -> dict[str, str | None]:
        (given,) = (given for _, given in self.elements if "data-admission" in given)
        return given

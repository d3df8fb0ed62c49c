"""Template tags for the client's script and the admin panel, and filters for numbers and names.

``{% load channels_admission %}{% admission_socket %}`` loads the class ``AdmissionSocket``.
``{% admission_panel %}`` shows the panel on the start page of an admin site with its own index
template.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django import template
from django.core.serializers.json import DjangoJSONEncoder
from django.template import Context
from django.templatetags.static import static
from django.urls import NoReverseMatch, reverse
from django.utils.formats import number_format
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from ..core.agreement import SITE
from ..core.levels import Level
from ..core.overrides import Drain, Order, timestamp, utc
from ..core.readings import Load
from ..status import words
from ..status.cache import look
from ..status.values import LostWorker, PoolSnapshot, Second, WorkerSnapshot
from ..status.words import named

register = template.Library()

SCRIPT = "channels_admission/admission-socket.classic.js"

MILLISECONDS = pgettext_lazy("milliseconds", "%s ms")
PERCENT = pgettext_lazy("percent", "%s %%")
READINGS: Mapping[str, tuple[int, Any]] = {
    "lag": (1000, MILLISECONDS),
    "memory": (100, PERCENT),
    "descriptors": (100, PERCENT),
    "cpu": (100, PERCENT),
    "threads": (1000, MILLISECONDS),
}
"""The factor of a monitor's reading, and the format of the product."""

CHART: Mapping[str, Any] = {
    "admitted": pgettext_lazy("connections", "admitted"),
    # Translators: {time} is a time of day, {held} and {limit} are numbers, {admitted} one per second.
    "point": _("{time}: {held} of {limit} held, per second: admitted {admitted}"),
    "unknown": _("{time}: no worker had reported"),
    # Translators: {most} is a number, {time} a time of day.
    "spike": _("Above the chart: {most} per second at {time}."),
    # Translators: all are numbers.
    "summary": _("At most {most} held; {admitted} admitted and {refused} refused."),
}

TROUBLE = ("paused", "draining", Level.FULL, Level.CRITICAL, Level.WARNING, Level.CALM)
"""The states of pools, the gravest first."""
WORKERS_SHOWN = 100
"""Most workers of a pool on the page: a browser shows no more than that in the time between two fetches."""

# Translators: {held} and {limit} are numbers.
GAUGE = _("{held} of {limit} slots held")
# Translators: read out when the level of a pool changes. {pool} and {level} are names, {held} and {limit} numbers.
CHANGE = _("Pool {pool}: {level}. {held} of {limit} slots held.")


@dataclass(frozen=True, slots=True)
class OrderShown:
    """An override in words; a drain has a target."""

    key: str
    what: str
    by: str
    target: str = ""
    blank: bool = False


BLANKS: Mapping[str, PoolSnapshot | WorkerSnapshot | OrderShown | Load | Second] = {
    "pool": PoolSnapshot(
        name="",
        held=0,
        limit=0,
        free=0,
        share=0.0,
        warn_at=1.0,
        level=Level.CALM,
        admitted=0,
        refused={},
        shed=0,
        workers=(),
    ),
    "worker": WorkerSnapshot(id="", host="", pid=0, server="", held=0, silence=0.0, uptime=0.0),
    "order": OrderShown("", "", "", blank=True),
    "load": Load("", None, 0.0),
    "second": Second(0, 0),
}
"""Empty values for the templates from which the script adds elements to the page."""


register.filter(named)


@register.filter
def number(value: int) -> str:
    """A whole number with the language's thousands separators."""
    return number_format(value, force_grouping=True)


@register.filter
def free(pool: PoolSnapshot) -> str:
    """The number of slots that new connections can get, or why there is none."""
    return str(words.NAMES["free"].get(pool.state, number(pool.free)))


def _number(value: float) -> str:
    """A number, with decimals only where it has any."""
    return number_format(value if value % 1 else int(value), force_grouping=True)


@register.filter
def duration(seconds: float) -> str:
    """A time span in its longest unit and the one after it: ``2 h 5 min``, ``3 s``."""
    return " ".join(_unbroken(part) for part in words.duration(seconds))


def _unbroken(text: str) -> str:
    # Lines break between the units, not within one.
    return text.replace(" ", "\u00a0")


@register.filter
def by_trouble(pools: Iterable[PoolSnapshot] | None) -> list[PoolSnapshot]:
    """The pools in order of their trouble: by the graver of state and level for alerts, which changes less often."""
    return sorted(pools or (), key=lambda pool: min(TROUBLE.index(pool.state), TROUBLE.index(pool.alert)))


@register.filter
def shown(workers: Sequence[WorkerSnapshot]) -> Sequence[WorkerSnapshot]:
    """All workers of a pool that has few; of many the worst, and then those with the most connections."""
    if len(workers) <= WORKERS_SHOWN:
        return workers
    return sorted(workers, key=words.worst)[:WORKERS_SHOWN]


@register.filter
def more(workers: Sequence[WorkerSnapshot]) -> int:
    """How many workers of a pool are not shown."""
    return max(0, len(workers) - WORKERS_SHOWN)


@register.filter
def reading(load: Load) -> str:
    """A monitor's reading, or a question mark if unknown."""
    if load.reading is None:
        return "?"
    if load.name not in READINGS:
        return _number(float(f"{load.reading:.3g}"))
    times, written = READINGS[load.name]
    return _unbroken(str(written) % round(times * load.reading))


@register.filter
def orders(pool: PoolSnapshot) -> list[OrderShown]:
    """The overrides of a pool, with operator and time."""
    shown = words.overrides(pool, _number)
    return [OrderShown(each.key, each.what, _by(each.order), each.target) for each in shown]


def _by(order: Order | Drain) -> str:
    return str(words.ORDERS["by"]).format(by=order.by or "?", at=timestamp(order.at))


@register.filter
def unless(pool: PoolSnapshot, state: str) -> bool:
    """Whether a pool is not in a state: ``limited`` by an operator, ``paused``, or ``dry`` for a dry run."""
    return not {"limited": pool.controls.limit, "paused": pool.paused, "dry": pool.dry_run}[state]


@register.filter
def clock(second: int) -> str:
    """The time of day of a second of Unix time, in UTC."""
    return f"{utc(second):%H:%M:%S}"


@register.filter
def lost_at(workers: Iterable[LostWorker]) -> str:
    """Lost workers in one line, each with the time of day in UTC."""
    return ", ".join(f"{clock(each.at)} {each.host} {each.pid}" for each in workers)


@register.filter
def length_of(share: float) -> str:
    """A share as a length in an SVG, at most 100 %."""
    return f"{100 * min(share, 1):.1f}%"


@register.filter
def total(counters: Mapping[str, int]) -> int:
    """The sum over all reasons."""
    return sum(counters.values())


@register.filter
def listed(counters: Mapping[str, int]) -> str:
    """Counts in one line: ``3 OSError, 1 ValueError``."""
    return ", ".join(f"{number(count)} {name}" for name, count in counters.items())


@register.filter
def differing(pool: PoolSnapshot) -> list[str]:
    """The settings in which workers differ; their sites have a notice of their own."""
    return [name for name in pool.differs if name != SITE]


@register.filter
def gauge(pool: PoolSnapshot) -> str:
    """The gauge in words."""
    return str(GAUGE).format(held=number(pool.held), limit=number(pool.limit))


@register.filter
def pairs(counters: Mapping[str, int]) -> Iterable[tuple[str, int]]:
    """The items of a mapping. In a template ``counters.items`` would be the count of a class named ``items``."""
    return counters.items()


@register.simple_tag
def admission_words() -> str:
    """The names, units and sentences above as JSON, for the script that updates the page."""
    texts = {
        **words.NAMES,
        "durations": words.DURATIONS,
        "readings": READINGS,
        "quota": words.QUOTA_REASON,
        "attempts": words.ATTEMPTS_REASON,
        "chart": CHART,
        "trouble": TROUBLE,
        "workersShown": WORKERS_SHOWN,
        "order": words.ORDERS,
        "gauge": GAUGE,
        "change": CHANGE,
    }
    return json.dumps(texts, cls=DjangoJSONEncoder)


@register.simple_tag
def admission_blank(kind: str) -> PoolSnapshot | WorkerSnapshot | OrderShown | Load | Second:
    """An empty ``pool``, ``worker``, ``order``, ``load`` or ``second``."""
    return BLANKS[kind]


@register.simple_tag(takes_context=True)
def admission_socket(context: Context, nonce: object = None) -> SafeString:
    """A script tag that defines the class ``AdmissionSocket``.

    Its nonce is ``nonce``, or else that of Django's or django-csp's middleware for the response, if any.
    """
    url = static(SCRIPT)
    if nonce is None:
        nonce = context.get("csp_nonce", getattr(context.get("request"), "csp_nonce", None))
    # An unused nonce is falsy; str() creates it.
    if written := "" if nonce is None else str(nonce):
        return format_html('<script src="{}" nonce="{}"></script>', url, written)
    return format_html('<script src="{}"></script>', url)


@register.inclusion_tag("channels_admission/panel.html", takes_context=True)
def admission_panel(context: Context) -> dict[str, Any]:
    """Live counts of all pools. Empty without the permission to view, and on sites without the page."""
    request = context.get("request")
    if request is None or not request.user.has_perm("channels_admission.view_pool"):
        return {}
    site = getattr(request, "current_app", None)
    try:
        page = reverse("admin:channels_admission_pool_changelist", current_app=site)
        feed = reverse("admin:channels_admission_pool_feed", current_app=site)
        history = reverse("admin:channels_admission_pool_history", current_app=site)
    except NoReverseMatch:
        return {}
    return {"look": look(), "page_url": page, "feed_url": feed, "history_url": history}

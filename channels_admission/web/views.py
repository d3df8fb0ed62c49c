"""What is asked by URL, of balancers, of programs and of Prometheus. See :mod:`.urls`.

All but the readiness is for users with the permission ``channels_admission.view_pool``, and for
whoever has the token ``STATUS_TOKEN`` and sends it as ``Authorization: Bearer TOKEN``.
"""

import asyncio
from collections.abc import Callable
from functools import wraps
from http import HTTPStatus
from typing import Any

from asgiref.sync import async_to_sync
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import cache_control
from django.views.decorators.http import require_safe

from .. import conf
from ..conf import Settings
from ..readiness import answer
from ..status import cache, history

PERMISSION = "channels_admission.view_pool"
TEXT = "text/plain; charset=utf-8"
LIBRARY_MISSING = (
    "The metrics need the library prometheus_client, which is not installed here: "
    "pip install 'channels-admission[prometheus]'\n"
)

View = Callable[[HttpRequest], HttpResponse]


def _plain(response: HttpResponse) -> HttpResponse:
    """``response`` as what it says it is, whatever the middleware of the site."""
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


@login_not_required
@require_safe
@cache_control(no_store=True)
async def readiness(request: HttpRequest) -> HttpResponse:
    """Whether the worker that answers should be sent new WebSockets; for everybody, in one word."""
    status, text = answer(request.META["QUERY_STRING"])
    return _plain(HttpResponse(f"{text}\n", content_type=TEXT, status=status))


def _guarded(view: View) -> View:
    """``view`` for those who may look; 401 for strangers, 403 for users without the permission; never stored."""

    @login_not_required
    @require_safe
    @cache_control(no_store=True)
    @wraps(view)
    def look(request: HttpRequest) -> HttpResponse:
        return _plain(_refusal(request) or view(request))

    return look


def _refusal(request: HttpRequest) -> HttpResponse | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return None if _is_ours(token.strip()) else _unauthorized(', error="invalid_token"')
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return _unauthorized()
    return None if user.has_perm(PERMISSION) else HttpResponse(status=HTTPStatus.FORBIDDEN)


def _is_ours(token: str) -> bool:
    ours = conf.current().status_token
    return ours is not None and constant_time_compare(token, ours)


def _unauthorized(error: str = "") -> HttpResponse:
    challenge = f'Bearer realm="channels_admission"{error}'
    return HttpResponse(status=HTTPStatus.UNAUTHORIZED, headers={"WWW-Authenticate": challenge})


@_guarded
def status(request: HttpRequest) -> JsonResponse:
    """This moment's snapshot, as ``ws_status --json`` prints it; that the ledger is down is a 200 which says so."""
    return feed(request)


@_guarded
def metrics(request: HttpRequest) -> HttpResponse:
    """The same for Prometheus, in the format that it asks for."""
    try:
        from .metrics import exposition
    except ImportError:
        return HttpResponse(LIBRARY_MISSING, content_type=TEXT, status=HTTPStatus.NOT_IMPLEMENTED)
    body, content_type = exposition(cache.look().now, request.headers.get("Accept", ""))
    return HttpResponse(body, content_type=content_type)


def feed(request: HttpRequest) -> JsonResponse:
    """This moment's :meth:`~.snapshot.Snapshot.as_dict`; that the ledger is down is a 200 which says so."""
    return JsonResponse(cache.look().now.as_dict())


def past(request: HttpRequest) -> JsonResponse:
    """Each pool's :meth:`~.history.History.as_dict`, without the minutes where ``?minutes`` does not ask for them."""
    minutes = "minutes" in request.GET
    pools = async_to_sync(_past)(conf.current(), minutes)
    if not minutes:
        for pool in pools.values():
            del pool["minutes"]
    return JsonResponse({"pools": pools})


async def _past(settings: Settings, minutes: bool) -> dict[str, dict[str, Any]]:
    seen = await asyncio.gather(*(history.collect(name, settings, minutes=minutes) for name in settings.pools))
    return {each.pool: each.as_dict() for each in seen}

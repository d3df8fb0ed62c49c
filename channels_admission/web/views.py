"""Views for load balancers, programs and Prometheus; :mod:`.urls` has their paths.

Readiness is public. The others need the permission ``channels_admission.view_pool``, or the header
``Authorization: Bearer TOKEN`` with the ``STATUS_TOKEN`` of the settings.
"""

from collections.abc import Callable
from functools import wraps
from http import HTTPStatus

from asgiref.sync import async_to_sync
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils.crypto import constant_time_compare
from django.views.decorators.cache import cache_control
from django.views.decorators.http import require_safe

from .. import conf
from ..readiness import answer
from ..status import cache, history

try:
    from .metrics import exposition
except ImportError:  # prometheus_client is optional
    exposition = None  # type: ignore[assignment]

PERMISSION = "channels_admission.view_pool"
TEXT = "text/plain; charset=utf-8"
LIBRARY_MISSING = (
    "The metrics need the library prometheus_client, which is not installed: "
    "pip install 'channels-admission[prometheus]'\n"
)

# Answers to refused requests: what is missing.
NO_LOGIN = (
    "Missing: the header 'Authorization: Bearer TOKEN' with the STATUS_TOKEN of CHANNELS_ADMISSION, "
    "or a login with the permission channels_admission.view_pool.\n"
)
NOT_OURS = "The token is not the STATUS_TOKEN of CHANNELS_ADMISSION, or the settings have none.\n"
NO_PERMISSION = "Missing: the permission channels_admission.view_pool for the user that is logged in.\n"

View = Callable[[HttpRequest], HttpResponse]


def _plain(response: HttpResponse) -> HttpResponse:
    """Forbid content sniffing, whatever middleware the site has."""
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


@login_not_required
@require_safe
@cache_control(no_store=True)
async def readiness(request: HttpRequest) -> HttpResponse:
    """Whether the answering worker should get new WebSockets, in one word. Public."""
    status, text = answer(request.META["QUERY_STRING"])
    return _plain(HttpResponse(f"{text}\n", content_type=TEXT, status=status))


def _guarded(view: View) -> View:
    """Require the permission or the token: 401 if unauthenticated, 403 without the permission. Never cached."""

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
        return None if _is_ours(token.strip()) else _unauthorized(NOT_OURS, ', error="invalid_token"')
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return _unauthorized(NO_LOGIN)
    if user.has_perm(PERMISSION):
        return None
    return HttpResponse(NO_PERMISSION, content_type=TEXT, status=HTTPStatus.FORBIDDEN)


def _is_ours(token: str) -> bool:
    ours = conf.current().status_token
    return ours is not None and constant_time_compare(token, ours)


def _unauthorized(text: str, error: str = "") -> HttpResponse:
    challenge = {"WWW-Authenticate": f'Bearer realm="channels_admission"{error}'}
    return HttpResponse(text, content_type=TEXT, status=HTTPStatus.UNAUTHORIZED, headers=challenge)


@_guarded
def status(request: HttpRequest) -> JsonResponse:
    """The current snapshot, as ``ws_status --json`` prints it. A ledger that is down is part of it, with status 200."""
    return feed(request)


@_guarded
def metrics(request: HttpRequest) -> HttpResponse:
    """The pools of the current snapshot as metrics, in the format of the ``Accept`` header."""
    return _exposition(request)


@_guarded
def worker_metrics(request: HttpRequest) -> HttpResponse:
    """The same of each worker."""
    return _exposition(request, of_workers=True)


def _exposition(request: HttpRequest, *, of_workers: bool = False) -> HttpResponse:
    if exposition is None:
        return HttpResponse(LIBRARY_MISSING, content_type=TEXT, status=HTTPStatus.NOT_IMPLEMENTED)
    body, content_type = exposition(cache.look().now, request.headers.get("Accept", ""), of_workers=of_workers)
    return HttpResponse(body, content_type=content_type)


def feed(request: HttpRequest) -> JsonResponse:
    """The current snapshot as JSON. A ledger that is down is part of it, with status 200."""
    return JsonResponse(cache.look().now.as_dict())


def past(request: HttpRequest) -> JsonResponse:
    """Each pool's history as JSON; the minutes only with ``?minutes``."""
    settings = conf.current()
    return JsonResponse(async_to_sync(history.collect_all)(settings, settings.pools, minutes="minutes" in request.GET))

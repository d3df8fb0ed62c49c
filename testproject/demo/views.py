"""The demo page and its button, and a blank page for tests."""

import os
import secrets
import signal

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.http import require_POST

from channels_admission import conf
from channels_admission.status.cache import look

from .consumers import HERD

RESTARTER = "DEMO_RESTARTER"
"""In the environment of the workers: the process that restarts them when it gets SIGUSR1."""


def demo(request: HttpRequest) -> HttpResponse:
    """Opens WebSockets and draws the state of each, without inline scripts or styles. Tells the limit in force."""
    pools = conf.current().pools
    pool = pools.get(HERD, pools[conf.DEFAULT_POOL])
    numbers = look().numbers
    limits = {} if numbers is None else {each.name: each.limit for each in numbers.pools}
    context = {
        "pool": pool,
        "limit": limits.get(pool.name, pool.max_connections),
        "path": "/ws/herd/" if pool.name == HERD else "/ws/echo/",
        "restarts": RESTARTER in os.environ,
    }
    response = render(request, "demo/index.html", context)
    response.headers["Content-Security-Policy"] = "default-src 'self'"
    return response


@csrf_protect
@require_POST
def restart(request: HttpRequest) -> HttpResponse:
    """Request a restart of all workers, including this one; 404 outside of ``manage.py demo``."""
    if RESTARTER not in os.environ:
        raise Http404
    os.kill(int(os.environ[RESTARTER]), signal.SIGUSR1)
    return HttpResponse(status=202)


def blank(request: HttpRequest) -> HttpResponse:
    """Only the client, from the tag, the module, or both, as the query says; scripts need the nonce."""
    nonce = secrets.token_urlsafe(16)
    response = render(request, "demo/blank.html", {"csp_nonce": nonce, "loads": request.GET})
    policy = f"default-src 'none'; img-src 'self'; connect-src 'self'; script-src 'nonce-{nonce}' 'strict-dynamic'"
    response.headers["Content-Security-Policy"] = policy
    return response

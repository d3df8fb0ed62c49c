"""The demo page, and a blank one for tests."""

import secrets

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from channels_admission import conf


def demo(request: HttpRequest) -> HttpResponse:
    """Opens WebSockets and draws what becomes of each; needs nothing inline."""
    limit = conf.current().pool(conf.DEFAULT_POOL).max_connections
    response = render(request, "demo/index.html", {"limit": limit})
    response.headers["Content-Security-Policy"] = "default-src 'self'"
    return response


def blank(request: HttpRequest) -> HttpResponse:
    """Nothing but the client, from the tag, from the module, or from both, as the query says; only by its nonce."""
    nonce = secrets.token_urlsafe(16)
    response = render(request, "demo/blank.html", {"csp_nonce": nonce, "loads": request.GET})
    policy = f"default-src 'none'; img-src 'self'; connect-src 'self'; script-src 'nonce-{nonce}' 'strict-dynamic'"
    response.headers["Content-Security-Policy"] = policy
    return response

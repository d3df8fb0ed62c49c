"""The demo page."""

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from channels_admission import conf


def demo(request: HttpRequest) -> HttpResponse:
    """Opens WebSockets and draws what becomes of each; needs nothing inline."""
    limit = conf.current().pool(conf.DEFAULT_POOL).max_connections
    response = render(request, "demo/index.html", {"limit": limit})
    response.headers["Content-Security-Policy"] = "default-src 'self'"
    return response

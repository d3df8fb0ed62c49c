"""The ASGI application: pages with their static files, and WebSockets behind the admission middleware."""

import os

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from channels.security.websocket import AllowedHostsOriginValidator
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.asgi import get_asgi_application
from django.urls import re_path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
pages = get_asgi_application()

# Consumers may need models, and so Django set up.
from channels_admission.lifespan import AdmissionLifespan  # noqa: E402
from channels_admission.middleware import AdmissionMiddleware  # noqa: E402
from channels_admission.readiness import AdmissionReadiness  # noqa: E402

from demo import routing  # noqa: E402

application = ProtocolTypeRouter(
    {
        "lifespan": AdmissionLifespan(),
        "http": AdmissionReadiness(ASGIStaticFilesHandler(pages)),
        "websocket": AllowedHostsOriginValidator(
            URLRouter(
                [
                    *routing.with_mixin,
                    re_path("", AdmissionMiddleware(AuthMiddlewareStack(URLRouter(routing.behind_middleware)))),
                ]
            )
        ),
    }
)

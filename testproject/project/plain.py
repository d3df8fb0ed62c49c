"""The ASGI application of the README's first example, without a lifespan."""

import os

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
pages = get_asgi_application()

# Consumers may need models, and so Django set up.
from channels_admission.middleware import AdmissionMiddleware  # noqa: E402

from demo import routing  # noqa: E402

application = ProtocolTypeRouter(
    {"http": pages, "websocket": AdmissionMiddleware(URLRouter(routing.behind_middleware))}
)

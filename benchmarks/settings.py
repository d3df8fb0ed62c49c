"""Django's settings for the servers that are measured: nothing but what a WebSocket needs."""

import json
import os

SECRET_KEY = "for benchmarks only"
INSTALLED_APPS = ["channels", "channels_admission"]
ASGI_APPLICATION = "benchmarks.application.application"
REDIS_URL = os.environ["REDIS_URL"]
# The load comes from the servers' own machine, and what it takes of it would count as their lag.
CHANNELS_ADMISSION = {
    "LEDGER": REDIS_URL,
    "MAX_CONNECTIONS": 100_000,
    "PRESSURE": {"lag": None},
    **json.loads(os.environ["CHANNELS_ADMISSION"]),
}

"""Django settings of the measured servers: only what a WebSocket needs."""

import json
import os

SECRET_KEY = "for benchmarks only"
INSTALLED_APPS = ["channels", "channels_admission"]
ASGI_APPLICATION = "benchmarks.application.application"
REDIS_URL = os.environ["REDIS_URL"]
# The clients run on the servers' machine, and their load would count as lag.
CHANNELS_ADMISSION = {
    "LEDGER": REDIS_URL,
    "MAX_CONNECTIONS": 100_000,
    "PRESSURE": {"lag": None},
    **json.loads(os.environ["CHANNELS_ADMISSION"]),
}

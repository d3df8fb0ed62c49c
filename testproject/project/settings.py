"""Settings of the test project, which serves the demo, the integration tests and the screenshots."""

import json
import os
from pathlib import Path

import redis

BASE_DIR = Path(__file__).resolve().parent.parent
REDIS_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")

SECRET_KEY = "for the test project only"
DEBUG = True
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]", "testserver", *os.environ.get("ALLOWED_HOSTS", "").split()]
ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"
USE_TZ = True
LANGUAGE_CODE = "en"
STATIC_URL = "/static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "channels",
    "channels_admission",
    "demo",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.locale.LocaleMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("TESTPROJECT_DB", BASE_DIR / "db.sqlite3"),
    }
}
LAYERS = {
    "core": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        # redis-py 8 stops reading after five seconds, as long as the layer waits for a message.
        "CONFIG": {"hosts": [{"address": REDIS_URL, "socket_timeout": None}]},
    },
    "pubsub": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [{"address": REDIS_URL, "retry_on_error": [redis.exceptions.ConnectionError]}]},
    },
}
CHANNEL_LAYERS = {"default": LAYERS[os.environ.get("TESTPROJECT_LAYER", "core")]}
# The demo and the integration tests hand their settings to the workers through the environment.
# The clients run on the workers' machine, and their load would count as lag.
CHANNELS_ADMISSION = {
    "PRESSURE": {"lag": None},
    **json.loads(os.environ.get("CHANNELS_ADMISSION", '{"MAX_CONNECTIONS": 50}')),
}

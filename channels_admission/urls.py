"""For ``path("admission/", include("channels_admission.urls"))``."""

from django.urls import path

from . import endpoints

app_name = "channels_admission"
urlpatterns = [
    path("readiness/", endpoints.readiness, name="readiness"),
    path("status.json", endpoints.status, name="status"),
    path("metrics", endpoints.metrics, name="metrics"),
]

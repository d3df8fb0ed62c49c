"""The URLs to include: ``path("admission/", include("channels_admission.urls"))``."""

from django.urls import path

from .web import views

app_name = "channels_admission"
urlpatterns = [
    path("readiness/", views.readiness, name="readiness"),
    path("status.json", views.status, name="status"),
    path("metrics", views.metrics, name="metrics"),
    path("metrics/workers", views.worker_metrics, name="worker_metrics"),
]

"""URLs of the demo page, the blank page, the admin, and monitoring."""

from django.contrib import admin
from django.urls import include, path

from demo.views import blank, demo, restart

urlpatterns = [
    path("", demo, name="demo"),
    path("restart/", restart, name="restart"),
    path("blank/", blank),
    path("admin/", admin.site.urls),
    path("admission/", include("channels_admission.urls")),
]

"""The demo page, the blank page and the admin."""

from django.contrib import admin
from django.urls import path

from demo.views import blank, demo, restart

urlpatterns = [
    path("", demo, name="demo"),
    path("restart/", restart, name="restart"),
    path("blank/", blank),
    path("admin/", admin.site.urls),
]

"""The demo page and the admin."""

from django.contrib import admin
from django.urls import path

from demo.views import demo

urlpatterns = [
    path("", demo, name="demo"),
    path("admin/", admin.site.urls),
]

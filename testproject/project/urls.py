"""The demo page and the admin."""

from demo.views import demo
from django.contrib import admin
from django.urls import path

urlpatterns = [
    path("", demo, name="demo"),
    path("admin/", admin.site.urls),
]

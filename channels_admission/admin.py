"""The admin: a status page in the place of a change list, its feed, and the panel on the start page."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path
from django.utils.decorators import method_decorator
from django.utils.text import capfirst
from django.views.decorators.http import require_safe

from . import views
from .models import Pool

INDEX_TEMPLATE = "channels_admission/index.html"


@admin.register(Pool)
class PoolAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Pools and workers to look at, for users with the permission ``channels_admission.view_pool``."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_urls(self) -> list[URLPattern]:
        """The page and its feed only: the other views of a model ask for a table, and there is none."""
        return [
            path("", self._guarded(self.changelist_view), name="channels_admission_pool_changelist"),
            path("feed/", self._guarded(self.feed_view), name="channels_admission_pool_feed"),
            path("history/", self._guarded(self.past_view), name="channels_admission_pool_history"),
        ]

    @method_decorator(require_safe)
    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": capfirst(self.opts.verbose_name_plural),
            "opts": self.opts,
            "look": views.look(),
            **(extra_context or {}),
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, "channels_admission/status.html", context)

    @method_decorator(require_safe)
    def feed_view(self, request: HttpRequest) -> HttpResponse:
        return views.feed(request)

    @method_decorator(require_safe)
    def past_view(self, request: HttpRequest) -> HttpResponse:
        return views.past(request)

    def _guarded(self, view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
        """``view`` for logged-in staff with the view permission; never cached."""

        def look(request: HttpRequest) -> HttpResponse:
            if not self.has_view_permission(request):
                raise PermissionDenied
            return view(request)

        return self.admin_site.admin_view(look)


if admin.site.index_template is None:
    admin.site.index_template = INDEX_TEMPLATE

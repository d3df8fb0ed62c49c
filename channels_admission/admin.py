"""The admin: a status page instead of a change list, with its feeds and actions."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.decorators import method_decorator
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from .controls import Change
from .exceptions import AdmissionError, ControlError
from .models import Pool
from .status import cache
from .status.values import Snapshot
from .web import views
from .web.forms import ActionForm

LATEST, PAGE = 10, 100
"""Changes on the status page, and on a page of all changes."""


@admin.register(Pool)
class PoolAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Pools and workers, for users with the permission ``channels_admission.view_pool``.

    Setting limits, pausing, dry runs and drains also need ``channels_admission.change_pool``.
    """

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def get_urls(self) -> list[URLPattern]:
        """The page, its feeds and its actions only: a model's other views need a database table."""
        return [
            path("", self._guarded(self.changelist_view), name="channels_admission_pool_changelist"),
            path("feed/", self._guarded(self.feed_view), name="channels_admission_pool_feed"),
            path("history/", self._guarded(self.past_view), name="channels_admission_pool_history"),
            path("changes/", self._guarded(self.changes_view), name="channels_admission_pool_changes"),
            path("act/", self._guarded(self.act_view, self.may_act), name="channels_admission_pool_act"),
        ]

    @method_decorator(require_safe)
    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": capfirst(self.opts.verbose_name_plural),
            "opts": self.opts,
            "look": cache.look(),
            "may_act": self.may_act(request),
            "changes": _changes()[:LATEST],
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

    @method_decorator(require_safe)
    def changes_view(self, request: HttpRequest) -> TemplateResponse:
        """All changes that were made here, the newest first."""
        context = {
            **self.admin_site.each_context(request),
            "title": _("Changes made here"),
            "opts": self.opts,
            "page": Paginator(_changes(), PAGE).get_page(request.GET.get("p")),
            "page_url": self._page(),
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, "channels_admission/changes.html", context)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Require ``view_pool`` itself; Django would accept ``change_pool`` too."""
        return request.user.has_perm("channels_admission.view_pool")

    def may_act(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request) and request.user.has_perm("channels_admission.change_pool")

    @method_decorator(require_POST)
    def act_view(self, request: HttpRequest) -> HttpResponse:
        """Ask for confirmation, or carry out a confirmed action."""
        form = ActionForm(request.POST)
        if not form.is_valid():
            for name, errors in form.errors.items():
                messages.error(request, f"{form.fields[name].label}: {' '.join(map(str, errors))}")
        elif "confirmed" in request.POST:
            self._act(request, form)
        elif problem := form.problem(now := cache.look().now):
            messages.error(request, problem)
        else:
            return self._ask(request, form, now)
        return HttpResponseRedirect(self._page() + form.place)

    def _page(self) -> str:
        return reverse("admin:channels_admission_pool_changelist", current_app=self.admin_site.name)

    def _ask(self, request: HttpRequest, form: ActionForm, now: Snapshot) -> HttpResponse:
        context = {
            **self.admin_site.each_context(request),
            "title": _("Are you sure?"),
            "opts": self.opts,
            "question": form.question(now),
            "warning": form.warning(now),
            "given": form.given,
            "page_url": self._page() + form.place,
        }
        request.current_app = self.admin_site.name
        return TemplateResponse(request, "channels_admission/confirm.html", context)

    def _act(self, request: HttpRequest, form: ActionForm) -> None:
        problem = None
        try:
            changes = form.act(by=request.user.get_username())
        except AdmissionError as error:
            changes, problem = error.made, error
        for change in changes:
            _log(request, change)
            messages.success(request, form.done(change.pool))
        if problem:
            messages.error(request, problem.translated() if isinstance(problem, ControlError) else str(problem))
        elif not changes:
            messages.info(request, _("Nothing to change."))

    def _guarded(
        self, view: Callable[..., HttpResponse], may: Callable[[HttpRequest], bool] | None = None
    ) -> Callable[..., HttpResponse]:
        """``view`` for staff with the permission to view, or that ``may`` accepts; never cached."""
        may = may or self.has_view_permission

        def look(request: HttpRequest) -> HttpResponse:
            if not may(request):
                raise PermissionDenied
            return view(request)

        return self.admin_site.admin_view(look)


def _changes() -> QuerySet[LogEntry]:
    """The log entries of all changes, the newest first."""
    kind = ContentType.objects.get_for_model(Pool)
    return LogEntry.objects.filter(content_type=kind).select_related("user").order_by("-action_time", "-pk")


def _log(request: HttpRequest, change: Change) -> None:
    """Record a change, as the object's name too: the start page lists recent actions by that alone."""
    LogEntry.objects.create(
        user_id=request.user.pk,  # type: ignore[misc]
        content_type=ContentType.objects.get_for_model(Pool),
        object_id=change.pool,
        object_repr=str(change)[:200],
        action_flag=CHANGE,
        change_message=str(change),
    )

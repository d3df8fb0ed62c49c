"""The Django app."""

from django.apps import AppConfig, apps
from django.utils.translation import gettext_lazy as _

from .management import checks
from .runtime import daphne

INDEX_TEMPLATE = "channels_admission/index.html"


class ChannelsAdmissionConfig(AppConfig):
    name = "channels_admission"
    verbose_name = _("Connection admission")

    def ready(self) -> None:
        checks.register()
        if daphne.is_loaded():
            daphne.extend()
        if apps.is_installed("django.contrib.admin"):
            _show_panel()


def _show_panel() -> None:
    """Set the default admin site's index template to the one with the panel, unless the site has its own."""
    # Imported here, since only sites with the admin need its modules.
    from django.contrib import admin

    if admin.site.index_template is None:
        admin.site.index_template = INDEX_TEMPLATE

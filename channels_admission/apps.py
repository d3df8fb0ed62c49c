"""The Django app."""

from django.apps import AppConfig
from django.utils.translation import gettext_lazy as _


class ChannelsAdmissionConfig(AppConfig):
    name = "channels_admission"
    verbose_name = _("Connection admission")

    def ready(self) -> None:
        from . import checks
        from .runtime import daphne

        checks.register()
        if daphne.is_loaded():
            daphne.extend()

"""The shared half of admission: how many slots each worker holds."""

from django.utils.module_loading import import_string

from ..conf import Settings
from .base import Ledger


def open_ledger(settings: Settings) -> Ledger:
    """The ledger the settings name, for use on the running event loop; connects when first asked."""
    ledger: Ledger = import_string(settings.ledger.backend)(settings)
    return ledger

"""A model without a table, which gives the admin an entry and permissions."""

from django.db import models
from django.utils.translation import gettext_lazy as _


class _NoRows(models.Manager["Pool"]):
    """Returns no rows and never queries the database, so that ``dumpdata`` and similar commands work."""

    def get_queryset(self) -> models.QuerySet["Pool"]:
        return super().get_queryset().none()


class Pool(models.Model):
    """A connection pool; its state is in the ledger.

    Its permissions are ``channels_admission.view_pool`` and ``channels_admission.change_pool``.
    """

    name = models.CharField(max_length=40, primary_key=True)

    objects = _NoRows()

    class Meta:
        managed = False
        default_permissions = ("view", "change")
        base_manager_name = "objects"
        verbose_name = _("connection pool")
        verbose_name_plural = _("connection pools")

    def __str__(self) -> str:
        return self.name

"""System checks: one per setting, and others for mistakes that only show under load."""

from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings as django_settings
from django.core import checks
from django.core.files.storage import storages
from django.urls import reverse

from .. import conf
from ..conf import sizing
from ..conf.ledger import MEMORY
from ..conf.quotas import OLDEST
from ..overload.monitors import Descriptors
from ..runtime import daphne
from ..status.diagnostics.deploy import greatest_files, limits_conf, systemd
from ..templatetags.channels_admission import SCRIPT
from . import routing
from .layers import check_channel_layer, check_layer_in_memory, check_shared_redis, in_production
from .memory import check_memory

TAG = "channels_admission"

MEMORY_IN_PRODUCTION = "channels_admission.W001"
DAPHNE_NOT_EXTENDED = "channels_admission.W003"
PACE_WITHOUT_RATE = "channels_admission.W004"
SOFT_LIMIT_TOO_LOW = "channels_admission.W005"
HARD_LIMIT_TOO_LOW = "channels_admission.W006"
METRICS_WITHOUT_LIBRARY = "channels_admission.W009"
FILES_NOT_COLLECTED = "channels_admission.W012"
MAIL_WITHOUT_ADMINS = "channels_admission.W013"
SHARES_WITHOUT_CLASSES = "channels_admission.W010"
SETTING_MISNAMED = "channels_admission.W023"
OLDEST_WITHOUT_RATE = "channels_admission.W070"
SAME_NAME = 0.85
"""How similar a name must be to be taken for another's, from 0 to 1."""


def register() -> None:
    """Register the checks of this module."""
    for check in (
        check_settings, check_name, check_ledger, check_alerts, check_pace, check_shares, check_quotas,
        check_descriptors, check_channel_layer, check_layer_in_memory, check_daphne, check_metrics, *routing.CHECKS,
    ):  # fmt: skip
        checks.register(check, TAG)  # type: ignore[call-overload]
    for check in (check_memory, check_shared_redis, check_static_files):
        checks.register(check, TAG, deploy=True)  # type: ignore[call-overload]


def check_settings(app_configs: list[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Report every problem of ``CHANNELS_ADMISSION`` under the id of its key."""
    return [checks.Error(problem.message, hint=problem.hint, id=problem.id) for problem in conf.examine()[1]]


def check_name(app_configs: list[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Warn of a misspelt name of the setting, under which nothing reads it."""
    if hasattr(django_settings, conf.NAME):
        return []
    return [
        checks.Warning(
            f"The settings have {name}, but no {conf.NAME}: all defaults are in force.",
            hint=f"Name it {conf.NAME}.",
            id=SETTING_MISNAMED,
        )
        for name in get_close_matches(conf.NAME, dir(django_settings), 1, SAME_NAME)
    ]


def check_ledger(app_configs: list[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Warn of a site in production whose workers each count alone."""
    settings = in_production()
    if settings is None or settings.ledger.backend != MEMORY:
        return []
    return [
        checks.Warning(
            "With the memory ledger every worker process has the whole limit for itself, and ws_status sees none of "
            "them.",
            hint=f"Set {conf.NAME}['LEDGER'] to a Redis URL, or use a channels_redis channel layer: its Redis is the "
            "default.",
            id=MEMORY_IN_PRODUCTION,
        )
    ]


def check_alerts(app_configs: list[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Warn of alerts by mail that have no recipients."""
    settings, _problems = conf.examine()
    if settings is None or not settings.alerts.mail_admins or django_settings.ADMINS:
        return []
    return [
        checks.Warning(
            "ALERTS has MAIL_ADMINS, but the setting ADMINS is empty: no mail is sent.",
            hint="Set ADMINS to the recipients, or remove MAIL_ADMINS.",
            id=MAIL_WITHOUT_ADMINS,
        )
    ]


def check_pace(app_configs: list[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Warn of pools with a slow start or a burst, but without a rate."""
    return [
        checks.Warning(
            f"{' and '.join(idle)} without effect in the pool {pool.name!r}: it has no CONNECT_RATE.",
            hint="Set CONNECT_RATE to the admissions per second that the site can take, or remove what needs it.",
            id=PACE_WITHOUT_RATE,
        )
        for pool in _pools()
        if pool.connect_rate is None
        and (idle := [key for key in ("SLOW_START", "CONNECT_BURST") if getattr(pool, key.lower())])
    ]


def check_shares(app_configs: list[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Warn of pools with shares, but without a function that classifies connections."""
    return [
        checks.Warning(
            f"SHARES has no effect in the pool {pool.name!r}, which has no CLASSIFY.",
            hint="Set CLASSIFY to the dotted path of a function from a scope to the name of a class, or remove SHARES.",
            id=SHARES_WITHOUT_CLASSES,
        )
        for pool in _pools()
        if pool.shares and pool.classify is None
    ]


def _pools() -> Iterable[conf.PoolSettings]:
    """Every pool; none if the settings have problems."""
    settings, _problems = conf.examine()
    return settings.pools.values() if settings else ()


def check_quotas(app_configs: list[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Warn of quotas that close the oldest connection, and limit no attempts."""
    return [
        checks.Warning(
            f"The quota {quota.name!r} of the pool {pool.name!r} closes the oldest connection for each new one, and "
            "limits no attempts: a client that keeps opening connections makes the workers close as many.",
            hint="Give the quota a 'rate', such as {'key': 'user', 'max': 3, 'full': 'oldest', 'rate': 1}.",
            id=OLDEST_WITHOUT_RATE,
        )
        for pool in _pools()
        for quota in pool.quotas
        if quota.full == OLDEST and not quota.rate
    ]


def check_descriptors(app_configs: list[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Warn of a site in production where a worker may open too few files for its part of the limit."""
    settings = in_production()
    if settings is None:
        return []
    soft, hard, needed = Descriptors().allowed(), Descriptors().ceiling(), sizing.descriptors(settings)
    if soft is None or soft >= needed:
        return []
    takes = (
        f"a worker needs {needed:,} for its part of the limit, {sizing.connections(settings):,} connections. "
        "It will refuse clients while the pool has room."
    )
    hint = _raise_limit(settings)
    if hard is None or hard >= needed:
        return [
            checks.Warning(
                f"A process may open at most {soft:,} files here, but {takes}", hint=hint, id=SOFT_LIMIT_TOO_LOW
            )
        ]
    message = f"A process may open at most {hard:,} files here, even with its soft limit raised, but {takes}"
    return [checks.Warning(message, hint=_raise_greatest(settings) + hint, id=HARD_LIMIT_TOO_LOW)]


def _raise_greatest(settings: conf.Settings) -> str:
    """The first step if the system's own limit is too low."""
    line = greatest_files(settings)
    return f"Set {line} with sysctl first. " if line else ""


def _raise_limit(settings: conf.Settings) -> str:
    """How to raise a worker's limit of open files."""
    soft, hard = (f"'{line}'" for line in limits_conf(settings))
    return (
        f"Write {systemd(settings)} under [Service] in the workers' systemd unit, or {soft} and {hard} in "
        "/etc/security/limits.conf if they are started from a login. Set EXPECTED_WORKERS to the number that you run. "
        "Then run this check in the same way as the workers, since each process has limits of its own."
    )


def check_metrics(app_configs: list[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Warn of a URL for metrics without the library that writes them."""
    if find_spec("prometheus_client") or not _has_url("channels_admission:metrics"):
        return []
    return [
        checks.Warning(
            "The metrics of channels_admission.urls answer 501: the library prometheus_client is not installed.",
            hint="Install it with: pip install 'channels-admission[prometheus]'. If you do not use the metrics, add "
            f"{METRICS_WITHOUT_LIBRARY!r} to SILENCED_SYSTEM_CHECKS.",
            id=METRICS_WITHOUT_LIBRARY,
        )
    ]


def _has_url(name: str) -> bool:
    # Django's own checks report a URLconf that cannot be imported.
    with suppress(Exception):
        return bool(reverse(name))
    return False


def check_static_files(app_configs: list[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Warn of a site in production whose manifest of static files lacks the package's script for pages."""
    if in_production() is None or _is_collected(SCRIPT):
        return []
    return [
        checks.Warning(
            f"The manifest of static files has no {SCRIPT!r}: a page with {{% admission_socket %}} fails, or its "
            "browser says 'AdmissionSocket is not defined'. The status page in the admin lacks its files as well.",
            hint="Run manage.py collectstatic where the site is built. If the site uses neither, add "
            f"{FILES_NOT_COLLECTED!r} to SILENCED_SYSTEM_CHECKS.",
            id=FILES_NOT_COLLECTED,
        )
    ]


def _is_collected(name: str) -> bool:
    """Whether the manifest of static files has ``name``; also True without a manifest that can be read."""
    # A storage that cannot be opened fails with its own error at each page.
    with suppress(Exception):
        from django.contrib.staticfiles.storage import ManifestFilesMixin

        storage: Any = storages["staticfiles"]
        if apps.is_installed("django.contrib.staticfiles") and isinstance(storage, ManifestFilesMixin):
            return name in storage.hashed_files
    return True


def check_daphne(app_configs: list[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Warn of a loaded Daphne whose clients get 1011 instead of the refusal."""
    if not daphne.is_loaded() or daphne.extend():
        return []
    return [
        checks.Warning(
            f"Daphne {version('daphne')} cannot be patched to send close code 1013: clients get 1011 without a reason.",
            hint=f"Set {conf.NAME}['CLOSE_CODE'] to a private code that this Daphne can send, such as 4013, and treat "
            "it like 1013 in the client.",
            id=DAPHNE_NOT_EXTENDED,
        )
    ]

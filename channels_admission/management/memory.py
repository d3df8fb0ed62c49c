"""The system check of a worker's memory, by what the connections of the site take."""

import asyncio
from contextlib import suppress
from typing import Any

from django.apps import AppConfig
from django.core import checks

from .. import conf
from ..conf import sizing
from ..exceptions import LedgerError
from ..overload.memory import Memory
from ..runtime.servers import installed
from ..status import capacity
from ..status.capacity import WorkerFootprint
from .layers import in_production

MEMORY_TOO_SMALL = "channels_admission.W007"
READ_TIMEOUT = 0.5
"""Seconds in which the ledger may tell what was measured; without an answer the figures of the servers are used."""


def check_memory(app_configs: list[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Warn of a site in production where a worker has too little memory for its part of the limit."""
    settings = in_production()
    if settings is None:
        return []
    base, connection, why = _needs(_workers(settings))
    needed, available = sizing.memory(settings, base, connection), Memory(settings.memory_limit).total()
    if needed <= available:
        return []
    each, together = _share_a_machine(sizing.workers(settings))
    part = sizing.connections(settings)
    return [
        checks.Warning(
            f"{each} needs about {_mebibytes(needed)} for its part of the limit, {part:,} connections of "
            f"{connection >> 10:,} KiB{together}, but {_mebibytes(available)} are available here. {why}",
            hint="Give the workers more memory, or run workers on more machines and raise EXPECTED_WORKERS, or lower "
            f"{conf.NAME}['MAX_CONNECTIONS']. manage.py ws_capacity proposes limits.",
            id=MEMORY_TOO_SMALL,
        )
    ]


def _workers(settings: conf.Settings) -> tuple[WorkerFootprint, ...]:
    """The workers that run now, where the ledger tells them at once."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        with suppress(LedgerError):
            return asyncio.run(capacity.collect(settings, READ_TIMEOUT))
    return ()


def _needs(workers: tuple[WorkerFootprint, ...]) -> tuple[int, int, str]:
    """Bytes of a worker, bytes of a connection, and where they are from."""
    if cost := capacity.measured(workers):
        base = max(capacity.base_of(worker, cost) for worker in workers)
        return base, cost.memory, f"Measured on {cost.connections:,} connections of the workers that run."
    servers = {worker.server for worker in workers} or set(installed())
    server = min(servers, key=lambda name: sizing.figure(name).spoken, default="")
    figure = sizing.figure(server)
    return figure.worker << 20, figure.spoken << 10, f"By the figure for {server or 'the heaviest server'}."


def _share_a_machine(workers: int) -> tuple[str, str]:
    """The subject of the message, and an addition about workers on one machine."""
    if workers == 1:
        return "A worker", ""
    return f"Each of {workers:,} workers", f" ({workers:,} times that if they share a machine)"


def _mebibytes(size: int) -> str:
    return f"{size >> 20:,} MiB"

"""The shared half of admission: how many slots each worker holds."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from django.utils.module_loading import import_string

from ..conf import Settings
from ..exceptions import LedgerUnavailable
from .base import Ledger

NO_ANSWER = "no answer within"
"""How the error begins where a ledger is silent."""


def open_ledger(settings: Settings) -> Ledger:
    """The ledger the settings name, for use on the running event loop; connects when first asked."""
    ledger: Ledger = import_string(settings.ledger.backend)(settings)
    return ledger


@asynccontextmanager
async def connected(ledger: Ledger, within: float) -> AsyncIterator[Ledger]:
    """A ledger for a look or a change of ``within`` seconds, of which connecting is a part; closed at the end.

    :exc:`~..exceptions.LedgerUnavailable` when they are over.
    """
    try:
        async with asyncio.timeout(within):
            await ledger.connect(within)
            yield ledger
    except TimeoutError:
        raise LedgerUnavailable(f"{NO_ANSWER} {within:g} s") from None
    finally:
        await ledger.aclose()

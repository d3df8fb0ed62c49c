"""Limiters of the pool ``default`` for tests."""

import math

from channels_admission.conf import Settings
from channels_admission.ledger.base import Ledger
from channels_admission.limiter.limiter import Limiter
from channels_admission.limiter.registry import limiter_of
from channels_admission.limiter.state import State
from channels_admission.runtime.identity import Worker


def limiter_over(settings: Settings, ledger: Ledger) -> Limiter:
    """A limiter of a worker of its own, which asks ``ledger``."""
    return Limiter(State(settings.pool("default"), Worker()), settings, ledger)


def patient_limiter() -> Limiter:
    """The event loop's own limiter. Its entrance refuses nobody: a busy or traced machine is no herd."""
    limiter = limiter_of("default")
    limiter.entrance._longest = math.inf
    return limiter

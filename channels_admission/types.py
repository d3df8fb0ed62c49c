"""Public types: the values in signals, in the results of :mod:`.controls`, and in functions of sites."""

from .core.counters import Reason
from .core.levels import Edge, Level
from .core.overrides import EVERY_WORKER, Controls, Drain, Order
from .core.protocol import Refusal
from .core.readings import Load

__all__ = ["EVERY_WORKER", "Controls", "Drain", "Edge", "Level", "Load", "Order", "Reason", "Refusal"]

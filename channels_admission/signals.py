"""Django signals: what a site may want to be told of. They have no sender; a receiver that fails harms nobody."""

from django.dispatch import Signal

capacity_warning = Signal()
"""A pool is filled from ``WARN_AT`` on. With ``pool``, its name, ``edge``, an :class:`~.levels.Edge`, and ``worker``,
the id of the one that tells: one of all workers, once for each edge."""
capacity_critical = Signal()
"""A pool is filled from 0.9 on; as :data:`capacity_warning`."""
capacity_full = Signal()
"""Every slot of a pool is held; as :data:`capacity_warning`."""
capacity_recovered = Signal()
"""A pool is five points below the threshold of the level that it had; ``edge.level`` says where it is now. Otherwise
as :data:`capacity_warning`."""

ledger_lost = Signal()
"""A worker decides alone, since the ledger is away. With ``pool``, ``worker`` and ``error``."""
ledger_regained = Signal()
"""The ledger answers a worker again. With ``pool`` and ``worker``."""

connection_admitted = Signal()
"""A handshake got a slot. With ``pool``, its name, ``worker``, the id of the one that decided, and
``class_name``, that of its class, or None where it has none."""
connection_refused = Signal()
"""A handshake got none. With ``pool``, ``worker``, ``class_name``, ``reason``, a :class:`~.counters.Reason`,
``quota:NAME``, ``attempts:NAME`` or the name of a monitor, and ``retry_after``, the client's hint in seconds."""

"""Django signals for the events of pools, ledger and connections. They have no sender; failing receivers do no harm."""

from django.dispatch import Signal

capacity_warning = Signal()
"""A pool has reached ``WARN_AT``. Arguments: ``pool``, its name; ``edge``, an :class:`~.types.Edge`; ``worker``, the id
of the worker that sends it. One of all workers sends each edge, once."""
capacity_critical = Signal()
"""A pool has reached 0.9 of its limit. Arguments as for :data:`capacity_warning`."""
capacity_full = Signal()
"""Every slot of a pool is held. Arguments as for :data:`capacity_warning`."""
capacity_recovered = Signal()
"""A pool has fallen five points below the threshold of its former level; ``edge.level`` is the new one. Arguments as
for :data:`capacity_warning`."""

ledger_lost = Signal()
"""A worker decides alone because the ledger is away. Arguments: ``pool``, ``worker`` and ``error``."""
ledger_regained = Signal()
"""A worker has reached the ledger again. Arguments: ``pool`` and ``worker``."""

connection_admitted = Signal()
"""A handshake was admitted. Arguments: ``pool``, its name; ``worker``, the id of the worker that decided;
``class_name``, the name of its class or None."""
connection_refused = Signal()
"""A handshake was refused. Arguments: ``pool``, ``worker`` and ``class_name`` as above; ``reason``, a
:class:`~.types.Reason`, ``quota:NAME``, ``attempts:NAME`` or the name of a monitor; ``retry_after`` in seconds."""

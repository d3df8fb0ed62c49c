"""Django signals: what a site may want to be told of. They have no sender; a receiver that fails harms nobody."""

from django.dispatch import Signal

connection_admitted = Signal()
"""A handshake got a slot. With ``pool``, its name, and ``worker``, the id of the one that decided."""
connection_refused = Signal()
"""A handshake got none. With ``pool``, ``worker``, ``reason``, a :class:`~.types.Reason` or the name of a monitor, and
``retry_after``, the client's hint in seconds."""

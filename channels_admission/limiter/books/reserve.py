"""A worker's reserve: slots that the ledger counts for it before their handshakes come. Pure."""

LEAST = 4
"""Slots, where the room allows them, so that a lone handshake need not wait."""


class Reserve:
    """How large the reserve should be: for the handshakes of one heartbeat, as far as the room allows."""

    def __init__(self, *, is_possible: bool) -> None:
        self._is_possible = is_possible
        self._admitted = self._admitted_before = 0
        """Handshakes of this heartbeat and of the one before."""
        self._begun = 0
        """All handshakes until this heartbeat began."""
        self.fit(LEAST)

    def count(self, admitted: int, *, heartbeat: bool) -> None:
        """So many handshakes have been admitted by now; a ``heartbeat`` begins, or not."""
        self._admitted = admitted - self._begun
        if heartbeat:
            self._begun, self._admitted_before = admitted, self._admitted

    def fit(self, most: int) -> None:
        """The room allows so many slots."""
        self.size = min(most, max(LEAST, self._admitted, self._admitted_before)) if self._is_possible else 0
        """Slots; the ledger gives fewer where it must."""
        self.least, self.most = self.size / 2, 2 * self.size
        """Slots that are counted and not held, within which no call is made for them alone."""
